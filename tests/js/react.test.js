import './react_hooks.js';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient, Unauthorized } from '../../pushserver/web/static/pushclient/index.js';
import { createSharedClient } from '../../pushserver/web/static/pushclient/shared.js';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';
import { Exchange } from '../../pushserver/web/static/pushclient/worker.js';
import { fakeWorker, nextTurn, rig, tokenOf, WELCOME } from './fakes.js';
import { until as wait } from './until.js';

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const { createElement: h, StrictMode } = await import('react');
const renderer = await import('react-test-renderer');
const { renderToString } = await import('react-dom/server');
const { useWebSocket, useTask, useChannel, useSelector, configure } = await import('../../pushserver/web/static/pushclient/react.js');
const { act } = renderer.default ?? renderer;
const { create: render } = renderer.default ?? renderer;

let serial = 0;
const task = (more) => ({ taskId: 't1', userId: '42', status: 'running', percentage: 10, version: 1, createdAt: 1, updatedAt: 1, ...more });
const progress = (data) => ['task_progress', data, { channel: `task:${data.taskId}`, messageId: `m${++serial}` }];

/** A url of its own for each test, and the one client that its components will share. */
function stage() {
  let r = null;
  const url = `ws://push.test/${++serial}`;
  const made = [];
  const create = (options) => {
    r = rig((given) => createClient({ ...options, ...given, url: options.url, token: options.token }));
    made.push(r);
    return r.client;
  };
  return { options: { url, token: 'token-1', create }, made, get r() { return r; } };
}

async function mount(element) {
  let root;
  await act(async () => {
    root = render(element);
  });
  return root;
}

/** After the timers that are due now: what would happen by one of them, and must not, has had its time. */
const later = () => act(() => new Promise((resolve) => setTimeout(resolve, 1)));

/** Resolves once it holds, with what React does meanwhile. */
const until = (probe) => wait(probe, undefined, undefined, () => act(nextTurn));

function Show({ options, seen, ...callbacks }) {
  const socket = useWebSocket({ ...options, ...callbacks });
  seen?.push(socket);
  return `${socket.isConnected} ${socket.taskProgress.get('t1') ?? 0}`;
}

test('two components share one socket; the last to unmount closes it', async () => {
  const s = stage();
  const one = await mount(h(Show, { options: s.options }));
  const two = await mount(h(Show, { options: s.options }));
  assert.equal(s.made.length, 1);
  assert.equal(s.r.Socket.all.length, 1);
  await act(() => s.r.welcome());
  assert.equal(one.toJSON(), 'true 0');
  assert.equal(two.toJSON(), 'true 0');
  await act(async () => one.unmount());
  await later();
  assert.equal(s.r.client.getState().isConnected, true);
  assert.equal(s.r.socket().closed, null);
  await act(async () => two.unmount());
  await until(() => s.r.socket().closed);
  assert.equal(s.r.socket().closed.code, 1000);
});

test('callbacks: each for what changed, the latest ones, nothing reconnects', async () => {
  const s = stage();
  const calls = [];
  const on = (name) => (...values) => calls.push([name, ...values.slice(0, 2)]);
  const all = (mark) => ({
    options: s.options,
    onConnect: ({ userId }) => calls.push([`connect ${mark}`, userId]),
    onDisconnect: () => calls.push([`disconnect ${mark}`]),
    onError: (message) => calls.push([`error ${mark}`, message]),
    onTaskProgress: on(`progress ${mark}`),
    onTaskStatus: on(`status ${mark}`),
  });
  const root = await mount(h(Show, all('a')));
  await act(() => s.r.welcome({ tasks: [task(), task({ taskId: 't2', percentage: 70 })] }));
  assert.deepEqual(calls.splice(0), [
    ['progress a', 't1', 10], ['progress a', 't2', 70], ['status a', 't1', 'running'], ['status a', 't2', 'running'], ['connect a', '42'],
  ]);
  await act(async () => root.update(h(Show, all('b'))));
  await act(async () => s.r.socket().receive(...progress(task({ version: 2, percentage: 40 }))));
  assert.deepEqual(calls.splice(0), [['progress b', 't1', 40]]);
  await act(async () => s.r.socket().drop(3503, 'kicked'));
  assert.deepEqual(calls.splice(0), [['disconnect b'], ['error b', 'kicked']]);
  assert.equal(s.r.Socket.all.length, 1);
  await act(async () => root.unmount());
  await later();
});

