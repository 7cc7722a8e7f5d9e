const TICK = 2500;
/** A timer this late means that the machine slept (or that the tab was frozen): nothing known before counts. */
const SLEPT = 10000;

/**
 * Looks after time: a tick every few seconds, which also finds out that the machine slept or that its clock was set
 * back; and the page's events that tell of a network or a tab that came back.
 *
 * `on` has `tick()`, which returns whether to go on, `slept()`, `setBack()`, `woke()`, `offline()` and `hidden()`.
 */
export class Watchdog {
  #env;
  #on;
  #timer = null;
  #lastTick = 0;
  #unlisten = null;

  constructor(env, on) {
    this.#env = env;
    this.#on = on;
  }

  get isArmed() {
    return this.#timer !== null;
  }

  /** Ticks from now on, often enough for a heartbeat of this interval and timeout. */
  arm({ interval, timeout } = { interval: Infinity, timeout: Infinity }) {
    this.#env.clearTimeout(this.#timer);
    const period = Math.max(20, Math.min(TICK, interval / 4, timeout / 4));
    this.#lastTick = this.#env.now();
    this.#timer = this.#env.setTimeout(() => this.#tick(period), period);
  }

  stop() {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
    this.#unlisten?.();
    this.#unlisten = null;
  }

  #tick(period) {
    const late = this.#env.now() - this.#lastTick - period;
    this.#timer = null;
    if (late < -period) this.#on.setBack();
    if (late > SLEPT) this.#on.slept();
    this.#on.tick();
  }

  /** Hears the page's events. */
  listen() {
    const { window, document } = this.#env;
    const { woke, offline, hidden } = this.#on;
    const added = [];
    const add = (target, type, listener) => {
      target?.addEventListener(type, listener);
      if (target) added.push([target, type, listener]);
    };
    add(window, 'online', woke);
    add(window, 'offline', offline);
    add(window, 'pageshow', (event) => event.persisted && woke());
    add(window, 'pagehide', hidden);
    add(document, 'visibilitychange', () => document.visibilityState === 'visible' && woke());
    add(document, 'resume', woke);
    this.#unlisten = () => added.forEach(([target, type, listener]) => target.removeEventListener(type, listener));
  }
}
