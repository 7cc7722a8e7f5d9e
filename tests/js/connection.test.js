import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient, mayReconnect } from '../../pushserver/web/static/pushclient/index.js';
import { rig, nextTurn, WELCOME } from './fakes.js';

test('sign-in: subprotocol, auth first, connected only after auth_success', async () => {
  const r = rig(createClient);
  const connected = r.client.connect();
  assert.deepEqual(r.socket().protocols, ['pushserver.v1.json']);
  assert.equal(r.client.getState().connectionState, 'connecting');
  r.socket().open();
  await nextTurn();
  assert.deepEqual(r.socket().sent, [{ type: 'auth', id: 'auth', data: { token: 'token-1' } }]);
  assert.equal(r.client.getState().isConnected, false);
  r.socket().receive('auth_success', WELCOME, { id: 'auth' });
  await connected;
  const now = r.client.getState();
  assert.equal(now.isConnected, true);
  assert.equal(now.socket, r.socket());
  assert.equal(now.userId, '42');
  assert.equal(now.transport, 'websocket');
  assert.deepEqual(r.received('connect'), [{ connectionId: 'c1', userId: '42', transport: 'websocket', node: null, inbox: WELCOME.inbox }]);
});

test('connect twice is one connection', async () => {
  const r = rig(createClient);
  r.client.connect();
  r.client.connect();
  await r.welcome();
  await r.client.connect();
  assert.equal(r.Socket.all.length, 1);
});

test('without a token the connection is anonymous', async () => {
  const r = rig(createClient, { token: undefined });
  const connected = r.client.connect();
  r.socket().open();
  await connected;
  assert.equal(r.client.getState().isConnected, true);
  assert.deepEqual(r.socket().of('auth'), []);
});

test('which close codes let a client come back', () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 3000, 3001, 3005, 3013, 3499, 4000]) assert.ok(mayReconnect(code), String(code));
  for (const code of [1002, 1007, 1009, 3500, 3501, 3503, 3504, 3509, 3999]) assert.ok(!mayReconnect(code), String(code));
});

for (const code of [1000, 1006, 3000, 3004, 3008, 3011, 3012, 3013]) {
  test(`after close ${code} it reconnects`, async () => {
    const r = rig(createClient);
    (await r.connect()).drop(code);
    assert.equal(r.client.getState().isConnected, false);
    assert.equal(r.client.getState().connectionState, 'waiting');
    await r.clock.advance(12000);
    assert.equal(r.Socket.all.length, 2);
  });
}

for (const code of [1002, 1007, 1009, 3500, 3501, 3503, 3504, 3507, 3509]) {
  test(`after close ${code} it stays away and says why`, async () => {
    const r = rig(createClient);
    (await r.connect()).drop(code, 'because');
    await r.clock.advance(600000);
    assert.equal(r.Socket.all.length, 1);
    const now = r.client.getState();
    assert.equal(now.connectionState, 'closed');
    assert.match(now.error, /because/);
    assert.equal(r.received('error')[0].closeCode, code);
    await assert.rejects(r.client.publish('a', 1), { code: 'CLOSED' });
  });
}

test('auth_failed with a wrong token ends it, also where the close code is lost', async () => {
  const r = rig(createClient);
  const connected = r.client.connect();
  r.socket().open();
  await nextTurn();
  r.socket().receive('auth_failed', { code: 'INVALID_TOKEN', message: 'bad signature' }, { id: 'auth' });
  r.socket().drop(1006);
  await assert.rejects(connected, { code: 'INVALID_TOKEN', message: 'bad signature' });
  assert.equal(r.client.getState().connectionState, 'closed');
});

test('an expired string token ends it; setToken resumes', async () => {
  const r = rig(createClient);
  r.client.connect();
  r.socket().open();
  await nextTurn();
  r.socket().receive('auth_failed', { code: 'TOKEN_EXPIRED', message: 'expired' }, { id: 'auth' });
  r.socket().drop(3005);
  await r.clock.advance(100000);
  assert.equal(r.Socket.all.length, 1);
  r.client.setToken('token-2');
  await r.welcome();
  assert.equal(r.client.getState().isConnected, true);
  assert.equal(r.socket().of('auth')[0].data.token, 'token-2');
});

test('a token callback is asked anew, and told why', async () => {
  const reasons = [];
  const r = rig(createClient, { token: async ({ reason }) => (reasons.push(reason), `token-${reasons.length}`) });
  (await r.connect()).drop(3005, 'token expired');
  await r.clock.advance(3000);
  await r.welcome();
  assert.deepEqual(reasons, ['connect', 'expired']);
  assert.equal(r.socket().of('auth')[0].data.token, 'token-2');
});

