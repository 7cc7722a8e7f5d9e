// The fake server, as an application's tests use it.
import './react_hooks.js';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PushClient, PushError } from '../../pushserver/web/static/pushclient/index.js';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const { createElement: h } = await import('react');
const renderer = await import('react-test-renderer');
const { act, create: render } = renderer.default ?? renderer;

const turn = () => new Promise((resolve) => setImmediate(resolve));

async function signedIn(script, options) {
  const fake = new FakeServer(script);
  const client = fake.create(options);
  await client.connect();
  return { fake, client };
}

test('a client of it is a real one, signed in as who the test says', async () => {
  const { client } = await signedIn({ userId: 'ada', permissions: ['publish:news:*'] });
  assert.ok(client instanceof PushClient);
  const { isConnected, userId, permissions, transport } = client.getState();
  assert.deepEqual([isConnected, userId, permissions, transport], [true, 'ada', ['publish:news:*'], 'websocket']);
  client.disconnect();
});

test('scripted pushes come after the sign-in, once; later ones at once', async () => {
  const fake = new FakeServer({ pushes: [{ type: 'user_notification', data: { title: 'waited' } }] });
  const client = fake.create();
  const seen = [];
  client.on('user_notification', ({ data }) => void seen.push(data.title));
  fake.push({ type: 'user_notification', data: { title: 'waited, too' } });
  await client.connect();
  fake.push({ type: 'user_notification', data: { title: 'live' } });
  assert.deepEqual(seen, ['waited', 'waited, too', 'live']);
  await client.reconnect();
  assert.deepEqual(seen, ['waited', 'waited, too', 'live']);
  client.disconnect();
});

test('it records what the application sent, and nothing of the housekeeping', async () => {
  const { fake, client } = await signedIn();
  await client.subscribeChannel('news:today', () => {}).ready;
  const { messageId } = await client.publish('news:today', { a: 1 });
  await client.chat('hello', { targetId: 'bob' });
  assert.deepEqual(fake.sent.map(({ type }) => type), ['subscribe', 'publish', 'chat_message']);
  assert.deepEqual(fake.sentOf('publish'), [{ channel: 'news:today', data: { a: 1 }, messageId }]);
  assert.deepEqual([...fake.channels], ['news:today']);
  client.disconnect();
});

test('pushes reach the handlers of a channel before the call returns', async () => {
  const { fake, client } = await signedIn();
  const seen = [];
  const { ready, unsubscribe } = client.subscribeChannel('news:today', ({ data }) => seen.push(data));
  await ready;
  fake.push({ channel: 'news:today', data: 'one' });
  assert.deepEqual(seen, ['one']);
  unsubscribe();
  await turn();
  await turn();
  assert.deepEqual([...fake.channels], []);
  client.disconnect();
});

test('what a handler took of the inbox is acknowledged', async () => {
  const { fake, client } = await signedIn();
  client.on('user_notification', () => {});
  fake.push({ type: 'user_notification', data: 1 });
  fake.push({ type: 'user_notification', data: 2 });
  for (let tries = 0; fake.acked < 2 && tries < 200; tries += 1) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(fake.acked, 2);
  client.disconnect();
});

test('a task goes its way, as the store shows it', async () => {
  const { fake, client } = await signedIn({ tasks: [{ taskId: 'old', percentage: 10 }] });
  const types = [];
  client.on('*', ({ type }) => void types.push(type));
  assert.equal(client.getTaskProgress('old'), 10);
  fake.task({ taskId: 'old', percentage: 20 });
  fake.task({ taskId: 'new', title: 'Import' });
  fake.task({ taskId: 'new', percentage: 40 });
  assert.deepEqual([client.getTaskProgress('old'), client.getTaskProgress('new')], [20, 40]);
  fake.task({ taskId: 'new', status: 'completed', result: { rows: 3 } });
  fake.task({ taskId: 'old', status: 'cancelled' });
  const { status, percentage, result } = client.getState().tasks.get('new');
  assert.deepEqual([status, percentage, result], ['completed', 100, { rows: 3 }]);
  assert.deepEqual(types, ['task_progress', 'task_created', 'task_progress', 'task_completed', 'task_status_changed']);
  client.disconnect();
});

test('the test decides what a request is answered, and what is refused', async () => {
  const { fake, client } = await signedIn({
    replies: { history: ({ channel }) => ({ messages: [{ type: 'message', channel, data: 'old' }], offset: 1, epoch: 'e' }) },
    rejected: { 'news:secret': 'PERMISSION_DENIED' },
  });
  assert.equal((await client.history('news:today')).messages[0].data, 'old');
  fake.reply('publish', () => {
    throw new PushError('PERMISSION_DENIED', 'not you');
  });
  await assert.rejects(client.publish('news:today', 1), { code: 'PERMISSION_DENIED', message: 'not you' });
  await assert.rejects(client.subscribeChannel('news:secret', () => {}).ready, { code: 'PERMISSION_DENIED' });
  await assert.rejects(client.request('no_such_thing'), /fake\.reply\('no_such_thing'/);
  await assert.rejects(client.request('task_get', { taskId: 'none' }), { code: 'NOT_FOUND' });
  fake.reply('no_such_thing', { a: 1 });
  assert.deepEqual(await client.request('no_such_thing'), { a: 1 });
  client.disconnect();
});

test('a connection that is cut comes back, and brings what was sent meanwhile', async () => {
  const { fake, client } = await signedIn();
  const seen = [];
  client.on('user_notification', ({ data }) => void seen.push(data));
  const back = new Promise((resolve) => client.on('connect', resolve));
  fake.isUp = false;
  fake.drop();
  assert.equal(client.getState().isConnected, false);
  fake.push({ type: 'user_notification', data: 'meanwhile' });
  fake.isUp = true;
  await back;
  await turn();
  assert.deepEqual(seen, ['meanwhile']);
  client.disconnect();
});

test('a token that is refused ends the attempts', async () => {
  const fake = new FakeServer();
  fake.reply('auth', () => {
    throw new PushError('TOKEN_BLACKLISTED', 'signed out');
  });
  const client = fake.create({ token: 'a' });
  await assert.rejects(client.connect());
  assert.equal(client.getState().connectionState, 'closed');
});

test('the token of the application is the one that is shown', async () => {
  const shown = [];
  const fake = new FakeServer({ replies: { auth: ({ token }) => void shown.push(token) } });
  const client = fake.create({ token: async () => 'made by the application' });
  await client.connect();
  assert.deepEqual(shown, ['made by the application']);
  client.disconnect();
});

test('at the end of a test every client is disconnected', async () => {
  const { fake, client } = await signedIn();
  const other = fake.create();
  await other.connect();
  fake.close();
  assert.deepEqual([client, other].map((each) => each.getState().connectionState), ['closed', 'closed']);
});

test('React components get it by `create`', async () => {
  const { configure, useTask, useWebSocket } = await import('../../pushserver/web/static/pushclient/react.js');
  const fake = new FakeServer({ tasks: [{ taskId: 'import', percentage: 10 }] });
  configure({ url: '/ws', create: fake.create });
  const Bar = () => {
    const { isConnected } = useWebSocket();
    return `${isConnected} ${useTask('import')?.percentage}`;
  };
  let root;
  await act(async () => {
    root = render(h(Bar));
    await turn();
  });
  assert.equal(root.toJSON(), 'true 10');
  await act(async () => void fake.task({ taskId: 'import', percentage: 60 }));
  assert.equal(root.toJSON(), 'true 60');
  await act(async () => root.unmount());
  fake.close();
});
