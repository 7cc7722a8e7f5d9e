// The inbox as the application sees it, over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createInboxList, NO_INBOX } from '../../pushserver/web/static/pushclient/inbox_list.js';
import { deferred } from '../../pushserver/web/static/pushclient/promises.js';
import { fakeLine, fakeLink, nextTurn } from './fakes.js';

const counts = (notification = 0, chat = 0, task = 0) => ({ notification, chat, task });
const message = (offset, more = {}) => ({ type: 'user_notification', channel: 'user:42', data: offset, offset, epoch: 'e', messageId: `m${offset}`, ...more });
const kept = (offset, readAt = null) => message(offset, { readAt });
const page = (messages, more = {}) => ({ messages, more: false, unread: counts(), offset: 9, epoch: 'e', ...more });
const span = (from, to) => Array.from({ length: from - to + 1 }, (_, index) => kept(from - index));

function stage(open = { epoch: 'e', offset: 0, unread: counts() }) {
  const line = fakeLine();
  line.link = fakeLink(line);
  const list = createInboxList(line, { ackDelay: 300 });
  line.inboxList = list;
  list.open(open);
  const stand = {
    line,
    list,
    get now() {
      return line.shown.at(-1) ?? NO_INBOX;
    },
    get offsets() {
      return stand.now.messages.map(({ offset }) => offset);
    },
    /** The application asks; the test answers. */
    ask(type, data) {
      const reply = deferred();
      list.follow(type, data, reply.promise);
      return async (result) => {
        if (result instanceof Error) reply.reject(result);
        else reply.resolve(result);
        await nextTurn();
      };
    },
    /** Answers the last request of the list's own. */
    async answer(result) {
      line.asked.at(-1).reply(result);
      await nextTurn();
    },
  };
  return stand;
}

test('before the application asks for its inbox there are counts alone', () => {
  const s = stage({ epoch: 'e', offset: 4, unread: counts(2) });
  assert.deepEqual([s.now.unread, s.now.offset, s.now.epoch], [counts(2), 4, 'e']);
  s.list.add(message(4));
  assert.deepEqual(s.now.unread, counts(2), 'what waited for the sign-in was counted');
  s.list.add(message(5));
  s.list.add(message(6, { type: 'chat_message', data: {} }));
  s.list.add(message(7, { type: 'task_failed', data: { status: 'failed' } }));
  s.list.add(message(8, { type: 'task_of_mine', data: {} }));
  assert.deepEqual(s.now.unread, counts(4, 1, 1));
  assert.deepEqual([s.now.messages, s.now.more], [[], false]);
  assert.deepEqual(s.line.asked, []);
});

test('pages are one list, newest first, and what comes stands on top', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(9) });
  await s.ask('inbox', { limit: 3 })(page(span(9, 7), { more: true, unread: counts(9) }));
  assert.deepEqual([s.offsets, s.now.more], [[9, 8, 7], true]);
  s.list.add(message(10));
  assert.deepEqual([s.offsets, s.now.messages[0].readAt, s.now.unread], [[10, 9, 8, 7], null, counts(10)]);
  const before = { offset: 7, epoch: 'e' };
  await s.ask('inbox', { limit: 6, before })(page(span(6, 1), { offset: 10, unread: counts(10) }));
  assert.deepEqual([s.offsets, s.now.more], [[10, 9, 8, 7, 6, 5, 4, 3, 2, 1], false]);
  await s.ask('inbox', { limit: 2 })(page(span(10, 9), { more: true, offset: 10, unread: counts(10) }));
  assert.deepEqual([s.offsets, s.now.more], [[10, 9], true], 'the newest page begins it anew');
});

test('a page beside what is shown, and one of unread messages alone, make no hole', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(9) });
  await s.ask('inbox', {})(page(span(9, 8), { more: true, unread: counts(9) }));
  await s.ask('inbox', { before: { offset: 4, epoch: 'e' } })(page(span(3, 2), { unread: counts(8) }));
  await s.ask('inbox', { unread: true })(page([kept(9), kept(2)], { unread: counts(7) }));
  assert.deepEqual([s.offsets, s.now.unread], [[9, 8], counts(7)]);
});

test('what another device did is done here', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(5) });
  await s.ask('inbox', {})(page([kept(9), kept(8, 5), kept(7), kept(6), kept(5)], { unread: counts(4) }));
  s.list.changed({ offsets: [8, 7], epoch: 'e', readAt: 77, unread: counts(3) });
  assert.deepEqual(s.now.messages.map(({ readAt }) => readAt), [null, 5, 77, null, null], 'the first reading stays');
  s.list.changed({ offsets: [8], epoch: 'e', readAt: null, unread: counts(4) });
  s.list.changed({ offsets: [9, 3], epoch: 'e', deleted: true, unread: counts(3) });
  assert.deepEqual(s.now.messages.map(({ offset, readAt }) => [offset, readAt]), [[8, null], [7, 77], [6, null], [5, null]]);
  s.list.changed({ upTo: 6, epoch: 'e', readAt: 99, unread: counts(1) });
  assert.deepEqual(s.now.messages.map(({ readAt }) => readAt), [null, 77, 99, 99]);
  s.list.changed({ upTo: 9, epoch: 'another', deleted: true, unread: counts() });
  assert.deepEqual([s.offsets.length, s.now.unread], [4, counts(1)], 'of another epoch');
});

