// What a page meets: an outage while its user switches tabs, a tab in the background, a reload, a platform with less.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { fakeStorage, FakeSocket, Clock, rig, nextTurn, tokenOf, WELCOME } from './fakes.js';

const nothing = () => {};

test('switching tabs in an outage: attempts no more than each three seconds, and none of them counts', async () => {
  const r = rig(createClient, { maxReconnectAttempts: 2, random: undefined });
  (await r.connect()).drop();
  const shown = () => r.document.dispatchEvent(new Event('visibilitychange'));
  for (let turn = 0; turn < 8; turn += 1) {
    shown();
    if (r.Socket.all.length === 2 && !r.socket().gone) Object.assign(r.socket(), { gone: true }).drop();
    await r.clock.advance(150);
  }
  assert.equal(r.Socket.all.length, 2);
  assert.equal(r.client.getState().reconnectAttempts, 0);
  assert.equal(r.client.getState().nextAttemptAt, r.clock.time + 1800, 'what was asked for meanwhile comes at its time');
  await r.clock.advance(1800);
  assert.equal(r.Socket.all.length, 3);
  assert.equal(r.client.getState().nextAttemptAt, null);
  await r.welcome();
  assert.equal(r.client.getState().isConnected, true);
});

test('in a hidden tab an attempt that hangs is given up, although every timer is late', async () => {
  const r = rig(createClient);
  r.document.visibilityState = 'hidden';
  r.client.connect();
  await r.clock.sleep(60_000);
  assert.equal(r.socket().closed, null, 'one sleep is forgiven');
  await r.clock.sleep(60_000);
  assert.ok(r.socket().closed);
  await r.clock.sleep(60_000);
  assert.equal(r.Socket.all.length, 2);
});

test('a clock that was set back costs no token: the server is asked for the time', async () => {
  let calls = 0;
  const r = rig(createClient, { token: () => `token-${++calls}` });
  const socket = await r.connect({ expiresAt: r.clock.time + 100_000 });
  socket.receive('pong', { timestamp: r.clock.time });
  const serverNow = () => r.clock.time + 3_600_000;
  r.clock.time -= 3_600_000;
  for (const timer of r.clock.timers.values()) timer.at -= 3_600_000;
  for (let passed = 0; passed < 84; passed += 2) {
    await r.clock.advance(2000);
    // A busy link: there is no silence that would make it ask.
    socket.receive('message', passed, { channel: 'a', messageId: `m${passed}` });
    if (socket.of('ping').length > 1) socket.receive('pong', { timestamp: serverNow() });
  }
  assert.equal(calls, 2);
});

test('what no handler took is not acknowledged; a handler that comes later gets it, and then it is', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const push = (offset, more) => socket.receive('user_notification', offset, { channel: 'user:42', offset, epoch: 'i1', messageId: `n${offset}`, ...more });
  push(1);
  push(2);
  await r.clock.advance(5000);
  assert.deepEqual(socket.of('ack'), []);
  const received = [];
  r.client.on('chat_message', nothing);
  const end = r.client.on('user_notification', (each) => received.push(each.data));
  assert.deepEqual(received, [], 'after the present turn: the page may still be on its way');
  await nextTurn();
  assert.deepEqual(received, [1, 2]);
  await r.clock.advance(300);
  assert.deepEqual(socket.of('ack').map(({ data }) => data.offset), [2]);
  end();
  push(3);
  for (let passed = 0; passed < 60; passed += 10) {
    socket.receive('pong', { timestamp: r.clock.time });
    await r.clock.advance(10_000);
  }
  assert.equal(socket.of('ack').at(-1).data.offset, 2);
  await r.clock.advance(300);
  assert.equal(socket.of('ack').at(-1).data.offset, 3, 'let go, unread');
  push(4);
  r.client.request('inbox', {});
  push(5);
  await r.clock.advance(300);
  assert.equal(socket.of('ack').at(-1).data.offset, 5, 'a page that shows the whole inbox');
});

