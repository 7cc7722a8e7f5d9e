import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { rig, nextTurn, WELCOME } from './fakes.js';

const nothing = () => {};
const subscribed = (results, more = {}) => ['subscription_success', { channels: Object.keys(results), results, rejected: {}, ...more }];

/** Reconnects after an abrupt loss. */
async function again(r, more) {
  r.socket().drop();
  await r.clock.advance(12000);
  await r.welcome(more);
  return r.socket();
}

const inboxPush = (offset, more = {}) => ['user_notification', { title: `n${offset}` }, {
  channel: 'user:42', offset, epoch: 'i1', messageId: `n${offset}`, timestamp: 1, ...more,
}];

// --- requests and the queue ------------------------------------------------------------------------------------------

test('each request has its own reply; an error rejects with its code', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const one = r.client.history('a');
  const two = r.client.request('publish', { channel: 'b', data: 1 });
  const [first, second] = socket.sent.slice(-2);
  socket.receive('error', { code: 'PERMISSION_DENIED', message: 'no' }, { id: second.id });
  socket.receive('history', { messages: [], offset: 0, epoch: 'e' }, { id: first.id });
  assert.deepEqual(await one, { messages: [], offset: 0, epoch: 'e' });
  await assert.rejects(two, { name: 'PushError', code: 'PERMISSION_DENIED' });
});

test('send takes a whole message, and its promise may be ignored', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  r.client.getState().send({ type: 'ping', data: { n: 1 } });
  assert.deepEqual(socket.of('ping').at(-1).data, { n: 1 });
  socket.answer('ping', 'error', { code: 'RATE_LIMITED' });
});

test('what is sent while disconnected goes out after sign-in, in order', async () => {
  const r = rig(createClient);
  for (const n of [1, 2, 3]) r.client.publish('a', n);
  const socket = await r.connect();
  assert.deepEqual(socket.of('publish').map((message) => message.data.data), [1, 2, 3]);
});

test('what was sent and not answered when the link broke is sent again with the same messageId', async () => {
  const r = rig(createClient);
  const before = await r.connect();
  const done = r.client.publish('a', 1);
  const chat = r.client.chat('hello', { targetId: '7' });
  r.client.publish('a', 2);
  const after = await again(r);
  assert.deepEqual(after.of('publish'), before.of('publish'));
  assert.deepEqual(after.of('chat_message'), before.of('chat_message'));
  assert.ok(before.of('chat_message')[0].data.messageId);
  after.receive('published', { messageId: 'x', duplicate: true }, { id: before.of('publish')[0].id });
  assert.equal((await done).duplicate, true);
  after.answer('chat_message', 'message_sent', { messageId: 'y', delivered: 0, queued: true });
  assert.equal((await chat).queued, true);
});

test('the queue is bounded: the newest is refused', async () => {
  const r = rig(createClient, { maxQueue: 3 });
  const kept = [1, 2, 3].map((n) => r.client.publish('a', n));
  await assert.rejects(r.client.publish('a', 4), { code: 'QUEUE_FULL' });
  const socket = await r.connect();
  assert.equal(socket.of('publish').length, 3);
  for (const [index, message] of socket.of('publish').entries()) {
    socket.receive('published', { messageId: `m${index}` }, { id: message.id });
  }
  assert.equal((await Promise.all(kept)).length, 3);
  r.client.publish('a', 5);
  assert.equal(socket.of('publish').length, 4);
});

test('a request that waits too long for a connection is rejected', async () => {
  const r = rig(createClient, { queueTimeout: 60000 });
  const request = r.client.publish('a', 1);
  await r.clock.advance(65000);
  await assert.rejects(request, { code: 'TIMEOUT' });
});

test('a request without a reply is rejected, and the connection stays', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const request = r.client.presence('a');
  await r.clock.advance(12500);
  await assert.rejects(request, { code: 'TIMEOUT' });
  assert.equal(r.client.getState().isConnected, true);
  socket.answer('presence', 'presence', { users: [], total: 0 });
});

test('a terminal close and a disconnect reject what waits', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const sent = r.client.publish('a', 1);
  socket.drop(3503, 'kicked');
  await assert.rejects(sent, { code: 'CLOSED', closeCode: 3503 });
  const other = rig(createClient);
  await other.connect();
  const pending = other.client.publish('a', 1);
  other.client.disconnect();
  await assert.rejects(pending, { code: 'CLOSED' });
});

