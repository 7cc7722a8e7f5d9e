// A headless Chromium, driven over its DevTools protocol.
import { Driven, tab } from './driven.js';

/** What a key that writes nothing is known by. */
const CODES = { Backspace: 8, Tab: 9, Enter: 13, Escape: 27 };
/** The modifier of a key that is pressed with Shift. */
const SHIFT = 8;

export class Chromium extends Driven {
  /** `dark`: as where somebody prefers that, and no motion. */
  static async start({ dark = false } = {}) {
    const browser = new Chromium();
    browser.dark = dark;
    await browser.launch('chromium', ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run',
      '--remote-debugging-port=0', `--user-data-dir=${browser.profile}`, 'about:blank']);
    return browser;
  }

  /**
   * A new tab at `url`, in a `window` of its own or not, in a profile of its own (`apart`) or not; `before` runs in it ahead of
   * the page's own scripts.
   */
  async open(url, before, window = false, apart = false) {
    const profile = apart ? await this.call('Target.createBrowserContext') : {};
    const { targetId } = await this.call('Target.createTarget', { url: 'about:blank', newWindow: window || apart, ...profile });
    const { sessionId } = await this.call('Target.attachToTarget', { targetId, flatten: true });
    const call = (method, params) => this.call(method, params, { sessionId });
    const opened = tab(async (expression) => {
      const { result, exceptionDetails } = await call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    }, {
      call,
      close: () => this.call('Target.closeTarget', { targetId }),
      reload: () => call('Page.reload'),
      size: (width, height) => call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 }),
      /** Press a key, and let it go: the name of one (`Shift+Tab` too), or what it writes. */
      press: async (key) => {
        const name = key.replace('Shift+', '');
        const pressed = { key: name, windowsVirtualKeyCode: CODES[name], modifiers: name === key ? 0 : SHIFT };
        await call('Input.dispatchKeyEvent', { ...pressed, type: 'keyDown', text: name === 'Enter' ? '\r' : CODES[name] ? undefined : name });
        await call('Input.dispatchKeyEvent', { ...pressed, type: 'keyUp' });
      },
      // Without motion, so that no colour is on its way to another one.
      dark: () => call('Emulation.setEmulatedMedia', {
        features: [{ name: 'prefers-color-scheme', value: 'dark' }, { name: 'prefers-reduced-motion', value: 'reduce' }],
      }),
      screenshot: async () => (await call('Page.captureScreenshot', { format: 'png' })).data,
      /** Its process dies; what else lives in that dies with it. Nobody answers. */
      crash: () => void call('Page.crash').catch(() => {}),
      /** Another tab comes before it, so that it is hidden. */
      cover: () => call('Runtime.evaluate', { expression: "void window.open('about:blank')", userGesture: true }),
    });
    await call('Page.enable');
    if (this.dark) await opened.dark();
    if (before) await call('Page.addScriptToEvaluateOnNewDocument', { source: before });
    await call('Page.navigate', { url });
    await opened.until('document.readyState === "complete" && location.href !== "about:blank"');
    return opened;
  }

  stop() {
    return this.end('Browser.close');
  }
}
