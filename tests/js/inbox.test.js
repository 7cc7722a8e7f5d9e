// One user's inbox over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UNTAKEN } from '../../pushserver/web/static/pushclient/events.js';
import { createInbox } from '../../pushserver/web/static/pushclient/inbox.js';
import { DEFAULTS } from '../../pushserver/web/static/pushclient/options.js';
import { fakeLine, fakeLink, nextTurn } from './fakes.js';

const push = (offset, more = {}) => ({ type: 'user_notification', offset, epoch: 'e', messageId: `m${offset}`, ...more });
const TAKEN = [undefined];

function stage(options = {}) {
  const line = fakeLine();
  line.link = fakeLink(line);
  const inbox = createInbox(line, { ...DEFAULTS, ...options });
  inbox.open({ epoch: 'e', acked: 0 });
  return { line, inbox, acks: () => line.asked.map(({ data }) => data) };
}

test('acks are gathered and tell the highest offset', async () => {
  const { line, inbox, acks } = stage();
  for (const offset of [1, 2, 3]) inbox.take(push(offset), TAKEN);
  await line.clock.advance(300);
  assert.deepEqual(acks(), [{ offset: 3, epoch: 'e' }]);
});

test('an ack that the server could not take is sent again, a second or two later; one that it refused is not', async () => {
  const { line, inbox, acks } = stage();
  inbox.ack(2);
  inbox.flush();
  line.asked[0].failed({ code: 'UNAVAILABLE' });
  // What comes meanwhile waits for it: ten errors in a row would end the connection.
  inbox.take(push(3), TAKEN);
  await line.clock.advance(999);
  assert.equal(acks().length, 1);
  await line.clock.advance(1001);
  assert.deepEqual(acks().slice(1), [{ offset: 3, epoch: 'e' }]);
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
  line.link = fakeLink(line);
  inbox.flush();
  assert.deepEqual(acks(), [{ offset: 2, epoch: 'e' }]);
});

test('an inbox made anew is told apart, and forgets what was handled', async () => {
  const { line, inbox, acks } = stage();
  inbox.ack(5);
  assert.equal(inbox.open({ epoch: 'e', acked: 0 }), false);
  assert.equal(inbox.open({ epoch: 'f', acked: 0 }), true);
  inbox.flush();
  inbox.take(push(9), TAKEN);
  await line.clock.advance(1000);
  assert.deepEqual(acks(), [], 'of an earlier epoch');
});

test('what another user left unfinished acks nothing', async () => {
  const { line, inbox, acks } = stage();
  let release;
  inbox.take(push(1), [new Promise((resolve) => (release = resolve))]);
  inbox.take(push(2), []);
  await nextTurn();
  inbox.end();
  release();
  await line.clock.advance(100_000);
  assert.deepEqual(acks(), []);
  assert.equal(line.clock.timers.size, 0);
});

test('what nobody took holds the cursor, and goes to the first handler that comes', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1), TAKEN);
  inbox.take(push(2), []);
  inbox.take(push(3), TAKEN);
  await line.clock.advance(1000);
  assert.deepEqual(acks(), [{ offset: 1, epoch: 'e' }]);
  line.handlers = () => [];
  inbox.offer();
  await line.clock.advance(1000);
  assert.equal(acks().length, 1, 'a handler of something else');
  line.handlers = () => TAKEN;
  inbox.offer();
  await line.clock.advance(1000);
  assert.deepEqual(line.handed.map(({ offset }) => offset), [2, 2]);
  assert.deepEqual(acks().at(-1), { offset: 3, epoch: 'e' });
  inbox.offer();
  assert.equal(line.handed.length, 2, 'once');
});

test('a handler that says so did not take it', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1), [Promise.resolve(UNTAKEN), UNTAKEN]);
  await line.clock.advance(1000);
  assert.deepEqual(acks(), []);
  inbox.take(push(2), [Promise.resolve(UNTAKEN), Promise.resolve()]);
  await line.clock.advance(DEFAULTS.holdUnhandled);
  assert.deepEqual(acks().at(-1), { offset: 2, epoch: 'e' });
});

test('after a minute it is let go, unread, counted from when it came', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1), []);
  await line.clock.advance(40_000);
  inbox.rest();
  assert.equal(line.clock.timers.size, 0, 'no timer while no connection is wanted');
  inbox.open({ epoch: 'e', acked: 0 });
  await line.clock.advance(19_900);
  assert.deepEqual(acks(), []);
  await line.clock.advance(500);
  assert.deepEqual(acks(), [{ offset: 1, epoch: 'e' }]);
  inbox.offer();
  assert.deepEqual(line.handed, []);
});

test('while no connection is wanted no handler is waited for; then it has its time again', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1), [new Promise(() => {})]);
  inbox.rest();
  assert.equal(line.clock.timers.size, 0, 'a process that has disconnected may end');
  await line.clock.advance(2 * DEFAULTS.handlerTimeout);
  inbox.open({ epoch: 'e', acked: 0 });
  await line.clock.advance(DEFAULTS.handlerTimeout - 100);
  assert.deepEqual(acks(), []);
  await line.clock.advance(500);
  assert.deepEqual(acks(), [{ offset: 1, epoch: 'e' }]);
});

test('the end of a task is taken by the store, and everything by a page that shows the whole inbox', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1, { type: 'task_completed', data: { status: 'completed' } }), []);
  inbox.take(push(2), []);
  await line.clock.advance(1000);
  assert.deepEqual(acks(), [{ offset: 1, epoch: 'e' }]);
  line.inboxList.isWanted = true;
  inbox.showWhole();
  inbox.take(push(3), []);
  await line.clock.advance(1000);
  assert.deepEqual(acks().at(-1), { offset: 3, epoch: 'e' });
});

test('a handler that does not end is reported, and holds up no ack for longer', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1), [new Promise(() => {})]);
  inbox.take(push(2), TAKEN);
  await line.clock.advance(DEFAULTS.handlerTimeout - 1);
  assert.deepEqual(acks(), []);
  await line.clock.advance(301);
  assert.deepEqual(line.told.map(([type, { code, message }]) => [type, code, message]), [
    ['error', 'HANDLER', 'a handler of user_notification has not ended in time'],
  ]);
  assert.deepEqual(acks(), [{ offset: 2, epoch: 'e' }]);
});

test('with a hundred behind it a handler has a second left', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(1), [new Promise(() => {})]);
  for (let offset = 2; offset <= 100; offset += 1) inbox.take(push(offset), TAKEN);
  await line.clock.advance(5000);
  assert.deepEqual(acks(), []);
  for (let offset = 101; offset <= 103; offset += 1) inbox.take(push(offset), TAKEN);
  await line.clock.advance(1300);
  assert.deepEqual(acks(), [{ offset: 103, epoch: 'e' }]);
  assert.equal(line.told.length, 1);
});

test('what is held holds back what was read anew behind it, also in another epoch', async () => {
  const { line, inbox, acks } = stage();
  inbox.take(push(7), []);
  await nextTurn();
  inbox.open({ epoch: 'f', acked: 0 });
  inbox.take(push(1, { messageId: 'm7', epoch: 'f' }), [null]);
  await line.clock.advance(1000);
  assert.deepEqual(acks(), []);
  line.handlers = () => TAKEN;
  inbox.offer();
  await line.clock.advance(1000);
  assert.deepEqual(acks(), [{ offset: 1, epoch: 'f' }]);
});