test('a full queue drains in a window, and waits out a rate limit without losing order', async () => {
  const r = rig(createClient);
  const all = Array.from({ length: 40 }, (_, n) => r.client.publish('a', n));
  const socket = await r.connect();
  assert.equal(socket.of('publish').length, 32 - socket.of('subscribe').length);
  const [first, second] = socket.of('publish');
  socket.receive('error', { code: 'RATE_LIMITED', message: 'slow down', retryAfter: 500 }, { id: first.id });
  socket.receive('error', { code: 'RATE_LIMITED', message: 'slow down', retryAfter: 500 }, { id: second.id });
  const before = socket.of('publish').length;
  for (const message of socket.of('publish').slice(2)) socket.receive('published', {}, { id: message.id });
  assert.equal(socket.of('publish').length, before, 'nothing during the pause');
  await r.clock.advance(500);
  assert.deepEqual(socket.of('publish').slice(before, before + 3).map((message) => message.data.data), [0, 1, before]);
  for (const message of socket.of('publish').slice(before)) socket.receive('published', {}, { id: message.id });
  await Promise.all(all);
});

// --- subscriptions and positions -------------------------------------------------------------------------------------

test('many subscriptions of one moment are one message', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const before = socket.of('subscribe').length;
  for (const channel of ['a', 'b', 'c']) r.client.subscribeChannel(channel, nothing);
  await nextTurn();
  assert.deepEqual(socket.of('subscribe').slice(before).map((message) => message.data), [{ channels: ['a', 'b', 'c'] }]);
});

test('the position of what the server subscribes is asked for once', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  assert.deepEqual(socket.of('subscribe').map((message) => message.data), [{ channels: ['system'] }]);
  socket.answer('subscribe', ...subscribed({ system: { recovered: false, offset: 9, epoch: 's' } }));
  const after = await again(r);
  assert.deepEqual(after.of('auth')[0].data.positions, {
    'user:42': { offset: 0, epoch: 'i1' }, system: { offset: 9, epoch: 's' },
  });
  assert.deepEqual(after.of('subscribe'), []);
});

test('after a reconnect all is subscribed again with its position, in one message', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  const a = r.client.subscribeChannel('a', (push) => received.push(push.offset));
  r.client.subscribeChannel('b', nothing);
  await nextTurn();
  socket.answer('subscribe', ...subscribed({ a: { recovered: false, offset: 4, epoch: 'e' }, b: {} }));
  assert.deepEqual(await a.ready, { recovered: false, offset: 4, epoch: 'e' });
  socket.receive('message', 5, { channel: 'a', offset: 5, epoch: 'e', messageId: 'm5' });
  const after = await again(r);
  assert.deepEqual(after.of('subscribe')[0].data.channels, [{ channel: 'a', since: { offset: 5, epoch: 'e' } }, 'b', 'system']);
  const missed = [7, 9].map((offset) => ({ type: 'message', channel: 'a', data: 0, offset, epoch: 'e', messageId: `m${offset}` }));
  after.answer('subscribe', ...subscribed({ a: { recovered: true, offset: 9, epoch: 'e', messages: missed }, b: {} }));
  after.receive('message', 0, { channel: 'a', offset: 9, epoch: 'e', messageId: 'm9' });
  after.receive('message', 0, { channel: 'a', offset: 10, epoch: 'e', messageId: 'm10' });
  assert.deepEqual(received, [5, 7, 9, 10]);
  assert.deepEqual(r.received('recovered'), [{ channel: 'a' }]);
  assert.deepEqual(r.client.getPosition('a'), { offset: 10, epoch: 'e' });
});

test('recovered false and resync are told, and the channel goes on from now', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  r.client.subscribeChannel('a', nothing, { since: { offset: 3, epoch: 'old' } });
  await nextTurn();
  assert.deepEqual(socket.of('subscribe').at(-1).data.channels, [{ channel: 'a', since: { offset: 3, epoch: 'old' } }]);
  socket.answer('subscribe', ...subscribed({ a: { recovered: false, offset: 1, epoch: 'new', messages: [] } }));
  assert.deepEqual(r.received('gap'), [{ channel: 'a', cause: 'not_recovered' }]);
  assert.deepEqual(r.client.getPosition('a'), { offset: 1, epoch: 'new' });
  socket.receive('resync', { channel: 'a' }, { channel: 'a' });
  assert.deepEqual(r.received('gap').at(-1), { channel: 'a', cause: 'resync' });
  assert.deepEqual(socket.of('subscribe').at(-1).data.channels, ['a']);
  socket.answer('subscribe', ...subscribed({ a: { recovered: false, offset: 0, epoch: 'newer' } }));
  socket.receive('message', 1, { channel: 'a', offset: 1, epoch: 'newer', messageId: 'x' });
  assert.deepEqual(r.client.getPosition('a'), { offset: 1, epoch: 'newer' });
});

