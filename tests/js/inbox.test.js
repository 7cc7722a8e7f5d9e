// The inbox over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Inbox } from '../../pushserver/web/static/pushclient/inbox.js';
import { DEFAULTS } from '../../pushserver/web/static/pushclient/options.js';
import { fakeLine, fakeLink, settle } from './fakes.js';

function stage(options = {}) {
  const line = fakeLine();
  line.link = fakeLink();
  const inbox = new Inbox(line, { ...DEFAULTS, ...options });
  inbox.open({ epoch: 'e', acked: 0 });
  return { line, inbox, acks: () => line.asked.map(({ data }) => data) };
}

test('acks are gathered and tell the highest offset', async () => {
  const { line, inbox, acks } = stage();
  for (const offset of [1, 2, 3]) inbox.handledAfter([], { offset, epoch: 'e' });
  await line.clock.advance(300);
  assert.deepEqual(acks(), [{ offset: 3, epoch: 'e' }]);
});

test('an ack that the server could not take is sent again; one that it refused is not', async () => {
  const { line, inbox, acks } = stage();
  inbox.ack(2);
  inbox.flush();
  line.asked[0].failed({ code: 'UNAVAILABLE' });
  await line.clock.advance(300);
  assert.equal(acks().length, 2);
  line.asked[1].failed({ code: 'CONFLICT' });
  await line.clock.advance(3000);
  assert.equal(acks().length, 2);
});

test('what was handled without a link is told by the next', () => {
  const { line, inbox, acks } = stage();
  line.link = null;
  inbox.ack(2);
  inbox.flush();
  assert.deepEqual(acks(), []);
  line.link = fakeLink();
  inbox.flush();
  assert.deepEqual(acks(), [{ offset: 2, epoch: 'e' }]);
});

test('an inbox made anew is told apart, and forgets what was handled', async () => {
  const { line, inbox, acks } = stage();
  inbox.ack(5);
  assert.equal(inbox.open({ epoch: 'e', acked: 0 }), false);
  assert.equal(inbox.open({ epoch: 'f', acked: 0 }), true);
  inbox.flush();
  assert.deepEqual(acks(), []);
  inbox.handledAfter([], { offset: 9, epoch: 'e' });
  await settle();
  await line.clock.advance(1000);
  assert.deepEqual(acks(), [], 'of an earlier epoch');
});

test('what another user left unfinished acks nothing', async () => {
  const { line, inbox, acks } = stage();
  let release;
  inbox.handledAfter([new Promise((resolve) => (release = resolve))], { offset: 1, epoch: 'e' });
  line.userId = '7';
  release();
  await line.clock.advance(1000);
  assert.deepEqual(acks(), []);
});
