// The client against a server of its own protocol, over real sockets: killed and restarted, behind a blocked WebSocket.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { fakeStorage } from './fakes.js';
import { MockServer } from './mock_server.js';
import { until } from './until.js';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');
const QUICK = { reconnectInterval: 20, maxReconnectInterval: 200, lossWindow: 40, ackDelay: 10 };

const CONNECT_TIMEOUT = 5000;

/** A client's platform on which a WebSocket that has opened has had its time at once, and nothing else has, however slow. */
function hasty() {
  let ahead = 0;
  const waiting = new Map();
  class Opened extends WebSocket {
    constructor(...values) {
      super(...values);
      this.on('open', () => setImmediate(() => {
        ahead += CONNECT_TIMEOUT;
        for (const [timer, act] of waiting) if (waiting.delete(timer)) act();
      }));
    }
  }
  return {
    WebSocket: Opened,
    now: () => Date.now() + ahead,
    setTimeout(act, delay) {
      // The watchdog looks at the clock more often.
      if (delay !== CONNECT_TIMEOUT) return setTimeout(act, delay === 2500 ? 20 : delay);
      const timer = Symbol('connect');
      waiting.set(timer, act);
      return timer;
    },
    clearTimeout: (timer) => waiting.delete(timer) || clearTimeout(timer),
  };
}

/** A server and a client that both end with the test. */
async function pair(context, { server: serverOptions, ...options } = {}) {
  const server = await new MockServer(serverOptions).start();
  server.keep('news', 'system');
  const client = createClient({ url: server.url, token: '42.x', ...QUICK, ...options, environment: { WebSocket, ...options.environment } });
  context.after(async () => {
    client.disconnect();
    await server.stop().catch(() => {});
  });
  return { server, client };
}

test('a killed server that comes back: nothing missed, nothing twice', async (context) => {
  const { server, client } = await pair(context);
  const news = [];
  const inbox = [];
  client.subscribeChannel('news', (push) => news.push(push.data));
  client.on('user_notification', (push) => inbox.push(push.data));
  await client.connect();
  await until(() => server.of('subscribe').length > 0);
  server.publish('news', 1);
  server.notify('42', 'a');
  await until(() => news.length === 1 && inbox.length === 1);
  server.leave();
  await until(() => !client.getState().isConnected);
  const written = client.publish('news', 3);
  server.publish('news', 2);
  server.notify('42', 'b');
  await until(() => client.getState().reconnectAttempts >= 2);
  server.comeBack();
  await written;
  await until(() => news.length === 3 && inbox.length === 2);
  assert.deepEqual(news, [1, 2, 3]);
  assert.deepEqual(inbox, ['a', 'b']);
  await until(() => server.inbox('42').acked === 2);
  assert.ok(client.getState().isConnected);
  assert.equal(client.getState().reconnectAttempts, 0);
});

test('connections cut again and again: every message once, in order', async (context) => {
  const { server, client } = await pair(context);
  const news = [];
  client.subscribeChannel('news', (push) => news.push(push.data));
  await client.connect();
  await until(() => [...server.links].some((link) => link.channels.has('news')));
  for (let n = 1; n <= 200; n += 1) {
    server.publish('news', n);
    if (n % 20 === 0) for (const socket of server.sockets) socket.destroy();
    if (n % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 15));
  }
  await until(() => news.length >= 200);
  assert.deepEqual(news, Array.from({ length: 200 }, (_, index) => index + 1));
});

test('a server that hangs is noticed by the watchdog', async (context) => {
  const { server, client } = await pair(context, { server: { interval: 100, timeout: 100 } });
  await client.connect();
  server.reply = (message) => (message.type === 'ping' ? null : undefined);
  const first = client.getState().socket;
  await until(() => client.getState().isConnected && client.getState().socket !== first);
});

test('a token that expires while connected', async (context) => {
  let serial = 0;
  const { server, client } = await pair(context, { token: () => `42.${++serial}` });
  await client.connect();
  server.close(3005, 'token expired');
  await until(() => server.of('auth').length === 2);
  assert.equal(server.of('auth')[1].data.token, '42.2');
});

