// Requests over a line that the test holds.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { test } from 'node:test';
import { DEFAULTS } from '../../pushserver/web/static/pushclient/options.js';
import { createOutbox } from '../../pushserver/web/static/pushclient/outbox.js';
import { fakeLine, fakeLink } from './fakes.js';

function stage(options = {}) {
  const line = fakeLine();
  return { line, outbox: createOutbox(line, { ...DEFAULTS, ...options }) };
}

/** Gives the line a link, and the outbox its chance. */
function open({ line, outbox }) {
  line.link = fakeLink(line);
  outbox.pump();
  return line.link;
}

test('requests wait for a link and go out in order, each with an id of its own', async () => {
  const s = stage();
  const first = s.outbox.request('a', 1);
  s.outbox.request('b', 2);
  assert.equal(s.line.watched, 2, 'somebody looks after their time');
  const link = open(s);
  assert.deepEqual(link.sent, [{ type: 'a', id: 1, data: 1 }, { type: 'b', id: 2, data: 2 }]);
  assert.ok(s.outbox.finish({ type: 'a_done', id: 1, data: { n: 1 } }));
  assert.deepEqual(await first, { n: 1 });
  assert.ok(!s.outbox.finish({ type: 'a_done', id: 1, data: {} }), 'nobody waits for it any more');
});

test('what was on the way when the link broke goes again, with its id; what the client asked does not', async () => {
  const s = stage();
  open(s);
  const failures = [];
  s.outbox.request('publish', { messageId: 'm' });
  s.outbox.ask('ack', {}, () => {}, (error) => failures.push(error));
  s.line.link = null;
  s.outbox.lost();
  assert.deepEqual(failures, [null]);
  assert.deepEqual(open(s).sent, [{ type: 'publish', id: 1, data: { messageId: 'm' } }]);
});

test('without a link the client cannot ask', () => {
  const failures = [];
  stage().outbox.ask('ack', {}, () => {}, (error) => failures.push(error));
  assert.deepEqual(failures, [null]);
});

test('a rate limit is waited out, in order', async () => {
  const s = stage();
  const link = open(s);
  for (const n of [1, 2]) s.outbox.request('publish', n);
  s.outbox.finish({ type: 'error', id: 1, data: { code: 'RATE_LIMITED', retryAfter: 500 } });
  s.outbox.finish({ type: 'error', id: 2, data: { code: 'RATE_LIMITED', retryAfter: 500 } });
  await s.line.clock.advance(499);
  assert.equal(link.sent.length, 2);
  await s.line.clock.advance(1);
  assert.deepEqual(link.sent.slice(2).map(({ id }) => id), [1, 2]);
});

test('what waits too long, for a reply or for a link, ends', async () => {
  const s = stage({ requestTimeout: 1000, queueTimeout: 5000 });
  open(s);
  const unanswered = s.outbox.request('a', {});
  s.line.link = null;
  const unsent = s.outbox.request('b', {});
  s.line.clock.time += 1000;
  s.outbox.tick();
  await assert.rejects(unanswered, { code: 'TIMEOUT', message: /no reply to a in time/ });
  s.line.clock.time += 4000;
  s.outbox.tick();
  await assert.rejects(unsent, { code: 'TIMEOUT', message: /no connection for b/ });
});

test('a signal that outlives its requests keeps nothing of them', async () => {
  const s = stage();
  open(s);
  const { signal } = new AbortController();
  const done = s.outbox.request('a', {}, { signal });
  const refused = s.outbox.request('b', {}, { signal });
  assert.equal(getEventListeners(signal, 'abort').length, 2);
  s.outbox.finish({ type: 'a_done', id: 1, data: {} });
  s.outbox.finish({ type: 'error', id: 2, data: { code: 'NOT_FOUND', message: 'no' } });
  await done;
  await assert.rejects(refused, { code: 'NOT_FOUND' });
  assert.equal(getEventListeners(signal, 'abort').length, 0);
});

test('a signal ends a request, whether it waits or is on its way; a reply that comes later finds nobody', async () => {
  const s = stage();
  const [waiting, sent] = [new AbortController(), new AbortController()];
  const first = s.outbox.request('a', {}, { signal: waiting.signal });
  const second = s.outbox.request('b', {}, { signal: sent.signal });
  waiting.abort(new Error('the dialog was closed'));
  await assert.rejects(first, { message: 'the dialog was closed' });
  assert.deepEqual(open(s).sent.map(({ type }) => type), ['b']);
  sent.abort();
  await assert.rejects(second, { name: 'AbortError' });
  assert.ok(!s.outbox.finish({ type: 'b_done', id: 2, data: {} }));
  await assert.rejects(s.outbox.request('c', {}, { signal: sent.signal }), { name: 'AbortError' });
  assert.ok(s.outbox.isEmpty);
});

test('all ends with the connection, or with its user', async () => {
  const s = stage();
  const request = s.outbox.request('a', {});
  s.outbox.fail(Object.assign(new Error('gone'), { code: 'CLOSED' }));
  await assert.rejects(request, { code: 'CLOSED' });
  assert.deepEqual(open(s).sent, []);
});
