// Three tabs, one connection: the worker's side and the tabs' sides over message channels.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { createClient, PushClient, Unauthorized } from '../../pushserver/web/static/pushclient/index.js';
import { createSharedClient, SharedClient } from '../../pushserver/web/static/pushclient/shared.js';
import { Exchange } from '../../pushserver/web/static/pushclient/worker.js';
import { fakeStorage, fakeWorker, nextTurn, tokenOf } from './fakes.js';
import { MockServer } from './mock_server.js';
import { becomes, until } from './until.js';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');

async function tabs(context, count, options = {}) {
  const server = await new MockServer().start();
  server.keep('news', 'system');
  const made = [];
  const ports = [];
  const workers = [];
  const begin = () => {
    const worker = { made: [], ports: [] };
    worker.exchange = new Exchange((given) => {
      const client = createClient({ ...given, reconnectInterval: 20, lossWindow: 40, ackDelay: 10, environment: { WebSocket } });
      made.push(client);
      worker.made.push(client);
      return client;
    });
    worker.died = new Promise((resolve) => (worker.end = resolve));
    workers.push(worker);
  };
  begin();
  const open = () => {
    const { port1, port2 } = new MessageChannel();
    const { exchange, died, ports: its } = workers.at(-1);
    ports.push(port1, port2);
    its.push(port1, port2);
    exchange.accept(port2);
    return { port: port1, lock: null, release: () => {}, died };
  };
  /** The worker ends without a word, and the tabs learn it. */
  const crash = () => {
    const worker = workers.at(-1);
    for (const port of worker.ports) port.close();
    for (const client of worker.made) client.disconnect();
    begin();
    worker.end();
  };
  const clients = Array.from({ length: count }, () => createSharedClient({ url: server.url, token: () => '42.x', open, ...options }));
  context.after(async () => {
    for (const client of clients) client.disconnect();
    await new Promise((resolve) => setTimeout(resolve, 20));
    for (const client of made) client.disconnect();
    for (const port of ports) port.close();
    await server.stop();
  });
  return { server, clients, made, ports, crash };
}

/** Gives this process what a page has, for one test. */
function asPage(context, values) {
  const before = Object.fromEntries(Object.keys(values).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));
  for (const [name, value] of Object.entries(values)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  context.after(() => {
    for (const [name, descriptor] of Object.entries(before)) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else delete globalThis[name];
    }
  });
}

test('three tabs, one connection, one sign-in', async (context) => {
  const { server, clients } = await tabs(context, 3);
  const received = [0, 0, 0];
  clients.forEach((client, index) => client.on('connect', () => (received[index] += 1)));
  for (const client of clients) await client.connect();
  await until(() => received.every((each) => each === 1), 'each tab hears connect once');
  assert.equal(server.handshakes, 1);
  assert.equal(server.of('auth').length, 1);
  for (const client of clients) {
    assert.equal(client.getState().isConnected, true);
    assert.equal(client.getState().userId, '42');
    assert.equal(client.getState().socket, null);
  }
});

test('every tab sees the inbox and the tasks; a channel only those that asked', async (context) => {
  const { server, clients } = await tabs(context, 3);
  const inbox = [[], [], []];
  const news = [[], [], []];
  clients.forEach((client, index) => client.on('user_notification', (push) => inbox[index].push(push.data)));
  await Promise.all(clients.map((client) => client.connect()));
  const subscriptions = [0, 1].map((index) => clients[index].subscribeChannel('news', (push) => news[index].push(push.data)));
  await Promise.all(subscriptions.map((subscription) => subscription.ready));
  assert.equal(server.of('subscribe').filter((message) => JSON.stringify(message).includes('news')).length, 1);
  server.notify('42', 'hello');
  assert.equal((await clients[2].publish('news', 1)).offset, 1);
  server.task({ taskId: 't', userId: '42', status: 'running', percentage: 30, version: 1, createdAt: 1, updatedAt: 1 });
  await until(() => clients.every((client) => client.getTaskProgress('t') === 30));
  await until(() => inbox.every((each) => each.length === 1) && news[1].length === 1);
  assert.deepEqual(news, [[1], [1], []]);
  await until(() => server.inbox('42').acked === 1);
  subscriptions[0].unsubscribe();
  await clients[0].presence('x').catch(() => {});
  server.publish('news', 2);
  await until(() => news[1].length === 2);
  assert.deepEqual(news[0], [1]);
});