test('where WebSocket is blocked the event stream does it all', async (context) => {
  const { server, client } = await pair(context, { server: { websocket: false } });
  const news = [];
  const inbox = [];
  client.subscribeChannel('news', (push) => news.push(push.data));
  client.on('user_notification', (push) => inbox.push(push.data));
  server.notify('42', 'before');
  await client.connect();
  assert.equal(client.getState().transport, 'sse');
  assert.equal(client.getState().userId, '42');
  assert.equal(server.handshakes, 3);
  await client.publish('news', 'mine');
  await until(() => news.length === 1 && inbox.length === 1);
  await until(() => server.inbox('42').acked === 1);
  for (const socket of server.sockets) socket.destroy();
  server.links.clear();
  server.publish('news', 'missed');
  server.notify('42', 'missed too');
  await until(() => news.length === 2 && inbox.length === 2);
  assert.deepEqual(news, ['mine', 'missed']);
  assert.deepEqual(inbox, ['before', 'missed too']);
  assert.equal(client.getState().transport, 'sse');
});

test('a server that was merely away is found by WebSocket again', async (context) => {
  const { server, client } = await pair(context);
  await client.connect();
  server.leave();
  await until(() => client.getState().reconnectAttempts >= 5);
  server.comeBack();
  await until(() => client.getState().isConnected && client.getState().transport === 'websocket');
});

test('a WebSocket that opens and stays silent counts as blocked, and takes nobody from the event stream', async (context) => {
  const storage = fakeStorage();
  const { server, client } = await pair(context, {
    server: { websocket: 'silent' }, connectTimeout: CONNECT_TIMEOUT, environment: { ...hasty(), storage },
  });
  await client.connect();
  assert.equal(client.getState().transport, 'sse');
  assert.equal(server.handshakes, 3);
  await until(() => server.handshakes === 5, 'it is tried again, twice');
  assert.equal(client.getState().transport, 'sse');
  assert.equal(await client.request('ping', { n: 1 }).then((data) => data.n), 1);
  client.disconnect();

  // The next page remembers, and still finds a WebSocket that works.
  const next = createClient({ url: server.url, token: '42.x', ...QUICK, environment: { WebSocket, storage } });
  context.after(() => next.disconnect());
  const transports = [];
  next.on('connect', ({ transport }) => transports.push(transport));
  const before = server.handshakes;
  await next.connect();
  assert.deepEqual([transports, server.handshakes], [['sse'], before]);
  server.options.websocket = true;
  await until(() => transports.length === 2);
  assert.equal(transports[1], 'websocket');
  assert.equal(storage.getItem(`pushclient ${server.url} blocked`), null);
});

test('an anonymous client finds a silent WebSocket out, too', async (context) => {
  const { client } = await pair(context, {
    server: { websocket: 'silent' }, token: undefined, transports: ['websocket'], connectTimeout: CONNECT_TIMEOUT, environment: hasty(),
  });
  await client.connect();
  const { socket } = client.getState();
  await until(() => client.getState().isConnected && client.getState().socket !== socket);
});

test('an event stream gives way to a WebSocket that opens again', async (context) => {
  const { server, client } = await pair(context, { server: { websocket: false } });
  await client.connect();
  assert.equal(client.getState().transport, 'sse');
  server.options.websocket = true;
  await until(() => client.getState().transport === 'websocket' && client.getState().isConnected);
  assert.deepEqual(await client.request('ping', { n: 1 }).then((data) => data.n), 1);
});

test('an event stream refuses a wrong token for good', async (context) => {
  const { server, client } = await pair(context, { transports: ['sse'] });
  server.refuse = () => ({ code: 'INVALID_TOKEN' });
  await assert.rejects(client.connect(), { code: 'INVALID_TOKEN', closeCode: 3500 });
});

test('only the event stream, and a request in error', async (context) => {
  const { server, client } = await pair(context, { transports: ['sse'] });
  await client.connect();
  await assert.rejects(client.request('nonsense'), { code: 'UNKNOWN_MESSAGE_TYPE' });
  assert.equal(server.handshakes, 0);
  server.notify('42', 'read just before leaving');
  let read = false;
  client.on('user_notification', () => (read = true));
  await until(() => read);
  client.disconnect();
  await until(() => server.links.size === 0 && server.inbox('42').acked === 1);
});

test('a handshake against a server that is not there gives up when told to', async () => {
  const client = createClient({ url: 'ws://127.0.0.1:1/ws', token: 'x', ...QUICK, maxReconnectAttempts: 3, environment: { WebSocket } });
  await assert.rejects(client.connect(), { code: 'CLOSED' });
  assert.equal(client.getState().reconnectAttempts, 3);
});