test('several handlers share a channel; the last to leave leaves', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  const one = r.client.subscribeChannel('a', () => received.push(1));
  const two = r.client.subscribeChannel('a', () => received.push(2));
  await nextTurn();
  socket.answer('subscribe', ...subscribed({ a: {} }));
  socket.receive('message', 0, { channel: 'a', messageId: 'm1' });
  one.unsubscribe();
  one.unsubscribe();
  await nextTurn();
  socket.receive('message', 0, { channel: 'a', messageId: 'm2' });
  assert.deepEqual(received, [1, 2, 2]);
  assert.equal(socket.of('unsubscribe').length, 0);
  two.unsubscribe();
  await nextTurn();
  assert.deepEqual(socket.of('unsubscribe').map((message) => message.data), [{ channels: ['a'] }]);
});

test('leaving and coming back in one moment is a new subscription, and leaves nothing', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const one = r.client.subscribeChannel('a', nothing);
  await nextTurn();
  one.unsubscribe();
  const two = r.client.subscribeChannel('a', nothing);
  await nextTurn();
  const [first, second] = socket.of('subscribe').slice(-2);
  assert.deepEqual([first.data, second.data], [{ channels: ['a'] }, { channels: ['a'] }]);
  assert.equal(socket.of('unsubscribe').length, 0);
  socket.receive(...subscribed({ a: { recovered: false, offset: 3, epoch: 'e' } }), { id: first.id });
  assert.equal(r.client.getPosition('a'), undefined, 'an answer for the one that is gone');
  assert.equal(two.state, 'subscribing');
  socket.receive(...subscribed({ a: { recovered: false, offset: 4, epoch: 'e' } }), { id: second.id });
  assert.equal((await two.ready).offset, 4);
  assert.deepEqual([one.state, two.state], ['closed', 'subscribed']);
});

test('unsubscribeChannel ends one handler, or all', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const mine = () => {};
  r.client.subscribeChannel('a', mine);
  r.client.subscribeChannel('a', nothing);
  await nextTurn();
  r.client.unsubscribeChannel('a', mine);
  await nextTurn();
  assert.equal(socket.of('unsubscribe').length, 0);
  r.client.unsubscribeChannel('a');
  await nextTurn();
  assert.equal(socket.of('unsubscribe').length, 1);
});

test('a refused channel is told, not asked for again, but after new permissions', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const { ready } = r.client.subscribeChannel('secret:x', nothing);
  await nextTurn();
  const refusal = { rejected: { 'secret:x': { code: 'PERMISSION_DENIED', message: 'no' } } };
  socket.answer('subscribe', ...subscribed({}, refusal));
  await assert.rejects(ready, { code: 'PERMISSION_DENIED' });
  assert.deepEqual(r.received('rejected'), [{ channel: 'secret:x', code: 'PERMISSION_DENIED', message: 'no' }]);
  const asked = () => socket.of('subscribe').filter((message) => message.data.channels.includes('secret:x')).length;
  await r.clock.advance(20000);
  assert.equal(asked(), 1);
  r.client.setToken('better');
  await nextTurn();
  socket.answer('auth', 'auth_success', { ...WELCOME, permissions: ['subscribe:secret:*'] });
  await nextTurn();
  assert.deepEqual(socket.of('subscribe').at(-1).data.channels, ['secret:x']);
});

test('a subscription that the server cannot serve now is tried again', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const { ready } = r.client.subscribeChannel('a', nothing);
  await nextTurn();
  socket.answer('subscribe', 'error', { code: 'UNAVAILABLE', message: 'engine away' });
  const before = socket.of('subscribe').length;
  await r.clock.advance(2000);
  assert.equal(socket.of('subscribe').length, before + 1);
  socket.answer('subscribe', ...subscribed({ a: {} }));
  assert.deepEqual(await ready, {});
});

