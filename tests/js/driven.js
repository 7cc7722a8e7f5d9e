// A browser in a process of its own, and the socket on which it takes commands: what Chromium and Firefox have alike.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');

/** ms that a browser on a busy machine may take for what a test waits for. */
const PATIENCE = 300_000;

export class Driven {
  #process;
  #socket;
  #serial = 0;
  #waiting = new Map();

  constructor() {
    /** The folder of its profile; gone when it stops. */
    this.profile = mkdtempSync(join(tmpdir(), 'pushclient-browser-'));
  }

  /** The browser's own process; its others are the descendants of this one. */
  get pid() {
    return this.#process.pid;
  }

  /** Starts it, and connects to the address that it says on standard error, with `path` behind it. */
  async launch(program, options, path = '') {
    // What it makes elsewhere goes with its profile.
    const env = { ...process.env, TMPDIR: this.profile };
    this.#process = spawn(program, options, { env, stdio: ['ignore', 'ignore', 'pipe'] });
    // Also where the test dies on its way, or is told to end: no browser outlives it.
    process.once('SIGTERM', () => process.exit(143));
    process.once('exit', () => {
      this.#process.kill('SIGKILL');
      this.#remove();
    });
    const address = await new Promise((resolve, reject) => {
      this.#process.on('error', reject);
      this.#process.on('exit', (code) => reject(new Error(`${program} ended with ${code}`)));
      createInterface({ input: this.#process.stderr }).on('line', (line) => {
        const found = /listening on (ws:\S+)/.exec(line);
        if (found) resolve(found[1]);
      });
    });
    this.#socket = new WebSocket(address + path, { perMessageDeflate: false });
    await new Promise((resolve, reject) => this.#socket.on('open', resolve).on('error', reject));
    this.#socket.on('message', (text) => {
      const { id, result, error, message } = JSON.parse(text);
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) waiting?.reject(new Error(error.message ?? `${error}: ${message}`));
      else waiting?.resolve(result);
    });
  }

  call(method, params = {}, more = {}) {
    const id = ++this.#serial;
    this.#socket.send(JSON.stringify({ id, method, params, ...more }));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  /** Ends it by its command of this name. */
  async end(method) {
    const gone = new Promise((resolve) => this.#process.once('exit', resolve));
    const killer = setTimeout(() => this.#process.kill('SIGKILL'), 15000);
    this.call(method).catch(() => {});
    await gone;
    clearTimeout(killer);
    this.#remove();
  }

  #remove() {
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 20 });
  }
}

/** What every tab can do that can `run` an expression. */
export function tab(run, more) {
  return {
    run,
    /** Waits until an expression is truthy. `limit`: ms after which it never comes. */
    async until(expression, limit = PATIENCE) {
      const end = Date.now() + limit;
      for (;;) {
        // A page that is left takes what was asked in it along.
        const value = await run(expression).catch((error) => {
          if (!/target navigated|cannot find (default )?(execution )?context|context was destroyed/i.test(error.message)) throw error;
        });
        if (value) return value;
        if (Date.now() > end) throw new Error(`never came: ${expression}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    ...more,
  };
}
