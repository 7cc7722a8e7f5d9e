// A chat room, over a fake server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PushError } from '../../pushserver/web/static/pushclient/errors.js';
import { NO_ROOM, roomOf } from '../../pushserver/web/static/pushclient/room.js';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';
import { nextTurn } from './fakes.js';

const channel = 'chat:lobby';

/** A room whose history the test holds: `lines` are offsets, or any other pushes. */
async function stage(context, { epoch = 'e', lines = [], results = {} } = {}) {
  const fake = new FakeServer();
  const client = fake.create();
  context.after(() => fake.close());
  await client.connect();
  const stand = {
    fake,
    client,
    epoch,
    lines,
    at: (offset) => ({ type: 'chat_message', channel, data: { content: `n${offset}` }, offset, epoch: stand.epoch, messageId: `m${offset}` }),
    live: (...offsets) => offsets.forEach((offset) => fake.push(stand.at(offset))),
    room: roomOf(client, channel),
    shown: () => stand.room.getState().messages.map(({ offset }) => offset),
  };
  fake.reply('history', ({ limit, since }) => {
    const before = stand.lines.filter((offset) => !(offset >= since?.offset)).reverse();
    return { messages: before.slice(0, limit).map(stand.at), offset: stand.lines.at(-1) ?? 0, epoch: stand.epoch };
  });
  fake.reply('subscribe', ({ channels }) => ({
    channels: [], rejected: {}, results: Object.fromEntries(channels.map((item) => [item.channel ?? item, results[item.channel ?? item] ?? {}])),
  }));
  return stand;
}

const span = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

test('the newest messages, oldest first; then what comes; then older ones', async (context) => {
  const s = await stage(context, { lines: span(1, 120) });
  assert.deepEqual(s.room.getState(), NO_ROOM);
  s.room.subscribe(() => {});
  await nextTurn();
  assert.deepEqual([s.shown(), s.room.getState().more], [span(71, 120), true]);
  s.live(121, 121);
  s.fake.push({ type: 'presence_join', channel, data: { userId: 'bob' } });
  assert.deepEqual(s.shown(), span(71, 121));
  await s.room.loadOlder();
  assert.deepEqual([s.shown(), s.room.getState().more], [span(21, 121), true]);
  await Promise.all([s.room.loadOlder(), s.room.loadOlder()]);
  assert.deepEqual([s.shown(), s.room.getState().more], [span(1, 121), false]);
  const asked = s.fake.sentOf('history').length;
  await s.room.loadOlder();
  assert.equal(s.fake.sentOf('history').length, asked);
});

test('what comes while the room is read is there once', async (context) => {
  const s = await stage(context, { lines: [1, 2] });
  s.room.subscribe(() => {});
  while (s.fake.sentOf('history').length === 0) await Promise.resolve();
  s.live(2, 3);
  await nextTurn();
  assert.deepEqual(s.shown(), [1, 2, 3]);
});

test('what is said goes to the room', async (context) => {
  const s = await stage(context);
  await s.room.send('hello', { messageType: 'markdown' });
  const { content, channel: to, messageType } = s.fake.sentOf('chat_message')[0];
  assert.deepEqual([content, to, messageType], ['hello', channel, 'markdown']);
});

test('where messages may be missing it is read anew', async (context) => {
  const s = await stage(context, { lines: [1, 2, 3] });
  s.room.subscribe(() => {});
  await nextTurn();
  s.lines = span(1, 200);
  s.fake.push({ type: 'resync', channel, data: { channel } });
  await nextTurn();
  await nextTurn();
  assert.deepEqual([s.shown(), s.room.getState().more], [span(151, 200), true], 'without a hole');
  s.epoch = 'f';
  s.lines = [1];
  s.fake.push({ type: 'resync', channel, data: { channel } });
  await nextTurn();
  await nextTurn();
  assert.deepEqual([s.shown(), s.room.getState().messages[0].epoch], [[1], 'f']);
});

test('a room that keeps nothing has what comes', async (context) => {
  const s = await stage(context);
  s.fake.reply('history', () => {
    throw new PushError('NOT_FOUND', 'no history');
  });
  s.room.subscribe(() => {});
  await nextTurn();
  const chat = (messageId) => s.fake.push({ type: 'chat_message', channel, data: { content: messageId }, messageId, from: 'bob' });
  chat('a');
  chat('b');
  assert.deepEqual(s.room.getState().messages.map(({ messageId }) => messageId), ['a', 'b']);
  assert.deepEqual([s.room.getState().more, s.room.getState().error], [false, null]);
});

test('a read that failed for now is tried again; one that is refused is told', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const s = await stage(context, { lines: [1] });
  let code = 'UNAVAILABLE';
  s.fake.reply('history', () => {
    throw new PushError(code, code);
  });
  s.room.subscribe(() => {});
  await nextTurn();
  assert.equal(s.room.getState().error.code, 'UNAVAILABLE');
  code = 'PERMISSION_DENIED';
  context.mock.timers.tick(2000);
  await nextTurn();
  assert.equal(s.room.getState().error.code, 'PERMISSION_DENIED');
  context.mock.timers.tick(100_000);
  await nextTurn();
  assert.equal(s.fake.sentOf('history').length, 2);
});

test('another user sees nothing of what was shown', async (context) => {
  const s = await stage(context, { lines: [1, 2] });
  s.room.subscribe(() => {});
  await nextTurn();
  const changed = new Promise((resolve) => s.client.on('user_changed', resolve));
  s.lines = [7];
  s.fake.userId = 'bob';
  s.fake.drop();
  await changed;
  assert.deepEqual(s.shown(), []);
  await nextTurn();
  assert.deepEqual(s.shown(), [7]);
});