test('whatever publishes has a messageId, however it is written', async () => {
  const r = rig(createClient);
  r.client.request('publish', { channel: 'a', data: 1 });
  r.client.send({ type: 'chat_message', data: { content: 'hi' } });
  r.client.request('publish', { channel: 'a', data: 2, messageId: 'mine' });
  const socket = await r.connect();
  const ids = [...socket.of('publish'), ...socket.of('chat_message')].map(({ data }) => data.messageId);
  assert.equal(new Set(ids).size, 3);
  assert.ok(ids.every(Boolean) && ids.includes('mine'));
});

test('disconnect before connect leaves nothing behind', async () => {
  const r = rig(createClient);
  const request = r.client.publish('a', 1);
  r.client.disconnect();
  await assert.rejects(request, { code: 'CLOSED' });
  assert.equal(r.clock.timers.size, 0);
});

test('what hung on a link or waited leaves no timer when the application disconnects', async () => {
  const r = rig(createClient, { token: undefined });
  r.client.subscribeChannel('a', nothing);
  r.client.connect();
  r.socket().open();
  await nextTurn();
  r.socket().answer('subscribe', 'error', { code: 'UNAVAILABLE', message: 'later' });
  r.client.publish('a', 1);
  r.client.disconnect();
  assert.equal(r.clock.timers.size, 0);
});

test('once, pushes of any name, and what is no function', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  r.client.once('message', (push) => received.push(push.data));
  r.client.onPush('gap', (push) => received.push(push.type));
  for (const n of [1, 2]) socket.receive('message', n, { channel: 'a', messageId: `m${n}` });
  socket.receive('gap', {}, { channel: 'a', messageId: 'g' });
  assert.deepEqual(received, [1, 'gap']);
  assert.deepEqual(r.received('gap'), []);
  for (const call of [() => r.client.on('message'), () => r.client.once('message'), () => r.client.onPush('x', null), () => r.client.subscribeChannel('x')]) {
    assert.throws(call, TypeError);
  }
});

test('with recover a reload resumes where the page was, for the same user alone', async () => {
  const storage = fakeStorage();
  const options = { recover: true, token: tokenOf('42'), environment: { storage } };
  const first = rig(createClient, options);
  first.client.subscribeChannel('news', nothing);
  first.client.subscribeChannel('later', nothing);
  const socket = await first.connect();
  const results = { news: { recovered: false, offset: 4, epoch: 'e' }, later: { recovered: false, offset: 1, epoch: 'l' }, system: { recovered: false, offset: 9, epoch: 's' } };
  socket.answer('subscribe', 'subscription_success', { results });
  socket.receive('message', 0, { channel: 'news', offset: 5, epoch: 'e', messageId: 'm5' });
  first.window.dispatchEvent(new Event('pagehide'));

  const second = rig(createClient, options);
  second.client.subscribeChannel('news', nothing);
  const after = await second.connect();
  assert.deepEqual(after.of('subscribe')[0].data.channels, [
    { channel: 'news', since: { offset: 5, epoch: 'e' } }, { channel: 'system', since: { offset: 9, epoch: 's' } },
  ]);
  second.client.subscribeChannel('later', nothing);
  await nextTurn();
  assert.deepEqual(after.of('subscribe')[1].data.channels, [{ channel: 'later', since: { offset: 1, epoch: 'l' } }], 'a part of the page that comes later');

  const other = rig(createClient, { ...options, token: tokenOf('bob') });
  other.client.subscribeChannel('news', nothing);
  const socketOfBob = await other.connect({ userId: 'bob', channels: ['user:bob'] });
  assert.deepEqual(socketOfBob.of('subscribe')[0].data.channels, ['news']);

  second.client.resetState();
  const third = rig(createClient, options);
  third.client.subscribeChannel('news', nothing);
  assert.deepEqual((await third.connect()).of('subscribe')[0].data.channels, ['news', 'system'], 'signed out meanwhile');
});