test('one that joins a live connection hears onConnect', async () => {
  const s = stage();
  const one = await mount(h(Show, { options: s.options }));
  await act(() => s.r.welcome());
  let received = 0;
  const two = await mount(h(Show, { options: s.options, onConnect: () => (received += 1) }));
  assert.equal(received, 1);
  await act(async () => (one.unmount(), two.unmount()));
  await later();
});

test('autoConnect false waits for connect', async () => {
  const s = stage();
  const seen = [];
  const root = await mount(h(Show, { options: { ...s.options, autoConnect: false }, seen }));
  assert.equal(s.r.Socket.all.length, 0);
  await act(async () => { seen.at(-1).connect(); });
  assert.equal(s.r.Socket.all.length, 1);
  await act(() => s.r.welcome());
  assert.equal(root.toJSON(), 'true 0');
  await act(async () => root.unmount());
  await later();
});

test('StrictMode makes one socket', async () => {
  const s = stage();
  const root = await mount(h(StrictMode, null, h(Show, { options: s.options })));
  await later();
  assert.equal(s.r.Socket.all.length, 1);
  assert.equal(s.r.socket().closed, null);
  await act(async () => root.unmount());
  await until(() => s.r.socket().closed);
});

test('unmounted and mounted again later connects again', async () => {
  const s = stage();
  const one = await mount(h(Show, { options: s.options }));
  await act(() => s.r.welcome());
  await act(async () => one.unmount());
  await until(() => s.r.socket().closed);
  const two = await mount(h(Show, { options: s.options }));
  await act(() => s.r.welcome());
  assert.equal(two.toJSON(), 'true 0');
  assert.equal(s.made.length, 2);
  await act(async () => two.unmount());
  await later();
});

test('another token signs in anew on the same socket; a new callback does nothing until asked', async () => {
  const s = stage();
  const root = await mount(h(Show, { options: s.options }));
  await act(() => s.r.welcome());
  await act(async () => root.update(h(Show, { options: { ...s.options, token: 'token-2' } })));
  await act(nextTurn);
  assert.deepEqual(s.r.socket().of('auth').map((message) => message.data.token), ['token-1', 'token-2']);
  await act(async () => s.r.socket().answer('auth', 'auth_success', WELCOME));
  await act(async () => root.update(h(Show, { options: { ...s.options, token: () => 'token-3' } })));
  await act(nextTurn);
  await act(async () => s.r.socket().answer('auth', 'auth_success', WELCOME));
  await act(async () => root.update(h(Show, { options: { ...s.options, token: () => 'token-4' } })));
  await act(nextTurn);
  assert.deepEqual(s.r.socket().of('auth').map((message) => message.data.token), ['token-1', 'token-2', 'token-3']);
  await act(async () => s.r.socket().drop(3005));
  await act(() => s.r.clock.advance(3000));
  s.r.socket().open();
  await act(nextTurn);
  assert.equal(s.r.socket().of('auth')[0].data.token, 'token-4');
  assert.equal(s.made.length, 1);
  await act(async () => root.unmount());
  await later();
});

for (const [name, create] of Object.entries({
  'a client of its own': (fake) => (options) => fake.create(options),
  'a shared one': (fake, open) => (options) => createSharedClient({ ...options, open }),
})) {
  test(`who signs in again by the token is connected again, with ${name}`, async (context) => {
    const fake = new FakeServer();
    const exchange = new Exchange((given) => fake.create(given));
    const worker = fakeWorker((port) => exchange.accept(port));
    context.after(() => {
      fake.close();
      worker.close();
    });
    const options = { url: `ws://fake.test/${++serial}`, create: create(fake, worker.open) };
    const refused = [];
    const shows = (token) => h(Show, { options: { ...options, token }, onError: (_, { code }) => refused.push(code) });
    const root = await mount(shows(() => { throw new Unauthorized('signed out'); }));
    await until(() => refused.length > 0);
    await act(async () => root.update(shows(tokenOf('42'))));
    await until(() => root.toJSON() === 'true 0');
    assert.deepEqual(refused, ['UNAUTHORIZED']);
    await act(async () => root.unmount());
    await later();
  });
}