test('what comes while a channel waits to resume is held, so that no gap stays hidden', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  r.client.subscribeChannel('a', (push) => received.push(push.offset), { since: { offset: 1, epoch: 'e' } });
  await nextTurn();
  const live = (offset) => socket.receive('message', 0, { channel: 'a', offset, epoch: 'e', messageId: `m${offset}` });
  live(4);
  socket.answer('subscribe', 'error', { code: 'UNAVAILABLE', message: 'engine away' });
  live(5);
  await r.clock.advance(2000);
  assert.deepEqual(socket.of('subscribe').at(-1).data.channels, [{ channel: 'a', since: { offset: 1, epoch: 'e' } }]);
  const messages = [2, 3, 4].map((offset) => ({ type: 'message', channel: 'a', data: 0, offset, epoch: 'e', messageId: `m${offset}` }));
  socket.answer('subscribe', ...subscribed({ a: { recovered: true, offset: 4, epoch: 'e', messages } }));
  assert.deepEqual(received, [2, 3, 4, 5]);
});

test('a refused channel that is asked for again by the application is asked for again', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  r.client.subscribeChannel('secret:x', nothing);
  await nextTurn();
  socket.answer('subscribe', ...subscribed({}, { rejected: { 'secret:x': { code: 'PERMISSION_DENIED', message: 'no' } } }));
  const { ready } = r.client.subscribeChannel('secret:x', nothing);
  await nextTurn();
  socket.answer('subscribe', ...subscribed({ 'secret:x': {} }));
  assert.deepEqual(await ready, {});
});

test('unsubscribed by the server is told and not undone', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  r.client.subscribeChannel('a', nothing);
  const told = [];
  r.client.on('unsubscribed', (push) => told.push(push.data.code));
  await nextTurn();
  socket.answer('subscribe', ...subscribed({ a: {} }));
  socket.receive('unsubscribed', { channel: 'a', code: 'PERMISSION_DENIED', reason: 'expired' }, { channel: 'a' });
  assert.deepEqual(told, ['PERMISSION_DENIED']);
  const after = await again(r);
  assert.ok(!JSON.stringify(after.of('subscribe')).includes('"a"'));
});

test('very many channels are several messages, each within the size limit', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const names = Array.from({ length: 500 }, (_, n) => `news:${'x'.repeat(200)}${n}`);
  for (const name of names) r.client.subscribeChannel(name, nothing);
  await nextTurn();
  const sent = socket.of('subscribe').slice(1);
  assert.deepEqual(sent.flatMap((message) => message.data.channels), names);
  for (const message of sent) assert.ok(JSON.stringify(message).length < 40000);
});

// --- repeats, inbox, acks --------------------------------------------------------------------------------------------

test('a repeat is dropped by its messageId, also without offsets', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  r.client.on('message', (push) => received.push(push.messageId));
  for (const messageId of ['a', 'b', 'a']) socket.receive('message', 0, { channel: 'x', messageId });
  socket.receive('message', 0, { channel: 'y', messageId: 'a' });
  assert.deepEqual(received, ['a', 'b', 'a']);
});

test('what was seen is remembered within bounds', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  let received = 0;
  r.client.on('message', () => (received += 1));
  for (let n = 0; n <= 4096; n += 1) socket.receive('message', 0, { channel: 'x', messageId: `m${n}` });
  socket.receive('message', 0, { channel: 'x', messageId: 'm4096' });
  assert.equal(received, 4097);
  socket.receive('message', 0, { channel: 'x', messageId: 'm0' });
  assert.equal(received, 4098, 'the oldest is forgotten');
});

test('inbox messages are acked together, after a quiet moment, with the highest offset', async () => {
  const r = rig(createClient);
  r.client.on('user_notification', nothing);
  const socket = await r.connect();
  for (const offset of [1, 2, 3]) socket.receive(...inboxPush(offset));
  await nextTurn();
  assert.deepEqual(socket.of('ack'), []);
  await r.clock.advance(300);
  assert.deepEqual(socket.of('ack').map((message) => message.data), [{ offset: 3, epoch: 'i1' }]);
});

