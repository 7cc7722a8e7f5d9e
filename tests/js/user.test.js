// Whose connection it is: tokens that are kept, refused, due; callbacks that have none; another user.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient, Unauthorized } from '../../pushserver/web/static/pushclient/index.js';
import { rig, nextTurn, tokenOf, WELCOME } from './fakes.js';

const BOB = { userId: 'bob', channels: ['user:bob', 'system'], inbox: { offset: 0, epoch: 'b', acked: 0, pending: 0 } };
const task = { taskId: 't', userId: '42', status: 'running', percentage: 5, version: 1, createdAt: 1 };
const note = (offset, user = '42') => ['user_notification', { n: offset }, { channel: `user:${user}`, offset, epoch: 'i1', messageId: `n${offset}` }];

test('another user\'s token: the old link ends at once, nothing of the last user is left, and it is told', async () => {
  const r = rig(createClient, { token: tokenOf('42') });
  const shown = [];
  r.client.on('user_notification', (push) => shown.push(push.data.n));
  r.client.subscribeChannel('news', (push) => shown.push(push.data), { since: { offset: 3, epoch: 'e' } });
  const old = await r.connect({ tasks: [task] });
  const written = r.client.publish('news', 'of 42');
  old.receive(...note(1));
  r.client.setToken(tokenOf('bob'));
  assert.ok(old.closed);
  old.receive(...note(2));
  assert.equal(r.client.getState().tasks.size, 0);
  assert.equal(r.client.getState().userId, null);
  await assert.rejects(written, { code: 'CLOSED', message: 'the user changed' });
  const queued = r.client.publish('news', 'of bob');
  await r.welcome(BOB);
  assert.deepEqual(r.received('user_changed'), [{ from: '42', to: 'bob' }]);
  const socket = r.socket();
  assert.equal(socket.of('auth')[0].data.token, tokenOf('bob'));
  assert.equal(socket.of('auth')[0].data.positions, undefined);
  assert.deepEqual(socket.of('subscribe')[0].data.channels, ['news', 'system']);
  assert.deepEqual(socket.of('publish').map(({ data }) => data.data), ['of bob']);
  socket.answer('publish', 'published', { messageId: 'x' });
  await queued;
  assert.deepEqual(shown, [1]);
});

test('another user whom only the server can tell', async () => {
  const r = rig(createClient, { token: 'opaque-1' });
  const old = await r.connect({ tasks: [task] });
  r.client.setToken('opaque-2');
  await nextTurn();
  old.answer('auth', 'error', { code: 'PERMISSION_DENIED', message: 'another user' });
  assert.ok(old.closed);
  assert.equal(r.client.getState().tasks.size, 0);
  await r.welcome(BOB);
  assert.deepEqual(r.received('user_changed'), [{ from: '42', to: 'bob' }]);
  assert.equal(r.socket().of('auth')[0].data.token, 'opaque-2');
  assert.deepEqual(r.received('error'), []);
});

test('a callback that names another user at the next refresh, and one whose user changed while away', async () => {
  let user = '42';
  const r = rig(createClient, { token: () => tokenOf(user) });
  const socket = await r.connect({ expiresAt: r.clock.time + 20_000 });
  socket.receive('pong', { timestamp: r.clock.time });
  user = 'bob';
  await r.clock.advance(18_000);
  assert.ok(socket.closed);
  await r.welcome(BOB);
  assert.equal(r.client.getState().userId, 'bob');
  user = '42';
  r.socket().drop(3005, 'expired');
  await r.clock.advance(1000);
  await r.welcome();
  assert.deepEqual(r.received('user_changed'), [{ from: '42', to: 'bob' }, { from: 'bob', to: '42' }]);
});

test('a callback that names another user while away: the last one is forgotten before the server is asked', async () => {
  let user = '42';
  const r = rig(createClient, { token: () => tokenOf(user) });
  (await r.connect({ tasks: [task] })).drop(3005, 'expired');
  assert.deepEqual([r.client.getState().userId, r.client.getState().tasks.size], ['42', 1]);
  const asked = r.client.publish('news', 'of 42');
  user = 'bob';
  await r.clock.advance(1000);
  assert.deepEqual([r.client.getState().userId, r.client.getState().tasks.size], [null, 0]);
  await assert.rejects(asked, { code: 'CLOSED', message: 'the user changed' });
  await r.welcome(BOB);
  assert.deepEqual(r.received('user_changed'), [{ from: '42', to: 'bob' }]);
});

test('no token any more: nobody is signed in', async () => {
  const r = rig(createClient, { token: tokenOf('42') });
  const socket = await r.connect();
  r.client.setToken(undefined);
  assert.ok(socket.closed);
  r.socket().open();
  await nextTurn();
  assert.deepEqual(r.received('user_changed'), [{ from: '42', to: null }]);
});

