// Channels over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Subscriptions } from '../../pushserver/web/static/pushclient/subscriptions.js';
import { fakeLine, fakeLink, settle } from './fakes.js';

function stage() {
  const line = fakeLine();
  line.link = fakeLink();
  const handled = [];
  const inbox = { open: () => false, restart: () => {}, forget: () => {}, handledAfter: (running, push) => handled.push(push.offset) };
  return { line, handled, subscriptions: new Subscriptions(line, inbox) };
}

const message = (channel, offset) => ({ type: 'message', channel, data: 0, offset, epoch: 'e', messageId: `m${offset}` });

test('one message asks for what is wanted, and the answer settles it', async () => {
  const { line, subscriptions } = stage();
  const a = subscriptions.add('a', () => {}, { offset: 3, epoch: 'e' });
  const b = subscriptions.add('b', () => {});
  await settle();
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
  await settle();
  subscriptions.receive(line.link, message('a', 4));
  assert.deepEqual(line.handed, []);
  const messages = [2, 3].map((offset) => message('a', offset));
  line.asked[0].reply({ results: { a: { recovered: true, offset: 3, epoch: 'e', messages } } });
  assert.deepEqual(line.handed.map(({ offset }) => offset), [2, 3, 4]);
});

test('a message of the inbox is passed on to it, a final task event too', () => {
  const { line, handled, subscriptions } = stage();
  subscriptions.receive(line.link, message('user:42', 1));
  subscriptions.receive(line.link, message('task:t', 2));
  subscriptions.receive(line.link, message('user:7', 3));
  assert.deepEqual(handled, [1, 2]);
});

test('an answer for an earlier link says nothing', async () => {
  const { line, subscriptions } = stage();
  subscriptions.add('a', () => {});
  await settle();
  line.link = fakeLink();
  line.asked[0].reply({ results: { a: { recovered: false, offset: 5, epoch: 'e', messages: [] } } });
  assert.deepEqual(line.told, []);
  assert.equal(subscriptions.position('a'), undefined);
});