test('what the application does is shown at once, and undone where the server refuses', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(3) });
  await s.ask('inbox', {})(page([kept(9), kept(8), kept(7)], { unread: counts(3) }));
  const answer = s.ask('inbox_read', { epoch: 'e', offsets: [8] });
  assert.deepEqual([s.now.unread, s.now.messages[1].readAt], [counts(3), s.line.now()]);
  await answer({ unread: counts(2) });
  assert.deepEqual(s.now.unread, counts(2));
  const refuse = s.ask('inbox_delete', { epoch: 'e', upTo: 9 });
  assert.deepEqual(s.offsets, []);
  await refuse(Object.assign(new Error('another epoch'), { code: 'CONFLICT' }));
  assert.equal(s.line.asked.length, 1);
  await s.answer(page([kept(9), kept(8, 4), kept(7)], { unread: counts(2) }));
  assert.deepEqual([s.offsets, s.now.unread], [[9, 8, 7], counts(2)]);
  const again = s.ask('inbox_read', { epoch: 'e', offsets: [8], read: false });
  assert.equal(s.now.messages[1].readAt, null);
  await again({ unread: counts(3) });
  assert.deepEqual(s.now.unread, counts(3));
});

test('a page that a change has overtaken is read once more', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(2) });
  const answer = s.ask('inbox', {});
  s.list.changed({ offsets: [9], epoch: 'e', readAt: 77, unread: counts(1) });
  await answer(page([kept(9), kept(8)], { unread: counts(2) }));
  assert.deepEqual([s.offsets, s.now.unread], [[9, 8], counts(1)]);
  await s.line.clock.advance(300);
  assert.deepEqual(s.line.asked.map(({ data }) => data), [{ limit: 200 }]);
  await s.answer(page([kept(9, 77), kept(8)], { unread: counts(1) }));
  assert.deepEqual([s.now.messages.map(({ readAt }) => readAt), s.now.unread], [[77, null], counts(1)]);
  await s.line.clock.advance(10_000);
  assert.equal(s.line.asked.length, 1, 'now it is certain');
});

test('of two reads under way the older one is not believed, though it is answered last', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(2) });
  const older = s.ask('inbox', {});
  s.list.changed({ offsets: [9], epoch: 'e', deleted: true, unread: counts(1) });
  await s.ask('inbox', { limit: 1, unread: true })(page([kept(8)], { unread: counts(1) }));
  await older(page([kept(9), kept(8)], { unread: counts(2) }));
  assert.deepEqual(s.now.unread, counts(1));
  await s.line.clock.advance(300);
  await s.answer(page([kept(8)], { unread: counts(1) }));
  assert.deepEqual([s.offsets, s.now.unread], [[8], counts(1)]);
  await s.line.clock.advance(10_000);
  assert.equal(s.line.asked.length, 1, 'now it is certain');
});

test('a change that overtakes a count alone is counted once more, and no message is read for it', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(2) });
  await s.ask('inbox', { limit: 2 })(page([kept(9), kept(8)], { more: true, unread: counts(2) }));
  s.list.changed({ offsets: [9], epoch: 'e', readAt: 77, unread: counts(1) });
  s.list.add(message(10));
  await s.line.clock.advance(300);
  s.list.changed({ offsets: [8], epoch: 'e', readAt: 77, unread: counts(1) });
  await s.answer(page([kept(10)], { more: true, offset: 10, unread: counts(2) }));
  await s.line.clock.advance(300);
  assert.deepEqual(s.line.asked.map(({ data }) => data), [{ limit: 1, unread: true }, { limit: 1, unread: true }]);
  await s.answer(page([kept(10)], { more: true, offset: 10, unread: counts(1) }));
  assert.deepEqual([s.offsets, s.now.unread], [[10, 9, 8], counts(1)]);
});

test('a message near a count may be counted already: the server is asked once for both', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(2) });
  s.list.changed({ offsets: [9], epoch: 'e', readAt: 77, unread: counts(2) });
  await s.line.clock.advance(10_000);
  assert.equal(s.line.asked.length, 0, 'a count alone is certain');
  for (const offset of [10, 11]) s.list.add(message(offset));
  assert.deepEqual(s.now.unread, counts(4));
  await s.line.clock.advance(300);
  assert.equal(s.line.asked.length, 1);
  s.list.add(message(12));
  await s.answer(page([kept(11)], { more: true, offset: 11, unread: counts(3) }));
  assert.deepEqual(s.now.unread, counts(5), 'this count is not of now');
  await s.line.clock.advance(300);
  await s.answer(page([kept(12)], { more: true, offset: 12, unread: counts(4) }));
  assert.deepEqual(s.now.unread, counts(4));
});