test('a token callback that fails or hangs is tried again with backoff', async () => {
  let calls = 0;
  const token = () => {
    calls += 1;
    if (calls === 1) throw new Error('login server away');
    return calls === 2 ? new Promise(() => {}) : 'token-3';
  };
  const r = rig(createClient, { token });
  r.client.connect();
  r.socket().open();
  await nextTurn();
  assert.match(r.client.getState().error, /login server away/);
  await r.clock.advance(3000);
  r.socket().open();
  while (calls < 3) await r.clock.advance(500);
  await r.welcome();
  assert.equal(calls, 3);
  assert.equal(r.client.getState().isConnected, true);
});

test('the token is refreshed before it expires, on the server clock', async () => {
  let serial = 0;
  const r = rig(createClient, { token: () => `token-${++serial}` });
  const serverAhead = 120_000;
  const socket = await r.connect({ expiresAt: r.clock.time + serverAhead + 300_000 });
  socket.receive('pong', { timestamp: r.clock.time + serverAhead });
  for (let passed = 0; passed < 238; passed += 2) {
    await r.clock.advance(2000);
    socket.receive('pong', { timestamp: r.clock.time + serverAhead });
  }
  assert.equal(socket.of('auth').length, 1);
  await r.clock.advance(6000);
  assert.equal(socket.of('auth').length, 2);
  assert.equal(socket.of('auth')[1].data.token, 'token-2');
  socket.answer('auth', 'auth_success', { ...WELCOME, permissions: ['publish:a'], expiresAt: r.clock.time + serverAhead + 600_000 });
  assert.deepEqual(r.client.getState().permissions, ['publish:a']);
  assert.equal(r.Socket.all.length, 1);
});

test('a refresh that the server cannot take now is tried again', async () => {
  let serial = 0;
  const r = rig(createClient, { token: () => `token-${++serial}` });
  const socket = await r.connect({ expiresAt: r.clock.time + 20_000 });
  socket.receive('pong', { timestamp: r.clock.time });
  await r.clock.advance(18000);
  socket.answer('auth', 'error', { code: 'UNAVAILABLE', message: 'later' });
  const before = socket.of('auth').length;
  await r.clock.advance(8000);
  assert.equal(socket.of('auth').length, before + 1);
});

test('attempts count up, windows grow, and only a sign-in resets them', async () => {
  const r = rig(createClient, { random: undefined });
  const socket = await r.connect();
  socket.drop(3005);
  const waits = [];
  for (let attempt = 1; attempt <= 6; attempt += 1) {
    const from = r.clock.time;
    while (r.Socket.all.length === attempt) await r.clock.advance(100);
    waits.push(r.clock.time - from);
    assert.equal(r.client.getState().reconnectAttempts, attempt);
    r.socket().open();
    await nextTurn();
    assert.equal(r.client.getState().reconnectAttempts, attempt, 'an open socket is no success yet');
    r.socket().drop(1006);
  }
  // Windows of 1, 3, 6, 12, 24, 30 s end to end, an attempt in the middle of each.
  assert.deepEqual(waits, [500, 2000, 4500, 9000, 18000, 27000]);
  await r.clock.advance(30000);
  await r.welcome();
  assert.equal(r.client.getState().reconnectAttempts, 0);
});

test('maxReconnectAttempts is obeyed when set', async () => {
  const r = rig(createClient, { maxReconnectAttempts: 2 });
  const socket = await r.connect();
  socket.drop();
  for (let each = 0; each < 2; each += 1) {
    await r.clock.advance(60000);
    r.socket().drop();
  }
  await r.clock.advance(600000);
  assert.equal(r.Socket.all.length, 3);
  assert.equal(r.client.getState().connectionState, 'closed');
  assert.match(r.client.getState().error, /gave up after 2 attempts/);
});

test('going_away is obeyed to the millisecond', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  socket.receive('going_away', { reconnectAfter: 7300 });
  assert.equal(r.client.getState().isConnected, true);
  socket.drop(3001, 'shutdown');
  await r.clock.advance(7299);
  assert.equal(r.Socket.all.length, 1);
  await r.clock.advance(1);
  assert.equal(r.Socket.all.length, 2);
});

test('going_away without a time leaves the ordinary window', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  socket.receive('going_away', {});
  socket.drop(3001);
  await r.clock.advance(499);
  assert.equal(r.Socket.all.length, 1);
  await r.clock.advance(1);
  assert.equal(r.Socket.all.length, 2);
});

