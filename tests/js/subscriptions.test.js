// Channels over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSubscriptions } from '../../pushserver/web/static/pushclient/subscriptions.js';
import { fakeLine, fakeLink, nextTurn } from './fakes.js';

function stage() {
  const line = fakeLine();
  line.link = fakeLink(line);
  const taken = [];
  line.user.inbox = { open: () => false, take: (push) => taken.push(push.offset) };
  return { line, taken, subscriptions: createSubscriptions(line) };
}

const message = (channel, offset) => ({ type: 'message', channel, data: 0, offset, epoch: 'e', messageId: `m${offset}` });

test('one message asks for what is wanted, and the answer settles it', async () => {
  const { line, subscriptions } = stage();
  const a = subscriptions.add('a', () => {}, { offset: 3, epoch: 'e' });
  const b = subscriptions.add('b', () => {});
  await nextTurn();
  assert.deepEqual(line.asked.map(({ data }) => data), [{ channels: [{ channel: 'a', since: { offset: 3, epoch: 'e' } }, 'b'] }]);
  const results = { a: { recovered: true, offset: 5, epoch: 'e', messages: [message('a', 5)] } };
  line.asked[0].reply({ results, rejected: { b: { code: 'PERMISSION_DENIED', message: 'no' } } });
  assert.equal((await a.ready).offset, 5);
  await assert.rejects(b.ready, { code: 'PERMISSION_DENIED' });
  assert.deepEqual(line.handed.map(({ offset }) => offset), [5]);
  assert.deepEqual(line.told.map(([type]) => type), ['recovered', 'subscribed', 'rejected']);
});

test('offsets tell a repeat', () => {
  const { line, subscriptions } = stage();
  for (const offset of [1, 2, 2, 1, 4]) subscriptions.receive(line.link, message('a', offset));
  assert.deepEqual(line.handed.map(({ offset }) => offset), [1, 2, 4]);
});

test('what comes before the answer to a resumption waits for it', async () => {
  const { line, subscriptions } = stage();
  subscriptions.add('a', () => {}, { offset: 1, epoch: 'e' });
  await nextTurn();
  subscriptions.receive(line.link, message('a', 4));
  assert.deepEqual(line.handed, []);
  const messages = [2, 3].map((offset) => message('a', offset));
  line.asked[0].reply({ results: { a: { recovered: true, offset: 3, epoch: 'e', messages } } });
  assert.deepEqual(line.handed.map(({ offset }) => offset), [2, 3, 4]);
});

test('a message of the inbox is passed on to it, a final task event too', () => {
  const { line, taken, subscriptions } = stage();
  subscriptions.receive(line.link, message('user:42', 1));
  subscriptions.receive(line.link, message('task:t', 2));
  subscriptions.receive(line.link, message('user:7', 3));
  assert.deepEqual(taken, [1, 2]);
});

test('an answer for an earlier link says nothing', async () => {
  const { line, subscriptions } = stage();
  subscriptions.add('a', () => {});
  await nextTurn();
  line.link = fakeLink(line);
  line.asked[0].reply({ results: { a: { recovered: false, offset: 5, epoch: 'e', messages: [] } } });
  assert.deepEqual(line.told, []);
  assert.equal(subscriptions.position('a'), undefined);
});

test('a position ends with its subscription: what came before a new one does not come with it', async () => {
  const { line, subscriptions } = stage();
  const first = subscriptions.add('a', () => {});
  await nextTurn();
  line.asked[0].reply({ results: { a: { recovered: false, offset: 5, epoch: 'e' } } });
  subscriptions.receive(line.link, message('a', 6));
  assert.deepEqual(first.position, { offset: 6, epoch: 'e' });
  const { link } = line;
  line.link = null;
  first.unsubscribe();
  assert.equal(subscriptions.position('a'), undefined);
  line.link = link;
  subscriptions.receive(link, message('a', 7));
  subscriptions.add('a', () => {});
  await nextTurn();
  assert.deepEqual(line.asked.at(-1).data, { channels: ['a'] });
});

test('a later offset in one epoch is a new message, whatever its id', () => {
  const { line, subscriptions } = stage();
  for (const offset of [1, 2]) subscriptions.receive(line.link, { ...message('a', offset), messageId: 'daily' });
  assert.deepEqual(line.handed.map(({ offset }) => offset), [1, 2]);
});

test('without an offset, or across epochs, an id is the same message for five minutes', () => {
  const { line, subscriptions } = stage();
  const daily = (timestamp, more = {}) => ({ type: 'message', channel: 'live', messageId: 'daily', timestamp, ...more });
  for (const timestamp of [0, 299_999, 300_000]) subscriptions.receive(line.link, daily(timestamp));
  subscriptions.receive(line.link, daily(300_001, { from: '7' }));
  assert.deepEqual(line.handed.map(({ timestamp }) => timestamp), [0, 300_000, 300_001]);
  subscriptions.receive(line.link, { ...message('a', 5), timestamp: 1 });
  subscriptions.receive(line.link, { ...message('a', 1), messageId: 'm5', epoch: 'f', timestamp: 1 });
  assert.equal(line.handed.length, 4);
});

