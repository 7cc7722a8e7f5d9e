/** Options and their defaults; durations in milliseconds. `docs/browser.md` explains each. */
export const DEFAULTS = Object.freeze({
  url: undefined,
  sseUrl: undefined,
  token: undefined,
  transports: Object.freeze(['websocket', 'sse']),
  sseAfter: 3,
  reconnectInterval: 3000,
  maxReconnectInterval: 30000,
  maxReconnectAttempts: Infinity,
  lossWindow: 12000,
  connectTimeout: 10000,
  requestTimeout: 10000,
  queueTimeout: 120000,
  maxQueue: 256,
  autoAck: true,
  ackDelay: 300,
  holdUnhandled: 60000,
  handlerTimeout: 30000,
  recover: false,
  debug: false,
});

/** Of some values those that are given. */
export const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));

/** The options that count: what was given, and the defaults for the rest. */
export function settingsOf(options) {
  const settings = { ...DEFAULTS, ...given(options) };
  settings.maxReconnectAttempts ??= Infinity;
  return settings;
}

/** What the platform gives, each piece replaced by what `environment` has. */
export function platform(environment = {}) {
  const g = globalThis;
  const env = {
    WebSocket: g.WebSocket,
    fetch: g.fetch?.bind(g),
    setTimeout: (run, delay) => setTimeout(run, delay),
    clearTimeout: (timer) => clearTimeout(timer),
    now: Date.now,
    random: Math.random,
    window: g.addEventListener && g,
    document: g.document,
    storage: undefined,
    ...given(environment),
  };
  try {
    env.storage ??= g.sessionStorage;
  } catch {
    // A page that may not store anything: it remembers nothing over a reload.
  }
  return env;
}