test('closing any tab loses nothing, the last one closes the connection', async (context) => {
  const { server, clients } = await tabs(context, 3);
  const received = [];
  await Promise.all(clients.map((client) => client.connect()));
  clients[2].on('user_notification', (push) => received.push(push.data));
  clients[0].disconnect();
  server.notify('42', 1);
  await until(() => received.length === 1);
  clients[1].disconnect();
  server.notify('42', 2);
  await until(() => received.length === 2);
  assert.equal(server.handshakes, 1);
  await until(() => server.inbox('42').acked === 2);
  clients[2].disconnect();
  await until(() => server.links.size === 0);
  assert.equal(clients[2].getState().isConnected, false);
});

test('a push that a dying tab took with it goes to one that lives', async (context) => {
  const { server, clients } = await tabs(context, 2);
  let taken = 0;
  await clients[0].connect();
  clients[0].on('user_notification', () => {
    taken += 1;
    return new Promise(() => {});
  });
  server.notify('42', 'precious');
  await until(() => taken === 1);
  const received = [];
  clients[1].on('user_notification', (push) => received.push(push.data));
  await clients[1].connect();
  assert.equal(server.inbox('42').acked, 0);
  clients[0].disconnect();
  await until(() => received.length === 1);
  assert.deepEqual(received, ['precious']);
  await until(() => server.inbox('42').acked === 1);
});

test('a push that the only tab took with it comes again with the next connection', async (context) => {
  const { server, clients } = await tabs(context, 2);
  await clients[0].connect();
  let taken = 0;
  clients[0].on('user_notification', () => (taken += 1, new Promise(() => {})));
  server.notify('42', 'precious');
  await until(() => taken === 1);
  clients[0].disconnect();
  const received = [];
  clients[1].on('user_notification', (push) => received.push(push.data));
  await clients[1].connect();
  await until(() => received.length === 1);
});

test('the token is asked of a tab that lives, errors travel whole', async (context) => {
  const { server, clients, made } = await tabs(context, 2, {});
  await Promise.all(clients.map((client) => client.connect()));
  clients[0].disconnect();
  // The exchange is told so before this reaches it.
  await clients[1].request('ping', {});
  for (const socket of server.sockets) socket.destroy();
  await until(() => server.of('auth').length === 2 && clients[1].getState().isConnected);
  assert.equal(made.length, 1);
  await assert.rejects(clients[1].request('nonsense'), { name: 'PushError', code: 'UNKNOWN_MESSAGE_TYPE' });
});

test('what is done by hand is the same in all tabs', async (context) => {
  const { clients } = await tabs(context, 2);
  await Promise.all(clients.map((client) => client.connect()));
  clients[0].updateTaskProgress('t', 12);
  clients[0].updateTaskStatus('t', 'running');
  assert.equal(clients[0].getTaskProgress('t'), 12);
  await until(() => clients[1].getTaskProgress('t') === 12 && clients[1].getTaskStatus('t') === 'running');
});

test('a server that says no for good is noticed in every tab', async (context) => {
  const { server, clients } = await tabs(context, 2);
  server.refuse = () => ({ code: 'INVALID_TOKEN' });
  for (const client of clients) await assert.rejects(client.connect(), { code: 'INVALID_TOKEN' });
  assert.equal(clients[1].getState().lastError.code, 'INVALID_TOKEN');
  assert.match(clients[0].getState().error, /INVALID_TOKEN/);
});

test('without SharedWorker a tab has a connection of its own', () => {
  const client = createSharedClient({ url: 'ws://push.test/ws' });
  assert.ok(client instanceof PushClient);
});

/** What names the user in the tokens of these tests, for a server that looks at the token as a client does. */
function byClaim(server, claim = 'sub') {
  server.userOf = (token) => JSON.parse(atob(token.split('.')[1]))[claim];
}

test('tabs of two users have two connections, and nobody gets what came for another', async (context) => {
  const { server, clients } = await tabs(context, 3);
  byClaim(server);
  const shown = [[], [], []];
  clients.forEach((client, index) => {
    client.setToken(() => tokenOf(index === 1 ? 'bob' : 'alice'));
    client.on('user_notification', (push) => shown[index].push(push.data));
  });
  await Promise.all(clients.map((client) => client.connect()));
  assert.equal(server.handshakes, 2);
  assert.deepEqual(clients.map((client) => client.getState().userId), ['alice', 'bob', 'alice']);
  server.notify('alice', 'for alice');
  server.notify('bob', 'for bob');
  await until(() => shown.every((each) => each.length === 1));
  assert.deepEqual(shown, [['for alice'], ['for bob'], ['for alice']]);
  clients[1].disconnect();
  await until(() => server.links.size === 1);
});

