// A headless Firefox, driven over WebDriver BiDi, with the calls of chromium.js.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Driven, tab } from './driven.js';

const PREFERENCES = {
  'browser.shell.checkDefaultBrowser': false,
  'browser.startup.page': 0,
  // JSON is text, as elsewhere, and not a page of Firefox's own.
  'devtools.jsonview.enabled': false,
  'datareporting.policy.dataSubmissionEnabled': false,
  // Nothing but the page under test: no update, no search, no portal is looked for.
  'app.update.enabled': false,
  'network.captive-portal-service.enabled': false,
  'network.connectivity-service.enabled': false,
  'services.settings.server': 'http://127.0.0.1:9/',
  'toolkit.telemetry.enabled': false,
};

/** Where somebody prefers the dark, and no motion. */
const DARK = { 'layout.css.prefers-color-scheme.content-override': 0, 'ui.prefersReducedMotion': 1 };
/** What WebDriver calls a key that writes nothing. */
const KEYS = { Backspace: '\uE003', Tab: '\uE004', Enter: '\uE007', Escape: '\uE00C' };
const SHIFT = '\uE008';

export class Firefox extends Driven {
  /** `dark`: as where somebody prefers that, and no motion. */
  static async start({ dark = false } = {}) {
    const browser = new Firefox();
    const lines = Object.entries({ ...PREFERENCES, ...(dark ? DARK : {}) }).map(([name, value]) => `user_pref(${JSON.stringify(name)}, ${JSON.stringify(value)});\n`);
    writeFileSync(join(browser.profile, 'user.js'), lines.join(''));
    await browser.launch('firefox-esr', ['--headless', '--no-remote', '--profile', browser.profile, '--remote-debugging-port', '0'], '/session');
    await browser.call('session.new', { capabilities: {} });
    return browser;
  }

  /**
   * A new tab at `url`, in a `window` of its own or not, in a profile of its own (`apart`) or not; `before` runs in it ahead of
   * the page's own scripts.
   */
  async open(url, before, window = false, apart = false) {
    const profile = apart ? await this.call('browser.createUserContext', {}) : {};
    const { context } = await this.call('browsingContext.create', { type: window || apart ? 'window' : 'tab', ...profile });
    if (before) await this.call('script.addPreloadScript', { functionDeclaration: `() => { ${before} }`, contexts: [context] });
    await this.call('browsingContext.navigate', { context, url, wait: 'complete' });
    return tab(async (expression) => {
      const whole = `(async () => JSON.stringify(await (${expression})))()`;
      const { type, result, exceptionDetails } = await this.call('script.evaluate', { expression: whole, target: { context }, awaitPromise: true });
      if (type === 'exception') throw new Error(exceptionDetails.text);
      return result.value === undefined ? undefined : JSON.parse(result.value);
    }, {
      close: () => this.call('browsingContext.close', { context }),
      reload: () => this.call('browsingContext.reload', { context, wait: 'none' }),
      size: (width, height) => this.call('browsingContext.setViewport', { context, viewport: { width, height } }),
      /** Press a key, and let it go: the name of one (`Shift+Tab` too), or what it writes. */
      press: (key) => {
        const name = key.replace('Shift+', '');
        const values = [...(name === key ? [] : [SHIFT]), KEYS[name] ?? name];
        const actions = [
          ...values.map((value) => ({ type: 'keyDown', value })),
          ...values.toReversed().map((value) => ({ type: 'keyUp', value })),
        ];
        return this.call('input.performActions', { context, actions: [{ type: 'key', id: 'keyboard', actions }] });
      },
      screenshot: async () => (await this.call('browsingContext.captureScreenshot', { context })).data,
      /** Another tab comes before it, so that it is hidden. */
      cover: () => this.call('browsingContext.create', { type: 'tab', referenceContext: context }),
    });
  }

  stop() {
    return this.end('browser.close');
  }
}