test('a sign-in reads anew what is shown, down to where it was', async () => {
  const s = stage({ epoch: 'e', offset: 300, unread: counts() });
  await s.ask('inbox', {})(page(span(300, 251), { more: true, offset: 300 }));
  await s.ask('inbox', { before: { offset: 251, epoch: 'e' } })(page(span(250, 51), { more: true, offset: 300 }));
  s.line.link = fakeLink(s.line);
  s.list.open({ epoch: 'e', offset: 301, unread: counts(1) });
  s.list.refresh();
  await s.answer(page(span(301, 102).filter(({ offset }) => offset !== 290), { more: true, offset: 301, unread: counts(1) }));
  assert.deepEqual(s.line.asked.map(({ data }) => data.before?.offset), [undefined, 102]);
  assert.equal(s.offsets.length, 250, 'it stays until it was read');
  await s.answer(page(span(101, 40).filter(({ offset }) => offset !== 60), { more: true, offset: 301, unread: counts(1) }));
  assert.equal(s.line.asked.length, 2);
  assert.deepEqual([s.offsets.includes(290), s.offsets.includes(60), s.offsets.length], [false, false, 260]);
});

test('another epoch begins anew; a read that fails for now is tried again', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(2) });
  await s.ask('inbox', {})(page([kept(9), kept(8)], { unread: counts(2) }));
  s.list.open({ epoch: 'f', offset: 3, unread: counts(1) });
  assert.deepEqual([s.offsets, s.now.unread], [[], counts(1)]);
  s.list.refresh();
  s.line.asked.at(-1).failed({ code: 'UNAVAILABLE' });
  await s.line.clock.advance(1000);
  assert.equal(s.line.asked.length, 2);
  await s.answer(page([message(3, { epoch: 'f', readAt: null })], { epoch: 'f', offset: 3, unread: counts(1) }));
  assert.deepEqual(s.offsets, [3]);
  s.list.refresh();
  s.line.asked.at(-1).failed({ code: 'PERMISSION_DENIED' });
  await s.line.clock.advance(10_000);
  assert.equal(s.line.asked.length, 3);
});

test('a first read of the application that failed for now is made up for', async () => {
  const s = stage();
  await s.ask('inbox', {})(Object.assign(new Error('away'), { code: 'UNAVAILABLE' }));
  await s.line.clock.advance(1000);
  await s.answer(page([kept(9)], { unread: counts(1) }));
  assert.deepEqual(s.offsets, [9]);
});

test('limits that removed messages are told without a place: what is shown is read anew', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(9) });
  await s.ask('inbox', {})(page(span(9, 1), { unread: counts(9) }));
  s.list.changed({ unread: counts(6) });
  assert.deepEqual(s.now.unread, counts(6));
  await s.answer(page(span(9, 4), { unread: counts(6) }));
  assert.deepEqual(s.offsets, [9, 8, 7, 6, 5, 4]);
});

test('nothing of one user is shown to the next', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts(2) });
  const answer = s.ask('inbox', {});
  const changed = s.ask('inbox_read', { epoch: 'e', upTo: 9 });
  assert.equal(s.list.isWanted, true);
  s.line.inboxList = createInboxList(s.line, { ackDelay: 300 }, true);
  s.line.inboxList.open({ epoch: 'e', offset: 1, unread: counts(1) });
  await answer(page([kept(9)], { unread: counts(2) }));
  await changed({ unread: counts(7) });
  assert.deepEqual([s.offsets, s.now.unread, s.now.offset], [[], counts(1), 1]);
  s.line.inboxList.refresh();
  assert.deepEqual(s.line.asked.map(({ data }) => data), [{ limit: 200 }], 'but the next one has an inbox, too');
});

test('a server of version 1 is asked nothing, and says nothing', async () => {
  const s = stage({ epoch: 'e', offset: 9, acked: 3, pending: 6 });
  s.list.add(message(10));
  s.list.refresh();
  await s.line.clock.advance(10_000);
  assert.deepEqual([s.now, s.line.asked], [NO_INBOX, []]);
});

test('what comes by itself is bounded; older ones can be read still', async () => {
  const s = stage({ epoch: 'e', offset: 9, unread: counts() });
  await s.ask('inbox', {})(page(span(9, 1)));
  for (let offset = 10; offset <= 1009; offset += 1) s.list.add(message(offset));
  assert.deepEqual([s.offsets.length, s.offsets.at(-1), s.now.more], [1000, 10, true]);
  await s.ask('inbox', { before: { offset: 10, epoch: 'e' } })(page(span(9, 5), { more: true, offset: 1009 }));
  assert.deepEqual([s.offsets.length, s.offsets.at(-1)], [1005, 5]);
});