test('a tab whose user changes goes over to the tabs of that user, with nothing of the last one', async (context) => {
  const { server, clients } = await tabs(context, 2);
  byClaim(server);
  for (const client of clients) client.setToken(tokenOf('alice'));
  const changes = [];
  const shown = [];
  clients[0].on('user_changed', (change) => changes.push(change));
  clients[0].on('user_notification', (push) => shown.push(push.data));
  await Promise.all(clients.map((client) => client.connect()));
  server.task({ taskId: 't', userId: 'alice', status: 'running', percentage: 30, version: 1, createdAt: 1, updatedAt: 1 });
  await until(() => clients[0].getTaskProgress('t') === 30);
  clients[0].setToken(tokenOf('bob'));
  await until(() => clients[0].getState().userId === 'bob');
  assert.deepEqual(changes, [{ from: 'alice', to: 'bob' }]);
  assert.equal(clients[0].getState().tasks.size, 0);
  server.notify('alice', 'for alice');
  server.notify('bob', 'for bob');
  await until(() => shown.length === 1);
  assert.deepEqual(shown, ['for bob']);
  assert.equal(clients[1].getState().userId, 'alice');
  clients[1].setToken(async () => tokenOf('alice', { iat: 2 }));
  await until(() => server.of('auth').at(-1).data.token === tokenOf('alice', { iat: 2 }), 'the same user: a renewal');
});

test('what the tabs that it left are still told does not reach a tab, and answers nobody', async (context) => {
  const { server, clients, ports } = await tabs(context, 1);
  byClaim(server);
  const [client] = clients;
  const shown = [];
  client.setToken(tokenOf('alice'));
  client.on('user_notification', (push) => shown.push(push.data));
  await client.connect();
  client.setToken(tokenOf('bob'));
  await until(() => client.getState().userId === 'bob');
  // On its way when the tab left.
  const push = { type: 'user_notification', channel: 'user:alice', data: 'for alice' };
  ports[0].onmessage({ data: { is: 'push', n: 1, visit: 1, push } });
  ports[0].onmessage({ data: { is: 'state', visit: 1, patch: { userId: 'alice' }, maps: {} } });
  server.notify('bob', 'for bob');
  await until(() => shown.length > 0);
  assert.deepEqual([shown, client.getState().userId], [['for bob'], 'bob']);
});

test('a token that is set while the callback before is still asked is the one that counts', async (context) => {
  const { server, clients } = await tabs(context, 1);
  byClaim(server);
  let answer;
  clients[0].setToken(() => new Promise((resolve) => (answer = resolve)));
  const connected = clients[0].connect();
  await until(() => answer);
  clients[0].setToken(tokenOf('bob'));
  answer(tokenOf('alice'));
  await connected;
  assert.equal(clients[0].getState().userId, 'bob');
  assert.equal(server.of('auth').length, 1);
});

test('with recover a tab that is loaded anew shows what other tabs took meanwhile, and nothing twice', async (context) => {
  globalThis.sessionStorage = fakeStorage();
  context.after(() => delete globalThis.sessionStorage);
  const { server, clients } = await tabs(context, 3, { recover: true });
  const [before, other, after] = clients;
  const shown = clients.map((client) => {
    const data = [];
    client.on('user_notification', (push) => data.push(push.data));
    return data;
  });
  await Promise.all([before.connect(), other.connect()]);
  server.notify('42', 1);
  await until(() => server.inbox('42').acked === 1 && shown[0].length === 1);
  before.disconnect();
  server.notify('42', 2);
  await until(() => server.inbox('42').acked === 2);
  await after.connect();
  server.notify('42', 3);
  await until(() => shown[2].length > 1);
  assert.deepEqual(shown, [[1], [1, 2, 3], [2, 3]]);
});

test('a tab that joins a channel from a position on reads what the others have read, in order and once', async (context) => {
  const { server, clients } = await tabs(context, 2);
  const shown = [[], []];
  const follow = (index, since) => clients[index].subscribeChannel('news', ({ data }) => shown[index].push(data), { since });
  await clients[0].connect();
  await follow(0).ready;
  for (const n of [1, 2, 3]) server.publish('news', n);
  await until(() => shown[0].length === 3);
  await clients[1].connect();
  const { ready } = follow(1, { offset: 1, epoch: 'e1' });
  await until(() => server.of('history').length === 1);
  server.publish('news', 4);
  await ready;
  await until(() => shown[1].length >= 3 && shown[0].length === 4);
  assert.deepEqual(shown, [[1, 2, 3, 4], [2, 3, 4]]);
  assert.deepEqual(clients[1].getPosition('news'), { offset: 4, epoch: 'e1' });
});

