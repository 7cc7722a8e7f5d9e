// The client in a real browser, Chromium or BROWSER=firefox: a page under a strict policy, a server that dies, a frozen tab,
// three tabs as one.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Chromium } from './chromium.js';
import { Firefox } from './firefox.js';
import { MockServer } from './mock_server.js';
import { until } from './until.js';

const QUICK = 'reconnectInterval: 50, lossWindow: 100, maxReconnectInterval: 200, ackDelay: 20';
/** Ahead of a page's scripts: a busy machine may take more than the three seconds that a tab waits for the shared worker. */
const PATIENT = 'const wait = setTimeout; window.setTimeout = (act, ms, ...more) => wait(act, ms === 3000 ? 60000 : ms, ...more);';
const Browser = process.env.BROWSER === 'firefox' ? Firefox : Chromium;
let browser;

before(async () => {
  browser = await Browser.start();
});
after(() => browser.stop());

async function serve(context, options) {
  const server = await new MockServer(options).start();
  server.keep('news', 'system');
  context.after(() => server.stop().catch(() => {}));
  server.page = `http://127.0.0.1:${server.port}/`;
  return server;
}

/** Connects the page's client; `inbox`, `news` and `bars` record what it shows. */
const begin = (make = `(await import('/pushclient.js')).createClient({ token: () => '42.x', ${QUICK} })`) => `(async () => {
  window.client = ${make};
  Object.assign(window, { inbox: [], news: [], bars: [] });
  client.on('user_notification', (push) => { inbox.push(push.data); });
  client.subscribe((now, before) => {
    const value = now.taskProgress.get('t');
    if (value !== before.taskProgress.get('t')) bars.push(value);
  });
  await client.connect();
  await client.subscribeChannel('news', (push) => { news.push(push.data); }).ready;
})()`;

const bar = (version, percentage, status = 'running') => ({ taskId: 't', userId: '42', status, percentage, version, createdAt: 1, updatedAt: 1 });

test('a page, and a server that is killed and comes back', async (context) => {
  const server = await serve(context);
  const tab = await browser.open(server.page);
  await tab.run(begin());
  assert.ok(await tab.run("(async () => client instanceof (await import('/pushclient/index.js')).PushClient)()"));
  server.publish('news', 1);
  server.notify('42', 'a');
  server.task(bar(1, 20));
  await tab.until('news.length === 1 && inbox.length === 1 && bars.length === 1');
  server.leave();
  await tab.until('!client.getState().isConnected');
  await tab.run("window.written = client.publish('news', 3), 0");
  server.publish('news', 2);
  server.notify('42', 'b');
  server.task(bar(3, 60));
  server.comeBack();
  await tab.until('news.length === 3 && inbox.length === 2 && bars.length === 2');
  server.task(bar(2, 40));
  server.task(bar(4, 100, 'completed'), { type: 'task_completed' });
  await tab.until("client.getTaskStatus('t') === 'completed'");
  assert.deepEqual(await tab.run('[news, inbox, bars]'), [[1, 2, 3], ['a', 'b'], [20, 60, 100]]);
  assert.equal(await tab.run('written.then((reply) => typeof reply.offset)'), 'number');
  assert.equal(await tab.run('client.getState().reconnectAttempts'), 0);
  await tab.close();
});

// Only Chromium can freeze one tab.
if (Browser === Chromium) test('a tab whose timers stood still while its connection died', async (context) => {
  const server = await serve(context, { interval: 400 });
  const tab = await browser.open(server.page);
  await tab.run(begin());
  await tab.call('Page.setWebLifecycleState', { state: 'frozen' });
  for (const socket of server.sockets) socket.destroy();
  server.links.clear();
  server.publish('news', 1);
  server.notify('42', 'a');
  server.task(bar(1, 20));
  await new Promise((resolve) => setTimeout(resolve, 500));
  await tab.call('Page.setWebLifecycleState', { state: 'active' });
  await tab.until('news.length === 1 && inbox.length === 1 && bars.length === 1');
  await tab.until('client.getState().isConnected');
  await tab.close();
});

test('where WebSocket is blocked, the event stream', async (context) => {
  const server = await serve(context, { websocket: false });
  const tab = await browser.open(server.page);
  await tab.run(begin());
  assert.equal(await tab.run('client.getState().transport'), 'sse');
  await tab.run("client.publish('news', 'mine')");
  server.notify('42', 'a');
  await tab.until('news.length === 1 && inbox.length === 1');
  await until(() => server.inbox('42').acked === 1);
  await tab.close();
});

test('three tabs, one connection, closing any of them loses nothing', async (context) => {
  const server = await serve(context);
  const shared = `(await import('/pushclient/shared.js')).createSharedClient({ token: () => '42.x', session: '42', ${QUICK} })`;
  const tabs = [];
  for (let count = 0; count < 3; count += 1) {
    tabs.push(await browser.open(server.page, PATIENT));
    await tabs[count].run(begin(shared));
  }
  assert.equal(server.handshakes, 1);
  server.publish('news', 1);
  server.notify('42', 'a');
  for (const tab of tabs) await tab.until('news.length === 1 && inbox.length === 1');
  await tabs[0].close();
  server.publish('news', 2);
  server.notify('42', 'b');
  for (const tab of tabs.slice(1)) await tab.until('news.length === 2 && inbox.length === 2');
  await tabs[1].close();
  for (const socket of server.sockets) socket.destroy();
  server.links.clear();
  server.publish('news', 3);
  server.notify('42', 'c');
  await tabs[2].until('news.length === 3 && inbox.length === 3');
  assert.deepEqual(await tabs[2].run('[news, inbox]'), [[1, 2, 3], ['a', 'b', 'c']]);
  assert.equal(server.of('auth').length, 2, 'one sign-in, and one after the cut');
  await until(() => server.inbox('42').acked === 3);
  await tabs[2].close();
  await until(() => server.links.size === 0);
});

