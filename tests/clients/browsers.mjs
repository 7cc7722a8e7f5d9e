// A browser and the client that it loads from the server, at each address. … chromium|firefox TOKEN URL …
// Prints one line of JSON for each address: {url, error}. The certificate is of an authority that no browser knows, so it is
// let through; everything else of TLS is the browser's.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const [name, token, ...urls] = process.argv.slice(2);

/** What runs in the page: the page's own client signs in over a WebSocket, and hears what it publishes. */
const visit = `(async () => {
  const { createClient } = await import('/pushclient.js');
  const client = createClient({ url: '/ws', token: ${JSON.stringify(token)}, sharedWorker: false });
  const channel = 'live:${name}', text = String(Math.random());
  const received = new Promise((resolve) => client.subscribeChannel(channel, (push) => push.data === text && resolve()));
  await client.connect();
  await client.publish(channel, text);
  await Promise.race([received, new Promise((_, reject) => setTimeout(() => reject(new Error('nothing came')), 15000))]);
  await client.disconnect?.();
  return 'received';
})()`;

async function inChromium(visitAll) {
  const { chromium } = require('playwright-core');
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium', headless: true, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  try {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    await visitAll(async (url) => {
      const page = await context.newPage();
      try {
        await page.goto(`${url}/pushclient.js`);
        await page.evaluate(visit);
      } finally {
        await page.close();
      }
    });
  } finally {
    await browser.close();
  }
}

/** Firefox by WebDriver BiDi, which it speaks itself. */
async function inFirefox(visitAll) {
  const { WebSocket } = require('ws');
  const profile = mkdtempSync(join(tmpdir(), 'pushserver-firefox-'));
  const browser = spawn('firefox-esr', ['--headless', '--remote-debugging-port=0', '--profile', profile, '--no-remote'], {
    stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, HOME: profile },
  });
  try {
    const address = await new Promise((resolve, reject) => {
      browser.on('error', reject);
      browser.on('exit', (code) => reject(new Error(`firefox ended with ${code}`)));
      createInterface({ input: browser.stderr }).on('line', (line) => {
        const found = /WebDriver BiDi listening on (ws:\S+)/.exec(line);
        if (found) resolve(found[1]);
      });
    });
    const socket = new WebSocket(`${address}/session`);
    await new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject));
    const waiting = new Map();
    socket.on('message', (text) => {
      const { id, type, result, message } = JSON.parse(text);
      const one = waiting.get(id);
      waiting.delete(id);
      if (type === 'error') one?.reject(new Error(message));
      else one?.resolve(result);
    });
    let serial = 0;
    const call = (method, params) => new Promise((resolve, reject) => {
      waiting.set(++serial, { resolve, reject });
      socket.send(JSON.stringify({ id: serial, method, params }));
    });
    await call('session.new', { capabilities: { alwaysMatch: { acceptInsecureCerts: true } } });
    await visitAll(async (url) => {
      const { context } = await call('browsingContext.create', { type: 'tab' });
      try {
        await call('browsingContext.navigate', { context, url: `${url}/pushclient.js`, wait: 'complete' });
        const done = await call('script.evaluate', { expression: visit, target: { context }, awaitPromise: true });
        if (done.type !== 'success') throw new Error(done.exceptionDetails?.text ?? 'the script failed');
      } finally {
        await call('browsingContext.close', { context });
      }
    });
    socket.terminate();
  } finally {
    browser.removeAllListeners('exit');
    browser.kill('SIGKILL');
    await new Promise((resolve) => (browser.exitCode === null && browser.signalCode === null ? browser.on('exit', resolve) : resolve()));
    rmSync(profile, { recursive: true, force: true, maxRetries: 20 });
  }
}

await (name === 'firefox' ? inFirefox : inChromium)(async (open) => {
  for (const url of urls) {
    let error = '';
    try {
      await open(url);
    } catch (problem) {
      error = String(problem.message ?? problem).split('\n')[0];
    }
    console.log(JSON.stringify({ url, error }));
  }
});
process.exit(0);