test('where the user is named by another claim than sub, tabs part all the same', async (context) => {
  const { server, clients } = await tabs(context, 2);
  byClaim(server, 'uid');
  clients.forEach((client, index) => client.setToken(() => tokenOf('app', { uid: ['alice', 'bob'][index] })));
  await clients[0].connect();
  await clients[1].connect();
  await until(() => clients[1].getState().userId === 'bob');
  assert.equal(clients[0].getState().userId, 'alice');
});

test('tabs that do not answer keep nobody out, at sign-in and at a renewal', async (context) => {
  let answers = true;
  const unanswered = [];
  const { server, clients } = await tabs(context, 3);
  clients.slice(0, 2).forEach((client) => client.setToken(() => (answers ? '42.x' : new Promise((answer) => unanswered.push(answer)))));
  clients[2].setToken(() => '42.z');
  await Promise.all(clients.map((client) => client.connect()));
  answers = false;
  server.close(3005, 'token expired');
  await until(() => server.of('auth').length === 2);
  assert.equal(server.of('auth')[1].data.token, '42.z');
  for (const answer of unanswered) answer('42.x');
});

/** From now on the server takes these tokens for expired. */
function expire(server, ...tokens) {
  server.refuse = (token, link) => {
    if (!tokens.includes(token)) return null;
    return { code: 'TOKEN_EXPIRED', close: link?.userId === null ? 3005 : undefined };
  };
  server.close(3005, 'token expired');
}

test('a string that has expired ends the attempts in all tabs, as without a worker, and another one resumes', async (context) => {
  const { server, clients } = await tabs(context, 2, { token: '42.x' });
  await Promise.all(clients.map((client) => client.connect()));
  expire(server, '42.x');
  await until(() => clients.every((client) => client.getState().connectionState === 'closed'));
  assert.deepEqual(clients.map((client) => client.getState().lastError.code), ['TOKEN_EXPIRED', 'TOKEN_EXPIRED']);
  assert.deepEqual(clients.map((client) => client.getState().lastError.closeCode), [3005, 3005]);
  assert.equal(server.of('auth').length, 1, 'what is known to have expired is not sent again');
  // Who insists is told by the server.
  await assert.rejects(clients[0].connect(), { code: 'TOKEN_EXPIRED' });
  assert.equal(server.of('auth').length, 2);
  clients[1].setToken('42.y');
  await until(() => clients.every((client) => client.getState().isConnected));
  assert.equal(server.of('auth').at(-1).data.token, '42.y');
});

test('where one tab has a string alone, another may have the next token', async (context) => {
  const { server, clients } = await tabs(context, 3, { token: '42.x' });
  clients[1].setToken('42.y');
  let count = 0;
  clients[2].setToken(() => `42.${(count += 1)}`);
  await clients[0].connect();
  await clients[1].connect();
  expire(server, '42.x');
  await until(() => server.of('auth').at(-1).data.token === '42.y');
  await until(() => clients[1].getState().isConnected);
  await clients[2].connect();
  expire(server, '42.x', '42.y');
  await until(() => clients.every((client) => client.getState().isConnected) && server.of('auth').at(-1).data.token === '42.2');
  assert.equal(server.of('auth').length, 3);
});

test('after disconnect() another user finds nothing of the last one', async (context) => {
  const { server, clients: [client] } = await tabs(context, 1, { token: tokenOf('alice') });
  byClaim(server);
  await client.connect();
  server.task({ taskId: 't', userId: 'alice', status: 'running', percentage: 30, version: 1, createdAt: 1, updatedAt: 1 });
  await until(() => client.getTaskProgress('t') === 30);
  client.disconnect();
  client.setToken(tokenOf('bob'));
  const asked = client.connect();
  await nextTurn();
  assert.equal(client.getState().userId, null);
  assert.equal(client.getState().tasks.size, 0);
  await asked;
  assert.equal(client.getState().userId, 'bob');
});

