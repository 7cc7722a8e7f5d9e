// The hooks for the inbox, for presence and for rooms.
import './react_hooks.js';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';
import { nextTurn } from './fakes.js';
import { until as wait } from './until.js';

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const { createElement: h, StrictMode } = await import('react');
const renderer = await import('react-test-renderer');
const { renderToString } = await import('react-dom/server');
const { useChannel, useInbox, usePresence, useRoom } = await import('../../pushserver/web/static/pushclient/react.js');
const { act, create: render } = renderer.default ?? renderer;

let serial = 0;
/** Resolves once it holds, with what React does meanwhile. */
const until = (probe) => wait(probe, undefined, undefined, () => act(nextTurn));

/** A server, options that lead to it alone, and what is mounted until the test ends. */
function stage(context, script) {
  const fake = new FakeServer(script);
  const roots = [];
  context.after(async () => {
    for (const root of roots) await act(async () => root.unmount());
    fake.close();
  });
  const options = { url: `/ws/${++serial}`, create: fake.create };
  return {
    fake,
    options,
    /** Renders it, and waits until that is shown. */
    async mount(Component, shown) {
      let root;
      await act(async () => {
        root = render(h(StrictMode, null, h(Component)));
      });
      roots.push(root);
      await until(() => root.toJSON() === shown);
      return root;
    },
  };
}

test('useInbox: one list for all components, kept right, and what is done with it', async (context) => {
  const s = stage(context);
  for (let n = 1; n <= 60; n += 1) s.fake.push({ type: 'user_notification', data: n });
  let inbox;
  const Bell = () => {
    inbox = useInbox(s.options);
    return `${inbox.messages.length} ${inbox.unread.notification} ${inbox.more}`;
  };
  const Badge = () => `${useInbox(s.options).unread.notification}`;
  const bell = await s.mount(Bell, '50 60 true');
  const badge = await s.mount(Badge, '60');
  await until(() => s.fake.acked === 60);
  assert.equal(s.fake.sentOf('inbox').length, 1);
  await act(async () => void s.fake.push({ type: 'user_notification', data: 61 }));
  assert.deepEqual([bell.toJSON(), badge.toJSON()], ['51 61 true', '61']);
  await act(() => inbox.loadOlder());
  assert.equal(bell.toJSON(), '61 61 false');
  await act(() => inbox.loadOlder());
  assert.equal(s.fake.sentOf('inbox').length, 2, 'there are none');
  await act(() => inbox.markRead([61, 60]));
  await act(() => inbox.remove([1]));
  assert.deepEqual([bell.toJSON(), badge.toJSON()], ['60 58 false', '58']);
  await act(async () => s.fake.markRead([2, 3]));
  assert.equal(badge.toJSON(), '56');
  const { markRead } = inbox;
  await act(() => inbox.markAllRead());
  assert.deepEqual([badge.toJSON(), inbox.messages.every(({ readAt }) => readAt), inbox.markRead === markRead], ['0', true, true]);
});

test('usePresence: components share one subscription', async (context) => {
  const s = stage(context, { replies: { presence: { users: [{ userId: '42', connections: 1 }], total: 1 } } });
  const Here = () => usePresence('chat:lobby', s.options).users.map(({ userId }) => userId).join();
  const one = await s.mount(Here, '42');
  const two = await s.mount(Here, '42');
  await act(async () => void s.fake.push({ type: 'presence_join', channel: 'chat:lobby', data: { userId: 'bob' } }));
  assert.deepEqual([one.toJSON(), two.toJSON()], ['42,bob', '42,bob']);
  assert.equal(s.fake.sentOf('subscribe').length, 1);
});

test('useRoom: messages, older ones, and what is said', async (context) => {
  const line = (offset) => ({ type: 'chat_message', channel: 'chat:lobby', data: { content: offset }, offset, epoch: 'e', messageId: `m${offset}` });
  const s = stage(context, {
    replies: { history: ({ since }) => ({ messages: since ? [line(1)] : Array.from({ length: 50 }, (_, n) => line(51 - n)), offset: 51, epoch: 'e' }) },
  });
  let room;
  const Room = () => {
    room = useRoom('chat:lobby', s.options);
    return `${room.messages.map(({ offset }) => offset).join().slice(0, 5)} ${room.messages.length} ${room.more}`;
  };
  const root = await s.mount(Room, '2,3,4 50 true');
  await act(() => room.loadOlder());
  assert.equal(root.toJSON(), '1,2,3 51 false');
  await act(async () => void s.fake.push(line(52)));
  assert.equal(root.toJSON(), '1,2,3 52 false');
  await act(() => room.send('hello'));
  assert.equal(s.fake.sentOf('chat_message')[0].content, 'hello');
});

test('useChannel: the token for a channel', async (context) => {
  const s = stage(context);
  let received = 0;
  const Doc = () => (useChannel('doc:17', () => (received += 1), { ...s.options, channelToken: ({ channel }) => `for ${channel}` }), null);
  const root = await s.mount(Doc, null);
  await until(() => s.fake.channels.has('doc:17'));
  await act(async () => root.update(h(StrictMode, null, h(Doc))));
  s.fake.push({ type: 'message', channel: 'doc:17', data: 1 });
  await until(() => received > 0);
  assert.deepEqual(s.fake.sentOf('subscribe').flatMap(({ channels }) => channels), [{ channel: 'doc:17', token: 'for doc:17' }]);
});

test('a server renders an empty inbox, nobody, and no messages', (context) => {
  const errors = context.mock.method(console, 'error', () => {});
  const { options } = stage(context);
  const Page = () => h('p', null, `${useInbox(options).messages.length} ${usePresence('a', options).users.length} ${useRoom('b', options).more}`);
  assert.equal(renderToString(h(Page)), '<p>0 0 false</p>');
  assert.equal(errors.mock.callCount(), 0);
});