test('nothing is acked before the handlers of all before it have run', async () => {
  const r = rig(createClient);
  let release;
  r.client.on('user_notification', (push) => (push.offset === 1 ? new Promise((resolve) => (release = resolve)) : undefined));
  const socket = await r.connect();
  socket.receive(...inboxPush(1));
  socket.receive(...inboxPush(2));
  await r.clock.advance(5000);
  assert.deepEqual(socket.of('ack'), []);
  release();
  await r.clock.advance(300);
  assert.deepEqual(socket.of('ack').map((message) => message.data.offset), [2]);
});

test('a failing handler is reported and counts as run', async (context) => {
  context.mock.method(console, 'error', nothing);
  const r = rig(createClient);
  r.client.on('user_notification', () => Promise.reject(new Error('mine')));
  const socket = await r.connect();
  socket.receive(...inboxPush(1));
  await r.clock.advance(300);
  assert.equal(socket.of('ack').length, 1);
});

test('an ack that found no link goes with the next', async () => {
  const r = rig(createClient);
  r.client.on('user_notification', nothing);
  const socket = await r.connect();
  socket.receive(...inboxPush(1));
  await nextTurn();
  const after = await again(r);
  assert.deepEqual(after.of('ack').map((message) => message.data), [{ offset: 1, epoch: 'i1' }]);
  assert.deepEqual(after.of('auth')[0].data.positions['user:42'], { offset: 1, epoch: 'i1' });
});

test('a final task event through the inbox is shown once and acked', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  let received = 0;
  r.client.on('task_completed', () => (received += 1));
  const done = { taskId: 't1', userId: '42', status: 'completed', percentage: 100, version: 5, createdAt: 1, updatedAt: 2 };
  const event = ['task_completed', done, { channel: 'task:t1', offset: 1, epoch: 'i1', messageId: 'f1' }];
  socket.receive(...event);
  socket.receive(...event);
  await r.clock.advance(300);
  assert.equal(received, 1);
  assert.deepEqual(socket.of('ack').map((message) => message.data.offset), [1]);
  assert.equal(r.client.getTaskProgress('t1'), 100);
});

test('a final task event is told although the state was known before', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  let received = 0;
  r.client.on('task_completed', () => (received += 1));
  const done = { taskId: 't1', userId: '42', status: 'completed', percentage: 100, version: 5, createdAt: 1, updatedAt: 2 };
  r.client.task('t1').get();
  socket.answer('task_get', 'task', done);
  await nextTurn();
  assert.equal(r.client.getTaskStatus('t1'), 'completed');
  socket.receive('task_completed', done, { channel: 'task:t1', offset: 1, epoch: 'i1', messageId: 'f1' });
  assert.equal(received, 1);
});

test('autoAck false leaves it to the application', async () => {
  const r = rig(createClient, { autoAck: false });
  const socket = await r.connect();
  socket.receive(...inboxPush(1));
  await r.clock.advance(5000);
  assert.deepEqual(socket.of('ack'), []);
  r.client.ack(1);
  await r.clock.advance(300);
  assert.equal(socket.of('ack').length, 1);
});

test('a page that goes away acks at once; so does disconnect', async () => {
  const r = rig(createClient);
  r.client.on('user_notification', nothing);
  const socket = await r.connect();
  socket.receive(...inboxPush(1));
  await nextTurn();
  r.window.dispatchEvent(new Event('pagehide'));
  assert.equal(socket.of('ack').length, 1);
  socket.receive(...inboxPush(2));
  await nextTurn();
  r.client.disconnect();
  assert.deepEqual(socket.of('ack').map((message) => message.data.offset), [1, 2]);
});

test('inbox_overflow and an inbox made anew are told as gaps', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  socket.receive('inbox_overflow', { lost: 3 }, { channel: 'user:42' });
  assert.deepEqual(r.received('gap'), [{ channel: 'user:42', cause: 'overflow', lost: 3 }]);
  const after = await again(r, { inbox: { offset: 1, epoch: 'i2', acked: 0, pending: 1 } });
  assert.deepEqual(r.received('gap').at(-1), { channel: 'user:42', cause: 'not_recovered' });
  const received = [];
  r.client.on('user_notification', (push) => received.push(push.offset));
  after.receive(...inboxPush(1, { epoch: 'i2', messageId: 'new' }));
  await r.clock.advance(300);
  assert.deepEqual(received, [1]);
  assert.deepEqual(after.of('ack').map((message) => message.data), [{ offset: 1, epoch: 'i2' }]);
});