test('a worker that ends without a word is followed by another one, which goes on where the tabs were', async (context) => {
  const { server, clients, crash } = await tabs(context, 2);
  const shown = [[], []];
  const told = [[], []];
  clients.forEach((client, index) => {
    for (const type of ['connect', 'disconnect', 'gap']) client.on(type, ({ code }) => told[index].push(code ? `${type} ${code}` : type));
    client.on('user_notification', (push) => shown[index].push(push.data));
  });
  await Promise.all(clients.map((client) => client.connect()));
  await Promise.all(clients.map((client, index) => client.subscribeChannel('news', (push) => shown[index].push(push.data)).ready));
  server.notify('42', 'a');
  server.publish('news', 1);
  await until(() => shown.every((each) => each.length === 2));
  const history = clients[0].request('history', { channel: 'news' });
  crash();
  server.notify('42', 'b');
  server.publish('news', 2);
  await until(() => shown.every((each) => each.length === 4));
  assert.deepEqual(shown.map((each) => each.map(String).sort()), Array(2).fill(['1', '2', 'a', 'b']));
  assert.deepEqual(told, Array(2).fill(['connect', 'disconnect 1006', 'connect']));
  assert.equal(server.links.size, 1, 'one connection for both');
  assert.ok((await history).messages.length > 0, 'what had no answer is asked again');
});

test('after the end of a worker another user gets nothing that was asked before', async (context) => {
  let user = 'alice';
  const { server, clients: [client], crash } = await tabs(context, 1, { token: () => tokenOf(user) });
  byClaim(server);
  await client.connect();
  server.reply = ({ type }) => (type === 'history' ? null : undefined);
  const asked = assert.rejects(client.history('news'), { code: 'CLOSED', message: 'the user changed' });
  await until(() => server.of('history').length === 1);
  user = 'bob';
  crash();
  await asked;
  await until(() => client.getState().userId === 'bob');
  assert.equal(server.of('history').length, 1);
});

test('a worker that ends before it is of use is not started again', async (context) => {
  const server = await new MockServer().start();
  const warn = context.mock.method(console, 'warn', () => {});
  const ports = [];
  let started = 0;
  const own = () => {
    const { port1, port2 } = new MessageChannel();
    ports.push(port1, port2);
    new Exchange((given) => createClient({ ...given, environment: { WebSocket } })).accept(port2);
    return { port: port1, lock: null, release: () => {} };
  };
  const dies = () => (started += 1, { port: { postMessage: () => {} }, lock: null, release: () => {}, died: Promise.resolve() });
  const client = new SharedClient({ url: server.url, session: '' }, { token: '42.x', open: dies, openOwn: own });
  context.after(async () => {
    client.disconnect();
    await until(() => server.links.size === 0);
    for (const port of ports) port.close();
    await server.stop();
  });
  await client.connect();
  assert.deepEqual([started, warn.mock.callCount()], [1, 1]);
});

test('without locks a page says that it goes, and joins again when it is shown again', async (context) => {
  const page = new EventTarget();
  const [addEventListener, removeEventListener] = ['addEventListener', 'removeEventListener'].map((name) => page[name].bind(page));
  asPage(context, { addEventListener, removeEventListener });
  const { server, clients: [client, other] } = await tabs(context, 2);
  const shown = [];
  client.on('user_notification', (push) => shown.push(push.data));
  const news = client.subscribeChannel('news', (push) => shown.push(push.data));
  await client.connect();
  await news.ready;
  assert.equal(other.getState().connectionState, 'idle');
  page.dispatchEvent(new Event('pagehide'));
  await until(() => server.links.size === 0, 'nobody is there any more');
  assert.deepEqual([client.getState().isConnected, news.state], [false, 'subscribing']);
  server.notify('42', 'a');
  server.publish('news', 1);
  const asked = client.history('news');
  page.dispatchEvent(new Event('pageshow'));
  await until(() => shown.length === 2);
  assert.deepEqual(shown.map(String).sort(), ['1', 'a']);
  assert.equal((await asked).messages.length, 1);
  client.disconnect();
  page.dispatchEvent(new Event('pagehide'));
  page.dispatchEvent(new Event('pageshow'));
  await nextTurn();
  assert.equal(client.getState().connectionState, 'closed');
});

test('what a worker cannot remember its tabs do: that WebSocket is blocked', async (context) => {
  asPage(context, { sessionStorage: fakeStorage() });
  const { server, clients: [client], crash } = await tabs(context, 1, { sseAfter: 1 });
  server.options.websocket = false;
  await client.connect();
  assert.equal(client.getState().transport, 'sse');
  const tried = new Set();
  const unheard = client.subscribe(({ connectionState, transport }) => connectionState === 'connecting' && tried.add(transport));
  const away = becomes(client, (state) => !state.isConnected);
  crash();
  await away;
  tried.clear();
  await until(() => client.getState().isConnected);
  unheard();
  assert.deepEqual([...tried], ['sse'], 'the next worker begins with the event stream');
  server.options.websocket = true;
  server.options.sse = false;
  crash();
  await until(() => client.getState().isConnected && client.getState().transport === 'websocket');
  assert.equal(sessionStorage.getItem(`pushclient ${server.url} blocked`), null);
});