const isWorker = /worker/;
const sent = (response, type, text) => (response.writeHead(200, { 'Content-Type': type }).end(text), true);
/** Ahead of a page's scripts: whether the browser has told the page that a shared worker failed. */
const WATCHED = `window.told = false; const SharedWorkerHere = SharedWorker; window.SharedWorker = class extends SharedWorkerHere {
  constructor(...given) { super(...given); this.addEventListener('error', () => { window.told = true; }); }
};`;
/** What may be wrong with the worker's script: what the server does, and what the one warning says. */
const SCRIPTS = {
  'is not there': [{ refuse: isWorker }, /did not load/],
  'is forbidden by the policy': [{ policy: "default-src 'self'; connect-src 'self' ws:; worker-src 'none'" }, /worker-src/],
  'lies on another origin': [{ elsewhere: true }, /has to come from the origin of the page/],
  'is a page': [{ instead: (path, response) => isWorker.test(path) && sent(response, 'text/html', '<!doctype html>') }, /did not load/],
  'does not come': [{ instead: (path) => isWorker.test(path) }, /no answer/],
  'says nothing': [{ instead: (path, response) => isWorker.test(path) && sent(response, 'text/javascript', '0;') }, /no answer/],
};

for (const [what, [options, advice]] of Object.entries(SCRIPTS)) {
  test(`a worker script that ${what}: each tab has a connection of its own, and one warning`, async (context) => {
    const server = await serve(context, options);
    const workerUrl = options.elsewhere ? `'http://localhost:${server.port}/pushclient/worker.js'` : 'undefined';
    const shared = `(await import('/pushclient/shared.js')).createSharedClient({ token: () => '42.x', workerUrl: ${workerUrl}, ${QUICK} })`;
    const tabs = [];
    for (let count = 1; count <= 2; count += 1) {
      // A busy browser may say late that a script did not load: it is not given up before.
      const patience = advice.test('no answer') ? '' : PATIENT;
      const tab = await browser.open(server.page, `window.warned = []; console.warn = (text) => { warned.push(text); }; ${WATCHED} ${patience}`);
      await tab.run(begin(shared));
      assert.equal(server.handshakes, count);
      tabs.push(tab);
    }
    server.notify('42', 'a');
    server.publish('news', 1);
    for (const tab of tabs) {
      await tab.until('inbox.length === 1 && news.length === 1');
      const [isConnected, warned, told] = await tab.run('[client.getState().isConnected, warned, told]');
      assert.deepEqual([isConnected, warned.length], [true, 1]);
      assert.match(warned[0], /this tab has a connection of its own/);
      // In what words a browser tells it is its own affair; once in some hundred loads a busy Chromium does not tell it at all.
      const isSilent = !told && /no answer/.test(warned[0]);
      if (Browser === Chromium && !isSilent) assert.match(warned[0], advice);
      await tab.close();
    }
  });
}

// A shared worker lives in the process of the tab that made it. Firefox lets nobody crash one from outside.
if (Browser === Chromium) test('a shared worker that a crashing tab takes along: the others have the next one, and miss nothing', async (context) => {
  const server = await serve(context);
  const shared = `(await import('/pushclient/shared.js')).createSharedClient({ token: () => '42.x', ${QUICK} })`;
  const tabs = [];
  for (let count = 0; count < 3; count += 1) {
    tabs.push(await browser.open(server.page, PATIENT));
    await tabs[count].run(begin(shared));
    await tabs[count].run("window.lost = 0, client.on('disconnect', () => { lost += 1; }), 0");
  }
  assert.equal(server.handshakes, 1);
  const crashed = tabs.shift();
  crashed.crash();
  server.notify('42', 'a');
  server.publish('news', 1);
  for (const tab of tabs) await tab.until('lost === 1 && inbox.length === 1 && news.length === 1 && client.getState().isConnected');
  assert.equal(server.handshakes, 2, 'one connection for both again');
  for (const tab of tabs) {
    assert.deepEqual(await tab.run('[inbox, news]'), [['a'], [1]]);
    await tab.close();
  }
  await until(() => server.links.size === 0);
  await crashed.close();
});

test('a page that was put aside whole and is shown again, where there are no locks', async (context) => {
  const server = await serve(context);
  const tab = await browser.open(server.page, `${PATIENT} Object.defineProperty(navigator, 'locks', { value: undefined });`);
  await tab.run(begin(`(await import('/pushclient/shared.js')).createSharedClient({ token: () => '42.x', ${QUICK} })`));
  await tab.run("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))");
  await until(() => server.links.size === 0);
  server.notify('42', 'a');
  server.publish('news', 1);
  await tab.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))");
  await tab.until('inbox.length === 1 && news.length === 1');
  await tab.close();
});

test('with recover a reload of the page misses nothing and shows nothing twice', async (context) => {
  const server = await serve(context);
  const tab = await browser.open(server.page);
  const recovering = `(await import('/pushclient.js')).createClient({ token: () => '42.x', recover: true, ${QUICK} })`;
  await tab.run(begin(recovering));
  server.publish('news', 1);
  await tab.until('news.length === 1');
  await tab.reload();
  await until(() => server.links.size === 0);
  server.publish('news', 2);
  await tab.until('document.readyState === "complete" && window.client === undefined');
  await tab.run(begin(recovering));
  await tab.until('news.length > 0');
  assert.deepEqual(await tab.run('news'), [2]);
  await tab.close();
});
