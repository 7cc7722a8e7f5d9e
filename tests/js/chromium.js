// A headless Chromium, driven over its DevTools protocol.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');

export class Chromium {
  #process;
  #socket;
  #profile;
  #serial = 0;
  #waiting = new Map();

  static async start() {
    const browser = new Chromium();
    browser.#profile = mkdtempSync(join(tmpdir(), 'pushclient-chromium-'));
    const options = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
      '--remote-debugging-port=0', `--user-data-dir=${browser.#profile}`, 'about:blank'];
    browser.#process = spawn('chromium', options, { stdio: ['ignore', 'ignore', 'pipe'] });
    // Also where the test dies on its way: no browser outlives it.
    process.once('exit', () => browser.#process.kill('SIGKILL'));
    const address = await new Promise((resolve, reject) => {
      browser.#process.on('error', reject);
      browser.#process.on('exit', (code) => reject(new Error(`chromium ended with ${code}`)));
      createInterface({ input: browser.#process.stderr }).on('line', (line) => {
        const found = /DevTools listening on (ws:\S+)/.exec(line);
        if (found) resolve(found[1]);
      });
    });
    browser.#socket = new WebSocket(address, { perMessageDeflate: false });
    await new Promise((resolve, reject) => browser.#socket.on('open', resolve).on('error', reject));
    browser.#socket.on('message', (text) => {
      const { id, result, error } = JSON.parse(text);
      const waiting = browser.#waiting.get(id);
      browser.#waiting.delete(id);
      if (error) waiting?.reject(new Error(error.message));
      else waiting?.resolve(result);
    });
    return browser;
  }

  call(method, params = {}, sessionId = undefined) {
    const id = ++this.#serial;
    this.#socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  /** A new tab at `url`; `before` runs in it ahead of the page's own scripts. */
  async open(url, before) {
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    const tab = {
      call: (method, params) => this.call(method, params, sessionId),
      close: () => this.call('Target.closeTarget', { targetId }),
      /** The value of an expression in the page; promises are awaited. */
      async run(expression) {
        const { result, exceptionDetails } = await tab.call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
        if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
        return result.value;
      },
      /** Waits until an expression is truthy. */
      async until(expression, limit = 15000) {
        const end = Date.now() + limit;
        for (;;) {
          const value = await tab.run(expression);
          if (value) return value;
          if (Date.now() > end) throw new Error(`never came: ${expression}`);
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      },
    };
    await tab.call('Page.enable');
    if (before) await tab.call('Page.addScriptToEvaluateOnNewDocument', { source: before });
    await tab.call('Page.navigate', { url });
    await tab.until('document.readyState === "complete" && location.href !== "about:blank"');
    return tab;
  }

  async stop() {
    const gone = new Promise((resolve) => this.#process.once('exit', resolve));
    const killer = setTimeout(() => this.#process.kill('SIGKILL'), 5000);
    this.call('Browser.close').catch(() => {});
    await gone;
    clearTimeout(killer);
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 });
  }
}