test('a tab without a session says so; the others stay', async (context) => {
  const { clients } = await tabs(context, 2);
  clients[0].setToken(() => { throw new Unauthorized('signed out'); });
  await assert.rejects(clients[0].connect(), { code: 'UNAUTHORIZED' });
  assert.equal(clients[0].getState().lastError.code, 'UNAUTHORIZED');
  await clients[1].connect();
});

test('a tab that left since nobody was signed in goes on with the next token', async (context) => {
  const { server, clients: [client] } = await tabs(context, 1, { token: () => { throw new Unauthorized('signed out'); } });
  const subscription = client.subscribeChannel('news', () => {});
  await assert.rejects(client.connect(), { code: 'UNAUTHORIZED' });
  assert.equal(client.getState().connectionState, 'closed');
  client.setToken('42.x');
  await until(() => client.getState().isConnected && subscription.state === 'subscribed');
  assert.equal(client.getState().error, null);
  client.setToken(() => null);
  await until(() => client.getState().connectionState === 'closed');
  client.setToken('42.y');
  await until(() => client.getState().isConnected);
  assert.equal(server.of('auth').at(-1).data.token, '42.y');
});

test('after disconnect() a token connects nothing', async (context) => {
  const { clients: [client], ports } = await tabs(context, 1, { token: () => null });
  await assert.rejects(client.connect(), { code: 'UNAUTHORIZED' });
  client.disconnect();
  const opened = ports.length;
  client.setToken('42.x');
  assert.equal(ports.length, opened);
});

test('a message is taken by a handler in any tab; what none has waits for the first that comes', async (context) => {
  const { server, clients } = await tabs(context, 2);
  await Promise.all(clients.map((client) => client.connect()));
  server.notify('42', 'precious');
  // It comes to both tabs before the first answers, and what they say to it to the exchange before the second ones.
  for (const client of [...clients, ...clients]) await client.request('ping', {});
  assert.equal(server.inbox('42').acked, 0);
  const received = [];
  clients[1].on('user_notification', (push) => received.push(push.data));
  await until(() => server.inbox('42').acked === 1);
  assert.deepEqual(received, ['precious']);
});

test('a tab says that it has a handler before it calls it, which may block the page', async () => {
  const posted = [];
  const port = { postMessage: (message) => posted.push(message) };
  const client = createSharedClient({ url: 'ws://fake.test/ws', token: '42.x', open: () => ({ port, lock: null, release: () => {} }) });
  client.connect();
  await nextTurn();
  const { visit } = posted.find((message) => message.do === 'attach');
  const receive = (message) => port.onmessage({ data: { ...message, visit } });
  const push = (n, type) => receive({ is: 'push', n, push: { type, channel: 'user:42', data: n, messageId: `m${n}`, offset: n, epoch: 'i1' } });
  receive({ is: 'state', patch: { userId: '42', isConnected: true, connectionState: 'connected' }, maps: {} });
  let before;
  client.on('user_notification', () => (before = posted.at(-1)));
  push(1, 'user_notification');
  await nextTurn();
  assert.deepEqual(before, { do: 'begun', n: 1 });
  assert.deepEqual(posted.at(-1), { do: 'done', n: 1, taken: true });
  push(2, 'nobody.listens');
  await nextTurn();
  assert.deepEqual(posted.slice(-2).map((message) => [message.do, message.n]), [['done', 1], ['done', 2]]);
  client.disconnect();
});

test('positions, acks and signals work in a shared tab', async (context) => {
  const { server, clients } = await tabs(context, 1, { autoAck: false });
  const [client] = clients;
  await client.connect();
  const news = client.subscribeChannel('news', () => {});
  await news.ready;
  assert.equal(news.state, 'subscribed');
  server.publish('news', 1);
  server.notify('42', 'a');
  await until(() => client.getPosition('news')?.offset === 1 && client.getPosition('user:42')?.offset === 1);
  assert.deepEqual(news.position, { offset: 1, epoch: 'e1' });
  assert.equal(server.inbox('42').acked, 0);
  client.ack(1);
  await until(() => server.inbox('42').acked === 1);
  server.reply = (message) => (message.type === 'presence' ? null : undefined);
  const abort = new AbortController();
  const asked = client.presence('news', { signal: abort.signal });
  await until(() => server.of('presence').length === 1);
  abort.abort();
  await assert.rejects(asked, { name: 'AbortError' });
  const { signal } = new AbortController();
  await client.request('ping', {}, { signal });
  assert.equal(getEventListeners(signal, 'abort').length, 0);
  news.unsubscribe();
  assert.deepEqual([news.state, client.getPosition('news')], ['closed', undefined]);
});