test('a token is kept over reconnections; one that is refused has a successor, and that one counts', async () => {
  let calls = 0;
  const r = rig(createClient, { token: () => `token-${++calls}` });
  (await r.connect()).drop();
  const next = async () => {
    const { length } = r.Socket.all;
    while (r.Socket.all.length === length) await r.clock.advance(500);
  };
  for (let attempt = 0; attempt < 3; attempt += 1) {
    await next();
    r.socket().drop();
  }
  assert.equal(calls, 1);
  const refuse = async () => {
    await next();
    r.socket().open();
    await nextTurn();
    r.socket().receive('auth_failed', { code: 'TOKEN_BLACKLISTED', message: 'revoked' }, { id: 'auth' });
    r.socket().drop(3500);
  };
  await refuse();
  assert.equal(r.client.getState().connectionState, 'waiting');
  await refuse();
  assert.equal(calls, 2);
  assert.equal(r.client.getState().connectionState, 'closed');
  assert.equal(r.client.getState().lastError.code, 'TOKEN_BLACKLISTED');
});

for (const [name, token] of Object.entries({
  'throws Unauthorized': async () => { throw new Unauthorized('signed out'); },
  'gives nothing': async () => null,
})) {
  test(`a callback that ${name} ends the attempts`, async () => {
    const r = rig(createClient, { token });
    const connected = r.client.connect();
    r.socket().open();
    await assert.rejects(connected, { name: 'PushError', code: 'UNAUTHORIZED' });
    await r.clock.advance(600_000);
    assert.equal(r.Socket.all.length, 1);
    assert.equal(r.client.getState().connectionState, 'closed');
    assert.deepEqual(r.received('error').map(({ code }) => code), ['UNAUTHORIZED']);
    r.client.setToken('token');
    await r.welcome();
    assert.equal(r.client.getState().isConnected, true, 'signed in again');
  });
}

test('who came without a token and was closed for that goes on with the first one', async () => {
  const r = rig(createClient, { token: undefined });
  r.client.connect();
  r.socket().open();
  await nextTurn();
  r.socket().drop(3502, 'not authenticated in time');
  assert.equal(r.client.getState().connectionState, 'closed');
  r.client.setToken('token');
  await r.welcome();
  assert.equal(r.client.getState().isConnected, true);
});

test('after disconnect() a token connects nothing, whatever ended the connection before', async () => {
  const r = rig(createClient, { token: async () => { throw new Unauthorized('signed out'); } });
  r.client.connect();
  r.socket().open();
  await nextTurn();
  r.client.disconnect();
  r.client.setToken('token');
  await r.clock.advance(600_000);
  assert.equal(r.Socket.all.length, 1);
});

test('nobody signed in at a refresh: the live connection ends, too', async () => {
  let signedIn = true;
  const r = rig(createClient, { token: () => (signedIn ? 'token' : null) });
  const socket = await r.connect({ expiresAt: r.clock.time + 20_000 });
  socket.receive('pong', { timestamp: r.clock.time });
  signedIn = false;
  await r.clock.advance(18_000);
  assert.ok(socket.closed);
  assert.equal(r.client.getState().connectionState, 'closed');
});

test('every failure of the callback is an error event', async () => {
  const r = rig(createClient, { token: () => { throw new Error('login away'); } });
  r.client.connect();
  for (let attempt = 0; attempt < 2; attempt += 1) {
    r.socket().open();
    await nextTurn();
    await r.clock.advance(12_000);
  }
  assert.deepEqual(r.received('error').map(({ code, message }) => [code, message]), Array(2).fill(['TOKEN', 'the token callback failed: login away']));
});

test('signing out forgets all, and the next user is no change', async () => {
  const r = rig(createClient, { token: tokenOf('42') });
  await r.connect({ tasks: [task] });
  r.client.resetState();
  r.client.setToken(tokenOf('bob'));
  await r.connect(BOB);
  assert.equal(r.client.getState().userId, 'bob');
  assert.deepEqual(r.received('user_changed'), []);
});

test('who connects again may be another: the callback is asked anew', async () => {
  let user = '42';
  const r = rig(createClient, { token: () => tokenOf(user) });
  await r.connect();
  r.client.disconnect();
  user = 'bob';
  await r.connect(BOB);
  assert.equal(r.socket().of('auth')[0].data.token, tokenOf('bob'));
  assert.deepEqual(r.received('user_changed'), [{ from: '42', to: 'bob' }]);
});

test('an inbox made anew at sign-in forgets the tasks; the server tells those that it has', async () => {
  const r = rig(createClient);
  (await r.connect({ tasks: [{ ...task, version: 14 }] })).drop();
  await r.clock.advance(1000);
  await r.welcome({ inbox: { ...WELCOME.inbox, epoch: 'i2' }, tasks: [{ ...task, version: 2, percentage: 9 }] });
  assert.equal(r.client.getTaskProgress('t'), 9);
});