test('a token set while signing in is the one that counts', async () => {
  const r = rig(createClient);
  r.client.connect();
  r.client.setToken('token-2');
  await r.welcome();
  assert.equal(r.socket().of('auth')[0].data.token, 'token-2');
  r.client.setToken('token-3');
  r.client.setToken('token-4');
  await nextTurn();
  r.socket().answer('auth', 'auth_success', WELCOME);
  await nextTurn();
  assert.equal(r.socket().of('auth').at(-1).data.token, 'token-4');
});

test('an old socket has no say any more', async () => {
  const r = rig(createClient);
  const old = await r.connect();
  const { onclose, onmessage, onopen } = old;
  r.client.reconnect();
  await r.welcome({ connectionId: 'c2' });
  onclose({ code: 3500, reason: 'late' });
  onopen({});
  onmessage({ data: JSON.stringify({ type: 'auth_failed', data: { code: 'INVALID_TOKEN' } }) });
  onmessage({ data: JSON.stringify({ type: 'message', channel: 'a', data: 1, messageId: 'm' }) });
  const now = r.client.getState();
  assert.equal(now.isConnected, true);
  assert.equal(now.connectionId, 'c2');
  assert.equal(now.socket, r.socket());
  assert.ok(old.closed);
});

test('disconnect ends everything at once, and no timer brings it back', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  r.client.disconnect();
  assert.equal(socket.closed.code, 1000);
  assert.equal(r.client.getState().isConnected, false);
  assert.equal(r.client.getState().error, null);
  await r.clock.advance(3_600_000);
  assert.equal(r.Socket.all.length, 1);
  assert.equal(r.clock.timers.size, 0);
  assert.deepEqual(r.received('disconnect').map((each) => each.willReconnect), [false]);
});

test('disconnect while waiting ends the waiting', async () => {
  const r = rig(createClient);
  (await r.connect()).drop();
  r.client.disconnect();
  await r.clock.advance(3_600_000);
  assert.equal(r.Socket.all.length, 1);
  assert.equal(r.clock.timers.size, 0);
});

test('a disconnect from inside the disconnect event is final', async () => {
  const r = rig(createClient);
  r.client.on('disconnect', () => r.client.disconnect());
  (await r.connect()).drop();
  await r.clock.advance(600000);
  assert.equal(r.Socket.all.length, 1);
});

test('a disconnect from inside a listener of the state opens nothing', async () => {
  const r = rig(createClient);
  r.client.subscribe((now) => now.connectionState === 'connecting' && r.client.disconnect());
  await assert.rejects(r.client.connect(), { code: 'CLOSED' });
  assert.equal(r.Socket.all.length, 0);
  assert.equal(r.clock.timers.size, 0);
});

test('a url that cannot be opened is said at once', async () => {
  const r = rig(createClient, { environment: { WebSocket: class { constructor() { throw new SyntaxError('bad url'); } } } });
  await assert.rejects(r.client.connect(), { message: 'bad url' });
  assert.equal(r.client.getState().connectionState, 'closed');
});

test('another url closes the old connection and opens the new', async () => {
  const r = rig(createClient);
  const old = await r.connect();
  r.client.connect('ws://other.test/ws');
  assert.ok(old.closed);
  assert.equal(r.socket().url, 'ws://other.test/ws');
  await r.welcome();
  assert.equal(r.client.getState().isConnected, true);
});

test('after silence a ping, and without an answer a new connection', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  await r.clock.advance(22000);
  assert.equal(socket.of('ping').length, 0);
  await r.clock.advance(5500);
  assert.equal(socket.of('ping').length, 1);
  socket.receive('pong', { timestamp: r.clock.time });
  await r.clock.advance(24000);
  assert.equal(r.client.getState().isConnected, true);
  await r.clock.advance(16000);
  assert.equal(r.client.getState().isConnected, false, 'nothing came');
  assert.ok(socket.closed);
  await r.clock.advance(12000);
  assert.equal(r.Socket.all.length, 2);
});

test('a long answer on a slow way is waited for, longer on each link, and asked for once', async () => {
  const r = rig(createClient);
  r.client.subscribeChannel('news:a', () => {});
  r.client.connect();
  for (const within of [10000, 20000, 40000]) {
    const socket = r.socket();
    await r.welcome();
    await r.clock.advance(25000 + within - 500);
    assert.equal(socket.of('subscribe').length, 1);
    // It stands behind the answer.
    assert.equal(socket.of('ping').length, 1);
    assert.ok(!socket.closed);
    if (within === 40000) break;
    while (r.socket() === socket) await r.clock.advance(100);
    assert.ok(socket.closed);
  }
  const socket = r.socket();
  const results = { 'news:a': { recovered: false, offset: 0, epoch: 'e', messages: [] } };
  socket.answer('subscribe', 'subscription_success', { channels: ['news:a'], results, rejected: {} });
  // Who owes no answer has no longer than ever.
  await r.clock.advance(40000);
  assert.ok(socket.closed);
});