test('a worker that does not load, or says nothing, leaves the tab with a connection of its own', async (context) => {
  const server = await new MockServer().start();
  server.keep('system');
  const warn = context.mock.method(console, 'warn', () => {});
  const worker = fakeWorker((port) => new Exchange((given) => createClient({ ...given, environment: { WebSocket } })).accept(port));
  const dead = { postMessage: () => {}, set onmessage(listener) {} };
  const broken = (failed) => () => ({ port: dead, lock: null, release: () => {}, failed });
  const make = (failed) => new SharedClient({ url: server.url, session: '' }, { token: '42.x', open: broken(failed), openOwn: worker.open });
  const clients = [make(Promise.resolve('404')), make(undefined)];
  context.after(async () => {
    for (const client of clients) client.disconnect();
    await until(() => server.links.size === 0);
    worker.close();
    await server.stop();
  });
  const received = [];
  clients.forEach((client) => client.on('user_notification', (push) => received.push(push.data)));
  await Promise.all(clients.map((client) => client.connect()));
  assert.equal(server.handshakes, 2);
  server.notify('42', 'a');
  await until(() => received.length === 2);
  assert.equal(warn.mock.callCount(), 2);
});

test('a subscription made and left before the tab is admitted is never asked for; one that stays is', async (context) => {
  const { server, clients } = await tabs(context, 1);
  const left = clients[0].subscribeChannel('left', () => {});
  const stays = clients[0].subscribeChannel('news', () => {});
  left.unsubscribe();
  await assert.rejects(left.ready, { code: 'CLOSED' });
  await clients[0].connect();
  await stays.ready;
  assert.ok(!JSON.stringify(server.of('subscribe')).includes('left'));
});

/** The messages that a tab shows, and how many of the inbox are not read. */
const shownIn = (client) => {
  const { messages, unread } = client.getState().inbox;
  return [messages.map(({ data, readAt }) => (readAt === null ? data : `(${data})`)).join(' '), unread.notification];
};

test('one inbox in all tabs: what one reads, marks or deletes is so in the others', async (context) => {
  const { server, clients } = await tabs(context, 3);
  for (const data of ['a', 'b', 'c']) server.notify('42', data);
  await clients[0].connect();
  await clients[1].connect();
  await until(() => clients[1].getState().inbox.unread.notification === 3);
  const { messages, more } = await clients[0].inbox({ limit: 2 });
  assert.deepEqual([messages.map(({ data }) => data), more], [['c', 'b'], true]);
  await until(() => server.inbox('42').acked === 3, 'who shows the inbox has taken it');
  const agree = (...shown) => until(() => clients.slice(0, 2).every((client) => String(shownIn(client)) === String(shown)), `${shown}`);
  await agree('c b', 3);
  await clients[1].markRead([3]);
  await agree('(c) b', 2);
  server.notify('42', 'd');
  await agree('d (c) b', 3);
  server.change('42', { offsets: [2], deleted: true });
  await agree('d (c)', 2);
  await clients[1].inbox({ before: { offset: 3, epoch: 'e1' } });
  await agree('d (c) a', 2);
  await clients[0].markAllRead();
  await agree('(d) (c) (a)', 0);
  await clients[0].deleteFromInbox([4]);
  await agree('(c) (a)', 0);
  await clients[2].connect();
  await until(() => String(shownIn(clients[2])) === '(c) (a),0', 'a tab that comes later');
});

test('what was read while the connection was away is read once it is back', async (context) => {
  const { server, clients } = await tabs(context, 1);
  const [client] = clients;
  server.notify('42', 'a');
  server.notify('42', 'b');
  await client.connect();
  await client.inbox();
  const away = becomes(client, (state) => !state.isConnected);
  for (const socket of server.sockets) socket.destroy();
  await away;
  server.notify('42', 'c');
  server.change('42', { offsets: [1], deleted: true });
  await client.markRead([2]);
  await until(() => String(shownIn(client)) === 'c (b),1', 'the list');
  assert.deepEqual(server.unread('42'), { notification: 1, chat: 0, task: 0 });
});

test('a tab that shows its inbox goes on to, also as another user', async (context) => {
  const { server, clients } = await tabs(context, 1);
  const [client] = clients;
  byClaim(server);
  server.notify('alice', 'mine');
  server.notify('bob', 'theirs');
  client.setToken(() => tokenOf('alice'));
  await client.connect();
  await client.inbox();
  client.setToken(() => tokenOf('bob'));
  await until(() => String(shownIn(client)) === 'theirs,1');
});