test('with recover the inbox goes on behind what was dealt with here, whoever has acknowledged what', async () => {
  const environment = { storage: fakeStorage() };
  const open = async (inbox) => {
    const r = rig(createClient, { recover: true, token: tokenOf('42'), environment });
    const shown = [];
    r.client.on('user_notification', ({ data }) => (shown.push(data), data === 'slow' ? new Promise(nothing) : undefined));
    const socket = await r.connect({ inbox: { epoch: 'i1', pending: 0, ...inbox } });
    const push = (offset, data) => ({ type: 'user_notification', channel: 'user:42', data, offset, epoch: 'i1', messageId: `n${offset}` });
    return { ...r, socket, shown, push, come: (offset, data) => socket.receive('user_notification', data, push(offset, data)) };
  };
  const first = await open({ offset: 0, acked: 0 });
  first.come(1, 'a');
  first.come(2, 'slow');
  await nextTurn();
  first.window.dispatchEvent(new Event('pagehide'));

  // The acknowledgement was lost with the page: what was shown comes again, and is not shown again.
  const second = await open({ offset: 2, acked: 0 });
  second.come(1, 'a');
  second.come(2, 'b');
  await nextTurn();
  assert.deepEqual(second.shown, ['b'], 'what a handler still had in hand comes again');
  await second.clock.advance(300);
  assert.deepEqual(second.socket.of('ack').at(-1).data, { offset: 2, epoch: 'i1' });
  second.window.dispatchEvent(new Event('pagehide'));

  // Another device has acknowledged what came meanwhile, so that it is not sent by itself.
  const third = await open({ offset: 4, acked: 4 });
  assert.deepEqual(third.socket.of('history').map(({ data }) => data.since), [{ offset: 2, epoch: 'i1' }]);
  third.come(5, 'e');
  third.socket.answer('history', 'history', { messages: [third.push(3, 'c'), third.push(4, 'd')], offset: 4, epoch: 'i1' });
  await nextTurn();
  assert.deepEqual(third.shown, ['c', 'd', 'e']);
});

test('the log tells what happens, and never a token or a message', async () => {
  const lines = [];
  const r = rig(createClient, { token: tokenOf('42'), debug: (...values) => lines.push(values) });
  const socket = await r.connect();
  r.client.publish('a', 'private');
  socket.receive('message', 'private', { channel: 'a', messageId: 'm' });
  socket.drop(1006);
  assert.deepEqual([...new Set(lines.map(([event]) => event))], ['attempt', 'send', 'receive', 'lost']);
  const text = JSON.stringify(lines);
  assert.ok(!text.includes('private') && !text.includes(tokenOf('42')), text);
  const broken = rig(createClient, { debug: () => { throw new Error('mine'); } });
  const report = console.error;
  console.error = nothing;
  await broken.connect();
  console.error = report;
  assert.equal(broken.client.getState().isConnected, true);
});

test('a platform without crypto, streams, storage or a page', async () => {
  const { crypto, TextDecoderStream } = globalThis;
  Object.defineProperty(globalThis, 'crypto', { value: undefined, configurable: true });
  globalThis.TextDecoderStream = undefined;
  try {
    const clock = new Clock();
    const Socket = FakeSocket.fresh();
    const client = createClient({ url: 'https://push.test/ws#here', token: 'x', sseAfter: 1, environment: { WebSocket: Socket, window: undefined, ...clock.environment } });
    client.connect();
    const [socket] = Socket.all;
    assert.equal(socket.url, 'wss://push.test/ws');
    socket.drop();
    await clock.advance(3000);
    assert.equal(client.getState().transport, 'websocket', 'no event stream without streams');
    Socket.all[1].open();
    await nextTurn();
    Socket.all[1].receive('auth_success', WELCOME, { id: 'auth' });
    client.publish('a', 1);
    client.publish('a', 2);
    const [one, two] = Socket.all[1].of('publish').map(({ data }) => data.messageId);
    assert.ok(one && two && one !== two);
    client.disconnect();
  } finally {
    Object.defineProperty(globalThis, 'crypto', { value: crypto, configurable: true });
    globalThis.TextDecoderStream = TextDecoderStream;
  }
});

test('the state says why there is no connection, and when the next attempt is made', async () => {
  const r = rig(createClient);
  (await r.connect()).drop(1006, '');
  const { nextAttemptAt, error, lastError } = r.client.getState();
  assert.equal(nextAttemptAt, r.clock.time + 500);
  assert.equal(lastError.message, error);
  assert.deepEqual([lastError.code, lastError.closeCode], ['CLOSED', 1006]);
});
