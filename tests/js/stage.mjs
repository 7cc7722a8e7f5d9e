// The stage of a test that is written elsewhere: a browser, a proxy that can be cut, a server for files, many clients.
// One command a line on standard input, {"do": name, ...}; one answer a line on standard output.
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { createRequire } from 'node:module';
import { connect, createServer as createTcp } from 'node:net';
import { extname, join, normalize } from 'node:path';
import { createInterface } from 'node:readline';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { Chromium } from './chromium.js';
import { Firefox } from './firefox.js';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { WebSocket } = require('ws');
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };

/** A proxy in front of the server: `open` passes on, `cut` ends all and refuses, `stall` goes on in silence. */
const proxy = {
  mode: 'open',
  pairs: new Set(),
  async begin(target) {
    const server = createTcp((client) => {
      if (this.mode === 'cut') return void client.destroy();
      const upstream = connect(target, '127.0.0.1');
      const pair = [client, upstream];
      this.pairs.add(pair);
      const end = () => (this.pairs.delete(pair), client.destroy(), upstream.destroy());
      for (const [from, to] of [[client, upstream], [upstream, client]]) {
        from.on('data', (data) => this.mode !== 'stall' && to.write(data));
        from.on('error', end).on('close', end);
      }
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    return server.address().port;
  },
  turn(mode) {
    this.mode = mode;
    if (mode === 'cut') for (const [client, upstream] of this.pairs) (client.destroy(), upstream.destroy());
  },
};

async function serve(folder) {
  const server = createHttp((request, response) => {
    const path = join(folder, normalize(new URL(request.url, 'http://page').pathname).replace(/\/$/, '/index.html'));
    if (!existsSync(path)) return void response.writeHead(404).end();
    response.writeHead(200, { 'Content-Type': TYPES[extname(path)] ?? 'application/octet-stream' });
    createReadStream(path).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server.address().port;
}

/** Many clients at once; tells when each of them came back after it was lost. */
const crowd = {
  clients: [],
  returns: [],
  async begin({ url, tokens }) {
    this.clients = tokens.map((token) => createClient({ url, token, transports: ['websocket'], environment: { WebSocket } }));
    let lost = false;
    for (const client of this.clients) {
      client.on('disconnect', () => (lost = true));
      client.on('connect', () => lost && this.returns.push(Date.now()));
    }
    // One after another: the accept queue of a machine under test is short.
    for (const client of this.clients) await client.connect();
  },
};

/** What axe-core objects to in a page as it is now, and how many of its rules the page keeps. */
async function judge(tab) {
  await tab.run(`(() => {\n${readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')}\n})()`);
  return tab.run(`axe.run().then(({ violations, passes }) => ({
    kept: passes.length,
    broken: violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => [id, target.join(' '), failureSummary].join(': '))),
  }))`);
}

const BROWSERS = { chromium: Chromium, firefox: Firefox };
let browser = null;
const tabs = [];
/** The tab of this number, else the newest. */
const of = (number = -1) => tabs.at(number);
const commands = {
  browser: async ({ kind = 'chromium', ...options }) => {
    browser = await BROWSERS[kind].start(options);
    return browser.pid;
  },
  open: async ({ url, before, window, apart }) => tabs.push(await browser.open(url, before, window, apart)) - 1,
  run: ({ tab, expression }) => of(tab).run(expression),
  until: ({ tab, expression, limit }) => of(tab).until(expression, limit),
  cover: ({ tab }) => of(tab).cover(),
  reload: ({ tab }) => of(tab).reload(),
  close: ({ tab }) => of(tab).close(),
  freeze: ({ frozen }) => of().call('Page.setWebLifecycleState', { state: frozen ? 'frozen' : 'active' }),
  size: ({ tab, width, height }) => of(tab).size(width, height),
  dark: ({ tab }) => of(tab).dark(),
  axe: ({ tab }) => judge(of(tab)),
  key: ({ tab, key }) => of(tab).press(key),
  screenshot: ({ tab }) => of(tab).screenshot(),
  proxy: ({ target }) => proxy.begin(target),
  turn: ({ mode }) => proxy.turn(mode),
  serve: ({ folder }) => serve(folder),
  crowd: (options) => crowd.begin(options),
  returns: () => crowd.returns,
  tried: () => crowd.clients.filter((client) => client.getState().reconnectAttempts > 0 && client.getState().nextAttemptAt).length,
};

const lines = createInterface({ input: process.stdin });
for await (const line of lines) {
  const { do: name, ...options } = JSON.parse(line);
  const answer = await Promise.resolve(commands[name](options)).then(
    (value) => ({ value: value ?? null }),
    (error) => ({ error: String(error.stack ?? error) }),
  );
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser?.stop();
process.exit(0);