test('with recover a tab that is loaded anew shows what an earlier epoch has kept for it', async (context) => {
  globalThis.sessionStorage = fakeStorage();
  context.after(() => delete globalThis.sessionStorage);
  const { server, clients } = await tabs(context, 3, { recover: true });
  const [before, other, after] = clients;
  const shown = clients.map((client) => {
    const data = [];
    client.on('user_notification', (push) => data.push(push.data));
    return data;
  });
  const errors = [];
  after.on('error', (error) => errors.push(error));
  await Promise.all([before.connect(), other.connect()]);
  server.notify('42', 1);
  await until(() => server.inbox('42').acked === 1 && shown[0].length === 1);
  before.disconnect();
  // The engine was started anew, and nothing is lost; the other tab takes what comes before this one is back.
  [server.earlier, server.epoch] = [['e1'], 'e2'];
  for (const socket of server.sockets) socket.destroy();
  await until(() => server.handshakes === 2 && other.getState().isConnected);
  server.notify('42', 2);
  await until(() => server.inbox('42').acked === 2);
  await after.connect();
  server.notify('42', 3);
  await until(() => shown[2].length > 1);
  assert.deepEqual([shown[2], errors], [[2, 3], []]);
});

test('a channel that is resumed from an earlier epoch is subscribed, and says what may be missing', async (context) => {
  const { server, clients } = await tabs(context, 2);
  const gaps = [];
  const shown = [];
  clients[1].on('gap', (gap) => gaps.push(gap));
  await clients[0].connect();
  await clients[0].subscribeChannel('news', () => {}).ready;
  server.publish('news', 1);
  await until(() => clients[0].getPosition('news')?.offset === 1);
  await clients[1].connect();
  const subscription = clients[1].subscribeChannel('news', ({ data }) => shown.push(data), { since: { offset: 1, epoch: 'e0' } });
  await subscription.ready;
  assert.deepEqual(gaps, [{ channel: 'news', cause: 'not_recovered' }]);
  server.publish('news', 2);
  await until(() => shown.at(-1) === 2);
});

test('a token for a channel is asked of a tab that has one', async (context) => {
  const { server, clients } = await tabs(context, 2);
  server.judge = (channel, token) => (channel.startsWith('doc:') && token !== 'good' ? 'INVALID_TOKEN' : null);
  await Promise.all(clients.map((client) => client.connect()));
  const asked = [];
  const token = (given) => {
    asked.push(given);
    return 'good';
  };
  await clients[0].subscribeChannel('doc:17', () => {}, { token }).ready;
  assert.deepEqual(asked, [{ channel: 'doc:17' }]);
  await assert.rejects(clients[1].subscribeChannel('doc:18', () => {}, { token: 'bad' }).ready, { code: 'INVALID_TOKEN' });
  await clients[1].subscribeChannel('doc:19', () => {}, { token: 'good' }).ready;
  for (const socket of server.sockets) socket.destroy();
  await until(() => server.of('auth').length === 2 && clients.every((client) => client.getState().isConnected));
  await until(() => [...server.links].some((link) => link.channels.has('doc:17') && link.channels.has('doc:19')));
  assert.equal(asked.length, 1, 'what it gave is kept');
});

test('a token that comes with a later handler of a tab is shown', async (context) => {
  const { server, clients } = await tabs(context, 1);
  await clients[0].connect();
  await clients[0].subscribeChannel('doc:17', () => {}).ready;
  clients[0].subscribeChannel('doc:17', () => {}, { token: () => 'good' });
  await until(() => JSON.stringify(server.of('subscribe')).includes('"token":"good"'));
});

test('a channel that was refused to a tab which resumed it is shown there once it is subscribed after all', async (context) => {
  const { server, clients } = await tabs(context, 2);
  let code = 'PERMISSION_DENIED';
  server.judge = (channel) => (channel === 'news' ? code : null);
  const shown = [];
  await Promise.all(clients.map((client) => client.connect()));
  const refused = clients[0].subscribeChannel('news', ({ data }) => shown.push(data), { since: { offset: 0, epoch: 'e1' } });
  await assert.rejects(refused.ready, { code });
  code = null;
  await clients[1].subscribeChannel('news', () => {}).ready;
  await until(() => refused.state === 'subscribed');
  server.publish('news', 1);
  await until(() => shown.length === 1);
});