test('a position of an earlier epoch is kept, so that what another device acknowledged is not missing here', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  r.client.on('user_notification', (push) => received.push(push.messageId));
  for (const offset of [1, 2]) socket.receive(...inboxPush(offset));
  const moved = { inbox: { offset: 4, epoch: 'i2', acked: 4, pending: 2 } };
  let after = await again(r, moved);
  assert.deepEqual(after.of('auth')[0].data.positions['user:42'], { offset: 2, epoch: 'i1' });
  // Lost again before the first push.
  after = await again(r, moved);
  assert.deepEqual(after.of('auth')[0].data.positions['user:42'], { offset: 2, epoch: 'i1' });
  for (const offset of [3, 4]) after.receive(...inboxPush(offset, { epoch: 'i2' }));
  assert.deepEqual(received, ['n1', 'n2', 'n3', 'n4']);
  assert.deepEqual(r.client.getPosition('user:42'), { offset: 4, epoch: 'i2' });
  after.receive('resync', { channel: 'user:42' }, { channel: 'user:42' });
  after = await again(r, { inbox: { offset: 5, epoch: 'i3', acked: 5, pending: 1 } });
  assert.deepEqual(after.of('auth')[0].data.positions['user:42'], { offset: 4, epoch: 'i2' });
});

test('what is kept after a position of an earlier epoch is told, and that it may not be all', async () => {
  const r = rig(createClient);
  const received = [];
  r.client.subscribeChannel('a', (push) => received.push(push.offset), { since: { offset: 3, epoch: 'e1' } });
  const socket = await r.connect();
  const messages = [4, 5].map((offset) => ({ type: 'message', channel: 'a', data: 0, offset, epoch: 'e2', messageId: `m${offset}` }));
  socket.answer('subscribe', ...subscribed({ a: { recovered: false, offset: 5, epoch: 'e2', messages } }));
  assert.deepEqual([received, r.received('gap')], [[4, 5], [{ channel: 'a', cause: 'not_recovered' }]]);
  assert.deepEqual(r.client.getPosition('a'), { offset: 5, epoch: 'e2' });
});

test('a resync of the inbox reads what it still holds and shows nothing twice', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const received = [];
  r.client.on('user_notification', (push) => received.push(push.messageId));
  for (const offset of [1, 2]) socket.receive(...inboxPush(offset));
  socket.receive('resync', { channel: 'user:42' }, { channel: 'user:42' });
  const held = [1, 2, 3].map((offset) => {
    const [type, data, more] = inboxPush(offset, { epoch: 'i2' });
    return { type, data, ...more };
  });
  socket.answer('history', 'history', { messages: held, offset: 3, epoch: 'i2' });
  assert.deepEqual(received, ['n1', 'n2', 'n3']);
  assert.deepEqual(r.client.getPosition('user:42'), { offset: 3, epoch: 'i2' });
  await r.clock.advance(300);
  assert.deepEqual(socket.of('ack').at(-1).data, { offset: 3, epoch: 'i2' });
});

test('another user starts from nothing', async () => {
  const r = rig(createClient);
  const socket = await r.connect({ tasks: [{ taskId: 't', userId: '42', status: 'running', percentage: 5, version: 1, createdAt: 1 }] });
  socket.receive(...inboxPush(1));
  const after = await again(r, { userId: '7', channels: ['user:7', 'system'], inbox: { offset: 0, epoch: 'j', acked: 0, pending: 0 } });
  assert.equal(r.client.getState().tasks.size, 0);
  assert.deepEqual(r.client.getPosition('user:42'), undefined);
  await r.clock.advance(1000);
  assert.deepEqual(after.of('ack'), []);
});

test('what is not a message, and what is unknown, does no harm', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  for (const data of ['', '{', 'null', '[]', '{"type":1}', '{"type":"x"}', '{"type":"task_progress"}', '{"type":"resync"}']) socket.onmessage({ data });
  assert.equal(r.client.getState().isConnected, true);
});

test('a push named like one of the client\'s own events does not pass for it', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const everything = [];
  r.client.on('*', (push) => everything.push(push.type));
  socket.receive('connect', {}, { channel: 'a', messageId: 'm' });
  assert.equal(r.received('connect').length, 1);
  assert.deepEqual(everything, ['connect']);
});
