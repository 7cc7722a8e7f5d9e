// A headless Chromium for one scenario: Debian's own, driven by playwright-core, with a profile that nobody used.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const { chromium } = createRequire(new URL('../node/package.json', import.meta.url))('playwright-core');

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
];
/** ms that anything may take before the scenario fails. */
const PATIENCE = 60_000;

export const DESKTOP = { width: 1280, height: 900 };
export const PHONE = { width: 375, height: 812 };

/** What the test told us: the server's address and API key, where pictures go. */
export const told = {
  url: process.env.PAGE_URL,
  key: process.env.PAGE_KEY,
  pictures: process.env.SCREENSHOTS,
};

/** Runs one scenario; ends the browser whatever happens. */
export async function scenario(play) {
  const profile = mkdtempSync(join(tmpdir(), 'pushserver-page-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS, viewport: DESKTOP,
    reducedMotion: 'reduce',
  });
  context.setDefaultTimeout(PATIENCE);
  try {
    await play(new Stage(context));
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 20 });
  }
}

class Stage {
  #context;
  /** What any tab wrote to its console as an error, or threw. */
  complaints = [];

  constructor(context) {
    this.#context = context;
  }

  /** A new tab with the page in it, once it is signed in. */
  async open(path = '/', { size, scheme, signedIn = true } = {}) {
    const tab = await this.#context.newPage();
    if (size) await tab.setViewportSize(size);
    if (scheme) await tab.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    tab.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') this.complaints.push(message.text());
    });
    tab.on('pageerror', (error) => this.complaints.push(String(error)));
    await tab.goto(told.url + path);
    if (signedIn) await connected(tab);
    return tab;
  }
}

export const state = (tab, name) => tab.locator(`#state[data-state="${name}"]`).waitFor();
export const connected = (tab) => state(tab, 'connected');

/** Waits for an element, found by selector and text, to be seen. */
export const seen = (tab, selector, text) => tab.locator(selector, text === undefined ? {} : { hasText: text }).first().waitFor();

/** Asks until the answer is true. */
export async function until(ask, what) {
  const end = Date.now() + PATIENCE;
  while (!(await ask())) {
    if (Date.now() > end) throw new Error(`never came: ${what ?? ask}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** Presses Tab until an element that `selector` finds has the focus; each on the way has a name and a visible ring. */
export async function tabTo(tab, selector) {
  const passed = [];
  for (let presses = 0; presses < 60; presses += 1) {
    await tab.keyboard.press('Tab');
    const at = await tab.evaluate((wanted) => {
      const { activeElement: here } = document;
      const { outlineStyle, outlineWidth } = getComputedStyle(here);
      return { id: here.id, tag: here.tagName, ring: outlineStyle !== 'none' && outlineWidth !== '0px', name: here.getAttribute('aria-label') ?? here.labels?.[0]?.textContent ?? here.textContent, found: here.matches(wanted) };
    }, selector);
    // Behind the last element comes the document itself, and then the first.
    if (at.tag === 'BODY') continue;
    assert.ok(at.ring, `no focus ring on ${at.tag} ${at.id}`);
    assert.ok(at.name.trim(), `no name on ${at.tag} ${at.id}`);
    if (at.found) return;
    passed.push(at.id || at.name.trim());
  }
  throw new Error(`Tab never came to ${selector}: ${passed}`);
}

/** A picture of the whole page, and a check that nothing is wider than the window. */
export async function picture(tab, name) {
  const overflow = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${name}: the page is ${overflow} px wider than its window`);
  if (!told.pictures) return;
  mkdirSync(told.pictures, { recursive: true });
  await tab.evaluate(() => scrollTo(0, 0));
  await tab.screenshot({ path: join(told.pictures, `${name}.png`), fullPage: true });
}

/** One call of the server's API. */
export async function api(method, path, body) {
  const response = await fetch(`${told.url}/api/${path}`, {
    method,
    headers: { 'X-API-Key': told.key, 'Content-Type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
  return answer;
}
