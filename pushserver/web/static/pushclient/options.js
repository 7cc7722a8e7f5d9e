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
});

/** The options that count: what was given, and the defaults for the rest. */
export function settingsOf(given) {
  const settings = { ...DEFAULTS };
  for (const [key, value] of Object.entries(given)) if (value !== undefined) settings[key] = value;
  settings.maxReconnectAttempts ??= Infinity;
  return settings;
}

/** What the platform gives, each piece replaced by what `given` has. */
export function platform(given = {}) {
  const g = globalThis;
  return {
    WebSocket: given.WebSocket ?? g.WebSocket,
    fetch: given.fetch ?? g.fetch?.bind(g),
    setTimeout: given.setTimeout ?? g.setTimeout.bind(g),
    clearTimeout: given.clearTimeout ?? g.clearTimeout.bind(g),
    now: given.now ?? Date.now,
    random: given.random ?? Math.random,
    window: given.window ?? (typeof g.addEventListener === 'function' ? g : null),
    document: given.document ?? g.document ?? null,
  };
}