test('useTask, useSelector and useChannel render for their own slice', async () => {
  const s = stage();
  let renders = 0;
  const received = [];
  function Single({ mark }) {
    renders += 1;
    const state = useTask('t1', s.options);
    const ids = useSelector((now) => [...now.tasks.keys()].length, s.options);
    useChannel('news', (push) => received.push([mark, push.data]), s.options);
    return `${state?.percentage} ${ids > 0}`;
  }
  const hook = await mount(h(Show, { options: s.options }));
  await act(() => s.r.welcome({ tasks: [task()] }));
  const root = await mount(h(Single, { mark: 'a' }));
  await act(nextTurn);
  assert.equal(root.toJSON(), '10 true');
  const before = renders;
  await act(async () => s.r.client.updateTaskProgress('other', 5));
  assert.equal(renders, before);
  await act(async () => root.update(h(Single, { mark: 'b' })));
  await act(async () => s.r.socket().receive('message', 1, { channel: 'news', messageId: 'n1' }));
  assert.deepEqual(received, [['b', 1]]);
  assert.equal(s.r.socket().of('subscribe').filter((message) => message.data.channels.includes('news')).length, 1);
  await act(async () => root.unmount());
  await act(nextTurn);
  assert.deepEqual(s.r.socket().of('unsubscribe').at(-1).data, { channels: ['news'] });
  await act(async () => hook.unmount());
  await later();
});

test('configure spares the components the options', async () => {
  const s = stage();
  configure(s.options);
  const root = await mount(h(Show, {}));
  await act(() => s.r.welcome());
  assert.equal(root.toJSON(), 'true 0');
  assert.equal(s.r.socket().url, s.options.url);
  await act(async () => root.unmount());
  await later();
  configure({});
});

test('every hook connects on its own; one that is told not to does not', async () => {
  const hooks = { useTask: (options) => useTask('t1', options), useSelector: (options) => useSelector((now) => now.userId, options), useChannel: (options) => useChannel('news', () => {}, options) };
  for (const [name, use] of Object.entries(hooks)) {
    const s = stage();
    const Solo = ({ options }) => (use(options), null);
    const root = await mount(h(Solo, { options: s.options }));
    assert.equal(s.r.Socket.all.length, 1, name);
    await act(async () => root.unmount());
    await later();
    const quiet = stage();
    const still = await mount(h(Solo, { options: { ...quiet.options, autoConnect: false } }));
    assert.equal(quiet.r.Socket.all.length, 0, name);
    await act(async () => still.unmount());
    await later();
  }
});

test('an address that cannot be opened is told to onError', async () => {
  const s = stage();
  const told = [];
  const Broken = class { constructor() { throw new SyntaxError('bad url'); } };
  const create = (options) => createClient({ ...options, create: undefined, transports: ['websocket'], environment: { WebSocket: Broken } });
  const root = await mount(h(Show, { options: { ...s.options, create }, onError: (message, error) => told.push([message, error.code]) }));
  assert.deepEqual(told, [['bad url', 'CLOSED']]);
  await act(async () => root.unmount());
  await later();
});

test('a server renders the first snapshot, whatever is live, and warns of nothing', async (context) => {
  const errors = context.mock.method(console, 'error', () => {});
  const s = stage();
  function Page({ options }) {
    const ids = useSelector((now) => [...now.tasks.keys()], options);
    return h('p', null, `${useWebSocket(options).isConnected} ${useTask('t1', options)?.percentage} ${ids.length}`);
  }
  const live = await mount(h(Page, { options: s.options }));
  await act(() => s.r.welcome({ tasks: [task()] }));
  assert.equal(live.toJSON().children.join(''), 'true 10 1');
  assert.equal(renderToString(h(Page, { options: s.options })), '<p>false undefined 0</p>');
  assert.deepEqual(errors.mock.calls.map((call) => String(call.arguments[0])).filter((text) => !/test-renderer/.test(text)), []);
  await act(async () => live.unmount());
  await later();
});