test('a long answer to the sign-in is waited for likewise, also where the server waits less for a token', async () => {
  const r = rig(createClient);
  const next = async (known) => {
    while (r.socket() === known) await r.clock.advance(100);
    r.socket().open();
    return r.socket();
  };
  (await r.connect()).drop();
  const first = await next(r.Socket.all[0]);
  const second = await next(first);
  assert.ok(first.closed);
  await r.clock.advance(15000);
  assert.ok(!second.closed);
  second.drop(3502);
  await r.clock.advance(12000);
  assert.equal(r.Socket.all.length, 4);
  await r.welcome();
  assert.equal(r.client.getState().isConnected, true);
  r.socket().drop(3502);
  assert.equal(r.client.getState().connectionState, 'closed');
});

test('where nothing ever came nothing is waited for longer', async () => {
  const r = rig(createClient);
  r.client.connect();
  for (const number of [1, 2, 3]) {
    r.socket().open();
    const began = r.clock.time;
    while (r.Socket.all.length === number) await r.clock.advance(100);
    assert.ok(r.Socket.all[number - 1].closed);
    assert.ok(r.clock.time - began < 10000 + 2500 + 30000);
  }
  r.socket().open();
  await r.clock.advance(12600);
  assert.ok(r.Socket.all[3].closed);
});

test('any message is a sign of life', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  for (let second = 0; second < 120; second += 10) {
    await r.clock.advance(10000);
    socket.receive('message', second, { channel: 'a', messageId: `m${second}` });
  }
  assert.equal(socket.of('ping').length, 0);
  assert.equal(r.client.getState().isConnected, true);
});

test('after a sleep the link is asked, not judged', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  await r.clock.sleep(3_600_000);
  assert.equal(r.client.getState().isConnected, true);
  assert.equal(socket.of('ping').length, 1);
  socket.receive('pong', { timestamp: r.clock.time });
  await r.clock.advance(10000);
  assert.equal(r.client.getState().isConnected, true);
  await r.clock.sleep(3_600_000);
  await r.clock.advance(7600);
  assert.equal(r.client.getState().isConnected, false, 'dead within five seconds and a tick');
});

test('a clock that is set back stops no watchdog', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  await r.clock.advance(5000);
  r.clock.time -= 3_600_000;
  for (const timer of r.clock.timers.values()) timer.at -= 3_600_000;
  await r.clock.advance(3000);
  assert.equal(socket.of('ping').length, 1, 'what does the server\'s clock say now?');
  socket.receive('pong', { timestamp: r.clock.time });
  await r.clock.advance(28000);
  assert.equal(socket.of('ping').length, 2);
  socket.drop();
  await r.clock.advance(3000);
  r.clock.time -= 3_600_000;
  for (const timer of r.clock.timers.values()) timer.at -= 3_600_000;
  await r.clock.advance(3000);
  r.socket().drop();
  await r.clock.advance(12000);
  assert.equal(r.Socket.all.length, 3, 'no window from the future');
});

test('online and a tab that is shown end the waiting; offline asks the link', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  r.window.dispatchEvent(new Event('offline'));
  assert.equal(socket.of('ping').length, 1);
  socket.drop();
  r.window.dispatchEvent(new Event('online'));
  assert.equal(r.Socket.all.length, 2);
  r.socket().drop();
  r.document.visibilityState = 'hidden';
  r.document.dispatchEvent(new Event('visibilitychange'));
  assert.equal(r.Socket.all.length, 2);
  r.document.visibilityState = 'visible';
  await r.clock.advance(3000);
  r.document.dispatchEvent(new Event('visibilitychange'));
  assert.equal(r.Socket.all.length, 3);
  r.client.disconnect();
  r.window.dispatchEvent(new Event('online'));
  assert.equal(r.Socket.all.length, 3, 'nobody listens any more');
});

test('a handshake that hangs is given up', async () => {
  const r = rig(createClient);
  r.client.connect();
  await r.clock.advance(10100);
  assert.ok(r.socket().closed);
  assert.equal(r.client.getState().connectionState, 'waiting');
});