test('a subscription has a state', async () => {
  const { line, subscriptions } = stage();
  const subscription = subscriptions.add('a', () => {});
  assert.equal(subscription.state, 'subscribing');
  await nextTurn();
  line.asked[0].reply({ results: { a: {} } });
  assert.equal(subscription.state, 'subscribed');
  subscriptions.lost();
  assert.equal(subscription.state, 'subscribing');
  subscriptions.receive(line.link, { type: 'unsubscribed', channel: 'a', data: { channel: 'a', code: 'TOKEN_EXPIRED', reason: 'too late' } });
  assert.equal(subscription.state, 'closed');
  assert.equal(subscription.error.code, 'TOKEN_EXPIRED');
  const refused = subscriptions.add('b', () => {});
  await nextTurn();
  line.asked.at(-1).reply({ rejected: { b: { code: 'PERMISSION_DENIED', message: 'no' } } });
  assert.equal(refused.state, 'rejected');
  assert.equal(refused.error.code, 'PERMISSION_DENIED');
  assert.throws(() => subscriptions.add('c', undefined), TypeError);
});

test('another user reads every channel from now on', async () => {
  const { line, subscriptions } = stage();
  subscriptions.add('a', () => {}, { offset: 1, epoch: 'e' });
  subscriptions.forget();
  await nextTurn();
  assert.deepEqual(line.asked.map(({ data }) => data), [{ channels: ['a'] }]);
});

test('a resync of the inbox forgets the tasks, reads page after page, and keeps what comes meanwhile for the end', () => {
  const { line, taken, subscriptions } = stage();
  subscriptions.open(['user:42'], { epoch: 'e', acked: 0 });
  subscriptions.receive(line.link, { type: 'resync', channel: 'user:42', data: { channel: 'user:42' } });
  assert.equal(line.tasksForgotten, 1);
  const kept = (offset) => ({ ...message('user:42', offset), epoch: 'f' });
  subscriptions.receive(line.link, kept(4));
  line.asked[0].reply({ messages: [kept(1), kept(2)], offset: 2, epoch: 'f', more: true });
  assert.deepEqual(line.asked[1].data, { channel: 'user:42', limit: 1000, since: { offset: 2, epoch: 'f' } });
  line.asked[1].reply({ messages: [kept(3)], offset: 3, epoch: 'f' });
  assert.deepEqual(taken, [1, 2, 3, 4]);
});

test('what was kept over a reload is where a channel resumes, once', async () => {
  const { line, subscriptions } = stage();
  line.user.kept = { a: { offset: 9, epoch: 'e' }, z: { offset: 1, epoch: 'e' } };
  const a = subscriptions.add('a', () => {});
  await nextTurn();
  assert.deepEqual(line.asked[0].data, { channels: [{ channel: 'a', since: { offset: 9, epoch: 'e' } }] });
  assert.deepEqual(subscriptions.positions(true), { a: { offset: 9, epoch: 'e' }, z: { offset: 1, epoch: 'e' } });
  a.unsubscribe();
  subscriptions.add('a', () => {});
  await nextTurn();
  assert.deepEqual(line.asked.at(-1).data, { channels: ['a'] });
});

test('a position in the inbox that was kept over a reload is asked about where its epoch has moved on', async () => {
  const { line, taken, subscriptions } = stage();
  const own = `user:${line.user.id}`;
  line.user.kept = { [own]: { offset: 2, epoch: 'e1' } };
  const inbox = { offset: 4, epoch: 'e2', acked: 4, pending: 0 };
  subscriptions.open([own, 'system'], inbox);
  subscriptions.begin(line.link, { results: {}, inbox });
  assert.deepEqual(line.asked[0].data, { channels: [{ channel: own, since: { offset: 2, epoch: 'e1' } }, 'system'] });
  // What another device acknowledged meanwhile.
  const messages = [3, 4].map((offset) => ({ ...message(own, offset), epoch: 'e2' }));
  line.asked[0].reply({ results: { [own]: { recovered: false, offset: 4, epoch: 'e2', messages }, system: {} } });
  assert.deepEqual(taken, [3, 4]);
  assert.deepEqual(subscriptions.position(own), { offset: 4, epoch: 'e2' });
  subscriptions.open([own, 'system'], inbox);
  subscriptions.begin(line.link, { results: {}, inbox });
  assert.deepEqual(line.asked[1].data, { channels: ['system'] });
});
