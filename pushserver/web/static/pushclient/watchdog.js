const TICK = 2500;
/** A timer this late means that the machine slept (or that the tab was frozen): nothing known before counts. */
const SLEPT = 10000;

/**
 * Looks after time: a tick every few seconds, which also finds out that the machine slept or that its clock was set
 * back; and the page's events that tell of a network or a tab that came back.
 *
 * `on` has `tick()`, `hidden()`, and `woke(isReachable)`: whatever was known before may hold no more, and where the way seems to be
 * free again (`isReachable`) there is no reason to wait.
 */
export function createWatchdog({ now, setTimeout, clearTimeout, window, document }, on) {
  let timer = null;
  let lastTick = 0;
  let added = [];

  const tick = (period) => {
    const late = now() - lastTick - period;
    timer = null;
    // In a hidden tab timers are late by rule, which says nothing of the way.
    if (late > SLEPT || late < -period) on.woke(document?.visibilityState !== 'hidden');
    on.tick();
  };

  return {
    get isArmed() {
      return timer !== null;
    },

    /** Ticks from now on, often enough for a heartbeat of this interval and timeout. */
    arm({ interval = Infinity, timeout = Infinity } = {}) {
      clearTimeout(timer);
      const period = Math.max(20, Math.min(TICK, interval / 4, timeout / 4));
      lastTick = now();
      timer = setTimeout(() => tick(period), period);
    },

    /** Hears the page's events. */
    listen() {
      const add = (target, type, listener) => {
        target?.addEventListener?.(type, listener);
        added.push([target, type, listener]);
      };
      const woke = () => on.woke(true);
      add(window, 'online', woke);
      add(window, 'offline', () => on.woke(false));
      add(window, 'pageshow', (event) => event.persisted && woke());
      add(window, 'pagehide', on.hidden);
      add(document, 'visibilitychange', () => document.visibilityState === 'visible' && woke());
      add(document, 'resume', woke);
    },

    stop() {
      clearTimeout(timer);
      timer = null;
      for (const [target, type, listener] of added) target?.removeEventListener?.(type, listener);
      added = [];
    },
  };
}
