/**
 * pushclient: the browser's side of pushserver, one ES module without dependencies.
 *
 *   createClient(options)
 *     ClientBase   the store (getState, subscribe, select), events (on), tasks, and the calls built on `request`
 *     PushClient   the connection: one link at a time, sign-in, subscriptions with positions, the outgoing queue,
 *                  inbox acks, the watchdog, reconnection
 *     openWebSocket, openEventStream    the two ways to the server, behind the same four functions
 *
 * A link's life, as PushClient sees it:
 *
 *   idle --connect()--> connecting --open--> authenticating --auth_success--> connected
 *                           ^  |                   |                             |
 *                           |  +---------+---------+---------- lost -------------+
 *                           |            v
 *                           +--------- waiting --terminal code, disconnect()--> closed
 *
 * Everything that belongs to one link (its channels, its probe, its sign-in) hangs on that link's object. An event of
 * a link that is no longer `#link` is dropped, so an old socket can never touch the state of the new one.
 */

export const SUBPROTOCOL = 'pushserver.v1.json';

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

const INITIAL = Object.freeze({
  socket: null,
  isConnected: false,
  connectionState: 'idle',
  transport: null,
  connectionId: null,
  userId: null,
  permissions: Object.freeze([]),
  reconnectAttempts: 0,
  maxReconnectAttempts: Infinity,
  reconnectInterval: DEFAULTS.reconnectInterval,
  error: null,
  taskProgress: new Map(),
  taskStatus: new Map(),
  tasks: new Map(),
});

/** What the snapshot carries beside the values, so that a selector can pick a call as well as a value. */
const CALLS = [
  'connect', 'disconnect', 'reconnect', 'send', 'updateTaskProgress', 'updateTaskStatus', 'getTaskProgress',
  'getTaskStatus', 'resetState',
];

/** `on(type)` of these hears the client itself; a push of the same type reaches channel handlers and `*` only. */
const OWN_EVENTS = new Set(['connect', 'disconnect', 'error', 'gap', 'recovered', 'rejected', 'subscribed']);
const REPLIES = new Set([
  'auth_success', 'auth_failed', 'pong', 'subscription_success', 'unsubscription_success', 'published', 'message_sent',
  'ack_success', 'history', 'presence', 'task', 'error',
]);
/** RFC 6455 section 7.4.1: protocol error, bad data, too big. The same client would do the same thing again. */
const TERMINAL_BELOW_3000 = new Set([1002, 1007, 1009]);
/** Losses that concern this client alone: no herd comes back with it. */
const OWN_LOSSES = new Set([3005]);
const CLOSE_CODE_OF = {
  INVALID_TOKEN: 3500,
  TOKEN_BLACKLISTED: 3500,
  TOKEN_EXPIRED: 3005,
  UNAVAILABLE: 3004,
  PERMISSION_DENIED: 3507,
  LIMIT_EXCEEDED: 3504,
};
const TEMPORARY = new Set(['UNAVAILABLE', 'RATE_LIMITED', 'INTERNAL_ERROR']);
const FINAL_STATUS = new Set(['completed', 'failed', 'cancelled']);
const MAX_TASKS = 1000;
const MAX_SEEN = 4096;
/** Requests that wait for their reply at one time: well below the server's burst of 100. */
const MAX_IN_FLIGHT = 32;
const TICK = 2500;
/** A timer this late means that the machine slept (or that the tab was frozen): nothing known before counts. */
const SLEPT = 10000;
const PROBE_AFTER_WAKE = 5000;
const MAX_SUBSCRIBE_CHARS = 30000;
const MAX_QUERY_CHARS = 1500;
const MAX_UPGRADE_AFTER = 600000;

/** What a rejected promise carries. `code`: one of the server's, or CLOSED, TIMEOUT, QUEUE_FULL, TOKEN. */
export class PushError extends Error {
  constructor(code, message, { retryAfter, closeCode } = {}) {
    super(message || code);
    this.name = 'PushError';
    this.code = code;
    if (retryAfter !== undefined) this.retryAfter = retryAfter;
    if (closeCode !== undefined) this.closeCode = closeCode;
  }
}

/** Whether the protocol lets a client come back after this close code. */
export function mayReconnect(code) {
  return !TERMINAL_BELOW_3000.has(code) && !(code >= 3500 && code <= 3999);
}

/**
 * Width in ms of the window in which attempt number `round` (from 0) falls, at a uniformly random point (full jitter).
 *
 * After a loss that may have hit everybody no window is narrower than `lossWindow`. Windows are laid end to end, one
 * attempt in each, so whenever the server comes back the share of clients per second is 1/window: 1/12 = 8.3 % by
 * default. Of 500 clients a second then sees 42 with a standard deviation of 6.2; 15 % (75) is 5.4 deviations away.
 * Without the windows' alignment the second attempts of early birds would add to the first ones of late birds.
 */
export function reconnectWindow(round, { reconnectInterval, maxReconnectInterval, lossWindow }, everybody) {
  const grown = Math.min(maxReconnectInterval, reconnectInterval * 2 ** Math.min(round, 20));
  return everybody ? Math.max(lossWindow, grown) : grown;
}

/** Selectors for `select` and for hooks. */
export const selectProgress = (taskId) => (state) => state.taskProgress.get(taskId) ?? 0;
export const selectStatus = (taskId) => (state) => state.taskStatus.get(taskId);
export const selectTask = (taskId) => (state) => state.tasks.get(taskId);

const errorOf = (data) => new PushError(data.code, data.message, data);
const quiet = (promise) => (promise.catch(() => {}), promise);

function deferred() {
  const handle = {};
  handle.promise = quiet(new Promise((resolve, reject) => Object.assign(handle, { resolve, reject })));
  return handle;
}

function isNewer(state, known) {
  if (!known) return true;
  // A task that was forgotten and made anew starts over with version 1.
  if (state.createdAt !== known.createdAt) return state.createdAt > known.createdAt;
  return state.version > known.version;
}

function percentageOf(value) {
  return typeof value === 'number' && Number.isFinite(value) ? Math.min(100, Math.max(0, value)) : null;
}

function bounded(map) {
  for (const key of map.keys()) {
    if (map.size <= MAX_TASKS) break;
    map.delete(key);
  }
  return map;
}

/** The store, the events and the calls that need nothing but `request` and `subscribeChannel`. */
export class ClientBase {
  #snapshot;
  #calls = {};
  #listeners = new Set();
  #handlers = new Map();

  constructor(values = {}) {
    for (const name of CALLS) this.#calls[name] = this[name] = this[name].bind(this);
    this.#snapshot = Object.freeze({ ...INITIAL, ...values, ...this.#calls });
  }

  /** The current snapshot: frozen, and the same object until something changes. */
  getState = () => this.#snapshot;

  /** Calls `listener(state, previous)` after each change. Returns the function that ends it. */
  subscribe = (listener) => {
    const entry = { listener };
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  };

  /** Calls `listener(slice, previous)` whenever what `selector` picks has changed. */
  select(selector, listener, equal = Object.is) {
    let slice = selector(this.#snapshot);
    return this.subscribe((state) => {
      const next = selector(state);
      if (equal(next, slice)) return;
      const previous = slice;
      slice = next;
      listener(next, previous);
    });
  }

  /** Calls `handler` for each push of `type` (`*`: every push), or for one of the client's own events. */
  on(type, handler) {
    const entry = { handler };
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(entry);
    return () => {
      const set = this.#handlers.get(type);
      if (set?.delete(entry) && set.size === 0) this.#handlers.delete(type);
    };
  }

  request() {
    throw new Error('not implemented');
  }

  /** Sends one protocol message, `{type, data}`. The promise may be ignored. */
  send(message) {
    return quiet(this.request(message.type, message.data));
  }

  /** Publishes `data` to a channel. Safe to repeat: the server knows the `messageId`. */
  publish(channel, data, { messageType, messageId = this._uniqueId() } = {}) {
    return this.request('publish', { channel, data, messageId, ...(messageType !== undefined && { messageType }) });
  }

  /** Sends chat to a room (`channel`) or to one user (`targetId`). */
  chat(content, { channel, targetId, messageType, messageId = this._uniqueId() } = {}) {
    return this.request('chat_message', {
      content,
      messageId,
      ...(channel !== undefined && { channel }),
      ...(targetId !== undefined && { targetId }),
      ...(messageType !== undefined && { messageType }),
    });
  }

  history(channel, { limit, since, reverse } = {}) {
    return this.request('history', {
      channel,
      ...(limit !== undefined && { limit }),
      ...(since !== undefined && { since }),
      ...(reverse !== undefined && { reverse }),
    });
  }

  presence(channel) {
    return this.request('presence', { channel });
  }

  /** One task: its state as known here, its news, and its calls. The owner's tasks need no `follow`. */
  task(taskId) {
    const known = selectTask(taskId);
    const fetched = (reply) => (this._applyTasks([reply]), this.getState().tasks.get(taskId) ?? reply);
    return {
      id: taskId,
      getState: () => known(this.#snapshot),
      subscribe: (listener) => this.select(known, (state) => state && listener(state)),
      get: () => quiet(this.request('task_get', { taskId }).then(fetched)),
      cancel: () => quiet(this.request('task_cancel', { taskId }).then(fetched)),
      follow: (handler) => this.subscribeChannel(`task:${taskId}`, handler ?? (() => {})),
    };
  }

  getTaskProgress(taskId) {
    return this.#snapshot.taskProgress.get(taskId) ?? 0;
  }

  getTaskStatus(taskId) {
    return this.#snapshot.taskStatus.get(taskId);
  }

  /** Shows a percentage that the application knows of itself: 0 to 100, and not lower than shown, unless `force`. */
  updateTaskProgress(taskId, progress, { force = false } = {}) {
    const value = percentageOf(progress);
    const { taskProgress } = this.#snapshot;
    const shown = taskProgress.get(taskId);
    if (value === null || value === shown || (!force && shown !== undefined && value < shown)) return;
    this._set({ taskProgress: bounded(new Map(taskProgress).set(taskId, value)) });
  }

  updateTaskStatus(taskId, status) {
    const { taskStatus } = this.#snapshot;
    if (taskStatus.get(taskId) === status) return;
    this._set({ taskStatus: bounded(new Map(taskStatus).set(taskId, status)) });
  }

  /** Takes those task states that are newer than what is known, in one change of the snapshot. Returns them. */
  _applyTasks(states) {
    const tasks = new Map(this.#snapshot.tasks);
    const taskProgress = new Map(this.#snapshot.taskProgress);
    const taskStatus = new Map(this.#snapshot.taskStatus);
    const taken = [];
    for (const state of states) {
      if (typeof state?.taskId !== 'string' || !isNewer(state, tasks.get(state.taskId))) continue;
      tasks.set(state.taskId, Object.freeze({ ...state }));
      const percentage = percentageOf(state.percentage);
      if (percentage !== null) taskProgress.set(state.taskId, percentage);
      if (state.status !== undefined) taskStatus.set(state.taskId, state.status);
      taken.push(state);
    }
    if (taken.length === 0) return taken;
    if (tasks.size > MAX_TASKS) {
      for (const [taskId, state] of tasks) {
        if (tasks.size > MAX_TASKS && FINAL_STATUS.has(state.status)) {
          for (const map of [tasks, taskProgress, taskStatus]) map.delete(taskId);
        }
      }
    }
    this._set({ tasks: bounded(tasks), taskProgress: bounded(taskProgress), taskStatus: bounded(taskStatus) });
    return taken;
  }

  _set(patch) {
    const previous = this.#snapshot;
    if (Object.keys(patch).every((key) => Object.is(previous[key], patch[key]))) return;
    this.#snapshot = Object.freeze({ ...previous, ...patch });
    for (const { listener } of [...this.#listeners]) this._run(listener, this.#snapshot, previous);
  }

  /** Runs one application function; its failure is reported and concerns nobody else. Returns its promise, if any. */
  _run(handler, ...values) {
    try {
      const result = handler(...values);
      if (typeof result?.then !== 'function') return undefined;
      return Promise.resolve(result).catch((error) => this._report(error));
    } catch (error) {
      this._report(error);
      return undefined;
    }
  }

  _emit(type, value) {
    return [...(this.#handlers.get(type) ?? [])].map(({ handler }) => this._run(handler, value));
  }

  /** Hands a push to everyone who listens. Returns the promises of asynchronous handlers. */
  _dispatch(push, channelHandlers = []) {
    const own = OWN_EVENTS.has(push.type) ? [] : this._emit(push.type, push);
    const channel = [...channelHandlers].map(({ handler }) => this._run(handler, push));
    return [...own, ...channel, ...this._emit('*', push)].filter(Boolean);
  }

  _report(error) {
    if (typeof globalThis.reportError === 'function') globalThis.reportError(error);
    else console.error(error);
  }

  _uniqueId() {
    const { crypto } = globalThis;
    // randomUUID exists in secure contexts only; a page on a plain-http intranet has getRandomValues alone.
    if (typeof crypto?.randomUUID === 'function') return crypto.randomUUID();
    return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  }
}

/** A client with its own connection. `environment` replaces what the platform gives (for tests). */
export class PushClient extends ClientBase {
  #options;
  #env;
  #url;
  #token;
  #wanted = false;
  #link = null;
  #opening = null;
  #unlisten = null;

  #retryTimer = null;
  #tickTimer = null;
  #lastTick = 0;
  #round = { number: 0, endsAt: 0, everybody: false };
  #failuresToOpen = 0;
  #tokenReason = 'connect';
  #stoppedForToken = false;

  #sequence = 0;
  #queue = [];
  #inFlight = new Map();
  #pausedUntil = 0;

  #channels = new Map();
  #server = new Set();
  #flushing = false;
  #positions = new Map();
  #seen = new Set();

  #inboxEpoch = null;
  #handled = 0;
  #acked = 0;
  #ackTimer = null;
  #ackTail = Promise.resolve();

  #clockOffset = 0;
  #refreshAt = 0;
  #expiresAt = 0;
  #refreshing = false;
  #refreshAgain = false;

  constructor(options = {}) {
    const { environment = {}, ...given } = options;
    const settings = { ...DEFAULTS };
    for (const [key, value] of Object.entries(given)) if (value !== undefined) settings[key] = value;
    settings.maxReconnectAttempts ??= Infinity;
    super({ reconnectInterval: settings.reconnectInterval, maxReconnectAttempts: settings.maxReconnectAttempts });
    this.#options = settings;
    this.#url = settings.url;
    this.#token = settings.token;
    const g = globalThis;
    this.#env = {
      WebSocket: environment.WebSocket ?? g.WebSocket,
      fetch: environment.fetch ?? g.fetch?.bind(g),
      setTimeout: environment.setTimeout ?? g.setTimeout.bind(g),
      clearTimeout: environment.clearTimeout ?? g.clearTimeout.bind(g),
      now: environment.now ?? Date.now,
      random: environment.random ?? Math.random,
      window: environment.window ?? (typeof g.addEventListener === 'function' ? g : null),
      document: environment.document ?? g.document ?? null,
    };
  }

  // --- the calls -----------------------------------------------------------------------------------------------------

  /** Connects, and stays so until `disconnect`. Resolves once signed in; rejects when the server says no for good. */
  connect(url) {
    if (url !== undefined && url !== this.#url) {
      this.#url = url;
      if (this.#wanted) this.#abandon('another url');
    }
    if (!this.#wanted) {
      this.#wanted = true;
      this.#stoppedForToken = false;
      this.#opening = deferred();
      this.#round = { number: 0, endsAt: 0, everybody: false };
      this.#unlisten = this.#listen();
      this.#lastTick = this.#env.now();
      this.#armTick();
      this._set({ reconnectAttempts: 0, error: null });
    }
    this.#opening ??= deferred();
    const { promise } = this.#opening;
    if (this.#link === null) this.#attempt();
    else if (this.#link.ready) this.#opened();
    return promise;
  }

  /** Ends the connection and all attempts. Subscriptions and positions are kept for the next `connect`. */
  disconnect() {
    if (!this.#wanted) return;
    this.#sendAck();
    this.#stop(new PushError('CLOSED', 'disconnected by the application'), 1000);
  }

  /** Drops the connection and makes a new one at once. */
  reconnect() {
    if (!this.#wanted) return this.connect();
    this.#abandon('reconnect');
    this._set({ reconnectAttempts: 0 });
    return this.connect();
  }

  /** Disconnects and forgets everything but listeners: for signing out. */
  resetState() {
    this.disconnect();
    for (const entry of this.#channels.values()) entry.ready.reject(new PushError('CLOSED', 'the state was reset'));
    this.#channels.clear();
    this.#forgetUser();
    this._set({
      ...INITIAL,
      reconnectInterval: this.#options.reconnectInterval,
      maxReconnectAttempts: this.#options.maxReconnectAttempts,
    });
  }

  /** Another token, or way to get one. A live connection signs in with it; one that stopped for its token resumes. */
  setToken(token) {
    this.#token = token;
    if (this.#link?.ready) this.#refresh();
    else if (this.#link) quiet(this.reconnect());
    else if (this.#stoppedForToken) quiet(this.connect());
  }

  /**
   * Sends one protocol message and resolves with the data of its reply. While disconnected it waits in the queue; what
   * was sent on a link that broke is sent again (`publish` and `chat` carry a `messageId`, so nothing happens twice).
   */
  request(type, data = {}, { timeout = this.#options.requestTimeout } = {}) {
    const handle = deferred();
    if (this.getState().connectionState === 'closed') {
      handle.reject(new PushError('CLOSED', this.getState().error ?? 'disconnected'));
    } else if (this.#queue.length + this.#inFlight.size >= this.#options.maxQueue) {
      handle.reject(new PushError('QUEUE_FULL', `${this.#options.maxQueue} requests are waiting`));
    } else {
      this.#enqueue({ type, data, timeout, succeed: handle.resolve, fail: handle.reject, internal: false });
    }
    return handle.promise;
  }

  /**
   * Calls `handler(push)` for each push of a channel, from now on or from `since` (`{offset, epoch}`), through all
   * reconnections. Returns `{channel, ready, unsubscribe}`; `ready` resolves with the server's first result.
   */
  subscribeChannel(channel, handler, { since } = {}) {
    let entry = this.#channels.get(channel);
    if (!entry) {
      entry = { channel, handlers: new Set(), ready: deferred() };
      this.#channels.set(channel, entry);
      if (since) this.#positions.set(channel, { offset: since.offset, epoch: since.epoch });
    } else if (entry.rejected) {
      Object.assign(entry, { rejected: false, ready: deferred() });
      this.#link?.channels.delete(channel);
    }
    const subscriber = { handler };
    entry.handlers.add(subscriber);
    this.#flushSubscriptions();
    return {
      channel,
      ready: entry.ready.promise,
      unsubscribe: () => {
        if (entry.handlers.delete(subscriber) && entry.handlers.size === 0) this.#leave(entry);
      },
    };
  }

  /** Ends one handler's subscription, or the whole channel's. */
  unsubscribeChannel(channel, handler) {
    const entry = this.#channels.get(channel);
    if (!entry) return;
    for (const subscriber of [...entry.handlers]) {
      if (handler === undefined || subscriber.handler === handler) entry.handlers.delete(subscriber);
    }
    if (entry.handlers.size === 0) this.#leave(entry);
  }

  /** The last known position of a channel, to be kept by the application and given back as `since`. */
  getPosition(channel) {
    const position = this.#positions.get(channel);
    return position && { ...position };
  }

  /** With `autoAck: false`: tells that everything in the inbox up to `offset` was dealt with. */
  ack(offset) {
    this.#handled = Math.max(this.#handled, offset);
    this.#scheduleAck();
  }

  // --- links ---------------------------------------------------------------------------------------------------------

  #attempt(kind) {
    const env = this.#env;
    env.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    const { transports, sseAfter } = this.#options;
    const sse = transports.includes('sse') && typeof env.fetch === 'function';
    const chosen = kind ?? (transports.includes('websocket') && env.WebSocket ? 'websocket' : 'sse');
    const link = {
      kind: chosen,
      transport: null,
      // Where WebSocket seems to be blocked, each attempt tries it first and the event stream right after: a server
      // that was merely down is then found by WebSocket again.
      fallback: chosen === 'websocket' && sse && this.#failuresToOpen >= sseAfter - 1,
      startedAt: env.now(),
      opened: false,
      ready: false,
      token: quiet(this.#takeToken(this.#tokenReason)),
      failure: null,
      reconnectAfter: undefined,
      channels: new Set(),
      resuming: new Map(),
      heartbeat: { interval: 25000, timeout: 10000 },
      receivedAt: env.now(),
      probe: null,
    };
    this.#tokenReason = 'connect';
    this.#link = link;
    this._set({ connectionState: 'connecting', transport: chosen });
    const ifCurrent = (run) => (...values) => {
      if (link === this.#link) run(...values);
    };
    const events = {
      opened: ifCurrent(() => this.#signIn(link)),
      message: ifCurrent((text) => this.#receive(link, text)),
      alive: ifCurrent(() => this.#alive(link)),
      closed: ifCurrent((code, reason) => this.#lost(link, code, reason)),
    };
    try {
      if (chosen === 'websocket') link.transport = openWebSocket(env, webSocketUrl(this.#url), events);
      else link.transport = openEventStream(env, this.#streamUrl(), this.#channelsToOpen(link), link.token, events);
    } catch (error) {
      // A url that cannot be opened (its syntax, mixed content) will not be better the next time.
      this.#link = null;
      this.#stop(new PushError('CLOSED', error.message));
      return;
    }
    this._set({ socket: link.transport.socket });
  }

  #streamUrl() {
    const url = new URL(this.#options.sseUrl ?? webSocketUrl(this.#url), globalThis.location?.href);
    url.protocol = url.protocol.replace('ws', 'http');
    if (!this.#options.sseUrl) url.pathname = url.pathname.replace(/[^/]*$/, 'sse');
    return url;
  }

  /** Channels that an event stream opens with: those without a position, as far as a url should be long. */
  #channelsToOpen(link) {
    let length = 0;
    for (const channel of this.#channels.keys()) {
      if (this.#positions.has(channel)) continue;
      length += channel.length;
      if (length > MAX_QUERY_CHARS) break;
      link.channels.add(channel);
    }
    return [...link.channels];
  }

  /** Gives up the current link without a word from it. */
  #abandon(reason) {
    const link = this.#link;
    if (link) {
      this.#lost(link, 1000, reason, { retry: false });
      link.transport?.close(4001, reason);
    }
    this.#env.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
  }

  async #takeToken(reason) {
    if (typeof this.#token !== 'function') return this.#token ?? null;
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = this.#env.setTimeout(() => reject(new Error('no token in time')), this.#options.connectTimeout);
      });
      return (await Promise.race([this.#token({ reason }), late])) ?? null;
    } catch (error) {
      throw new PushError('TOKEN', `the token callback failed: ${error?.message ?? error}`);
    } finally {
      this.#env.clearTimeout(timer);
    }
  }

  async #signIn(link) {
    link.opened = true;
    link.receivedAt = this.#env.now();
    if (link.kind === 'sse') return;
    this.#failuresToOpen = 0;
    this._set({ connectionState: 'authenticating' });
    let token;
    try {
      token = await link.token;
    } catch (error) {
      if (link === this.#link) this.#refused(link, error);
      return;
    }
    if (link !== this.#link) return;
    if (token === null) {
      this.#welcome(link, {});
      return;
    }
    const positions = {};
    for (const channel of this.#server) {
      if (this.#positions.has(channel)) positions[channel] = this.#positions.get(channel);
    }
    const data = { token, ...(Object.keys(positions).length > 0 && { positions }) };
    link.transport.send(JSON.stringify({ type: 'auth', id: 'auth', data }));
  }

  /** The link cannot be used: close it from this side and treat it as lost. */
  #refused(link, error) {
    link.failure = error;
    this.#lost(link, CLOSE_CODE_OF[error.code] ?? 1006, error.message);
    link.transport?.close(4001, 'gave up');
  }

  #welcome(link, data) {
    link.ready = true;
    if (data.heartbeat) link.heartbeat = data.heartbeat;
    this.#armTick();
    this.#round = { number: 0, endsAt: 0, everybody: false };
    const userId = data.userId ?? null;
    const before = this.getState().userId;
    if (before !== null && before !== userId) this.#forgetUser();
    this.#server = new Set(data.channels ?? []);
    if (data.inbox) this.#openInbox(userId, data.inbox);
    this._applyTasks(data.tasks ?? []);
    this._set({
      isConnected: true,
      connectionState: 'connected',
      connectionId: data.connectionId ?? null,
      userId,
      permissions: Object.freeze([...(data.permissions ?? [])]),
      reconnectAttempts: 0,
      error: null,
    });
    if (link !== this.#link) return;
    this.#scheduleRefresh(link, data.expiresAt);
    this.#opened();
    const { connectionId = null, node = null, inbox = null } = data;
    this._emit('connect', { connectionId, userId, transport: link.kind, node, inbox });
    if (link !== this.#link) return;
    const resumed = Object.keys(data.results ?? {});
    for (const channel of resumed) if (this.#channels.has(channel)) link.channels.add(channel);
    this.#subscribed(link, resumed, this.#positions, data);
    // Of a channel that the server subscribes the position is known by subscribing again: without it, what is published
    // during the next interruption could not be asked for. An event stream had no way to resume these at sign-in.
    const placed = (channel) => channel.startsWith('user:') || this.#positions.has(channel);
    this.#syncSubscriptions([...this.#server].filter((channel) => link.kind === 'sse' || !placed(channel)));
    this.#sendAck();
    this.#pump();
    if (link.kind === 'sse') this.#tryUpgrade(link, this.#options.lossWindow);
  }

  /** Over an event stream: asks now and then whether a WebSocket opens meanwhile, and if so moves to it. */
  #tryUpgrade(link, after) {
    const { WebSocket, setTimeout, random } = this.#env;
    if (!WebSocket || !this.#options.transports.includes('websocket')) return;
    const probe = () => {
      if (link !== this.#link) return;
      const found = (opened) => {
        socket.close(1000, '');
        if (link !== this.#link) return;
        if (opened) quiet(this.reconnect());
        else this.#tryUpgrade(link, Math.min(after * 2, MAX_UPGRADE_AFTER));
      };
      const events = { opened: () => found(true), closed: () => found(false), message: () => {} };
      const socket = openWebSocket(this.#env, webSocketUrl(this.#url), events);
    };
    setTimeout(probe, after * (1 + random()));
  }

  #opened() {
    this.#opening?.resolve();
    this.#opening = null;
  }

  #lost(link, code, reason, { retry = true } = {}) {
    if (link !== this.#link) return;
    this.#link = null;
    const was = link.ready;
    for (const entry of [...this.#inFlight.values()]) {
      this.#inFlight.delete(entry.id);
      if (entry.internal) entry.fail(null);
      else this.#enqueue(entry);
    }
    this.#refreshAt = 0;
    const effective = link.failure && code < 3000 ? (CLOSE_CODE_OF[link.failure.code] ?? code) : code;
    const message = link.failure?.message || reason || `connection lost (${effective})`;
    const hopeless = effective === 3005 && !link.ready && link.failure && typeof this.#token !== 'function';
    const again = retry && mayReconnect(effective) && !hopeless;
    if (effective === 3005) this.#tokenReason = 'expired';
    if (!link.opened && link.kind === 'websocket') this.#failuresToOpen += 1;
    this._set({
      isConnected: false,
      socket: null,
      connectionId: null,
      connectionState: retry ? 'waiting' : 'connecting',
      ...(retry && { error: message }),
    });
    if (was) this._emit('disconnect', { code: effective, reason: message, willReconnect: again || !retry });
    if (this.#link !== null || !this.#wanted || !retry) return;
    if (!again) {
      const error = new PushError(link.failure?.code ?? 'CLOSED', message, { closeCode: effective });
      this.#stoppedForToken = hopeless || effective === 3500;
      this.#stop(error);
    } else if (link.fallback && !link.opened) {
      this.#attempt('sse');
    } else {
      this.#waitToRetry(link, effective, was);
    }
  }

  #waitToRetry(link, code, was) {
    const { now, random, setTimeout } = this.#env;
    const attempts = this.getState().reconnectAttempts;
    if (attempts >= this.#options.maxReconnectAttempts) {
      this.#stop(new PushError('CLOSED', `gave up after ${attempts} attempts: ${this.getState().error}`));
      return;
    }
    let at;
    if (link.reconnectAfter !== undefined) {
      // The server has spread its clients itself.
      at = now() + link.reconnectAfter;
      this.#round = { number: 0, endsAt: at, everybody: true };
    } else {
      const round = this.#round;
      if (was) Object.assign(round, { number: 0, endsAt: 0, everybody: !OWN_LOSSES.has(code) });
      if (code === 3004 || code === 3013) round.everybody = true;
      const begins = Math.max(now(), round.endsAt);
      const width = reconnectWindow(round.number, this.#options, round.everybody);
      at = begins + random() * width;
      this.#round = { number: round.number + 1, endsAt: begins + width, everybody: round.everybody };
    }
    this.#retryTimer = setTimeout(() => this.#retry(), Math.max(0, at - now()));
  }

  #retry() {
    if (!this.#wanted || this.#link) return;
    this._set({ reconnectAttempts: this.getState().reconnectAttempts + 1 });
    this.#attempt();
  }

  /** A sign that the way is free again, for this client alone: no reason to wait. */
  #hurry() {
    if (this.#retryTimer === null) return;
    this.#env.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
    this.#retry();
  }

  /** Ends it all, by the application's wish (code 1000) or because there is no way on. */
  #stop(error, closeCode) {
    const env = this.#env;
    const link = this.#link;
    this.#wanted = false;
    this.#link = null;
    env.clearTimeout(this.#retryTimer);
    env.clearTimeout(this.#tickTimer);
    env.clearTimeout(this.#ackTimer);
    this.#retryTimer = this.#tickTimer = this.#ackTimer = null;
    this.#unlisten?.();
    this.#unlisten = null;
    this.#refreshAt = 0;
    link?.transport?.close(closeCode ?? 4001, '');
    const waiting = [...this.#inFlight.values(), ...this.#queue];
    this.#inFlight.clear();
    this.#queue = [];
    for (const entry of waiting) entry.fail(entry.internal ? null : error);
    this._set({
      isConnected: false,
      socket: null,
      connectionId: null,
      transport: null,
      connectionState: 'closed',
      error: closeCode === 1000 ? null : error.message,
    });
    this.#opening?.reject(error);
    this.#opening = null;
    if (link?.ready) this._emit('disconnect', { code: closeCode ?? 1000, reason: error.message, willReconnect: false });
    if (closeCode !== 1000) this._emit('error', error);
  }

  // --- what comes in -------------------------------------------------------------------------------------------------

  #alive(link) {
    link.receivedAt = this.#env.now();
    link.probe = null;
  }

  #receive(link, text) {
    this.#alive(link);
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (typeof message?.type !== 'string') return;
    const { type, id } = message;
    const data = message.data ?? {};
    const entry = id === undefined ? undefined : this.#inFlight.get(id);
    if (!link.ready) {
      if (type === 'auth_success') return void this.#welcome(link, data);
      if (type === 'subscription_success' && link.kind === 'sse') {
        link.transport.address(data.connectionId);
        const sent = [...link.channels];
        this.#welcome(link, { ...data, results: undefined });
        if (link === this.#link) this.#subscribed(link, sent, new Map(), data);
        return;
      }
      if (type === 'error' && id === 'auth') return void this.#refused(link, errorOf(data));
    }
    if (type === 'auth_failed') {
      link.failure = errorOf(data);
      if (entry) this.#settle(entry, message);
      return;
    }
    if (type === 'pong' && typeof data.timestamp === 'number') {
      this.#clockOffset = data.timestamp - this.#env.now();
      if (this.#expiresAt) this.#planRefresh();
    }
    if (entry) this.#settle(entry, message);
    else if (type === 'error' && id === undefined) this._emit('error', errorOf(data));
    else if (!REPLIES.has(type)) this.#push(link, message);
  }

  #push(link, push) {
    const { type, channel, offset, epoch, messageId, data } = push;
    if (type === 'going_away' && data?.reconnectAfter >= 0) link.reconnectAfter = data.reconnectAfter;
    const inbox = this.#inboxChannel(channel);
    const place = inbox ?? channel;
    if (offset !== undefined) {
      if (link.resuming.has(place)) {
        // What lies between is still on its way: this one waits for its turn.
        link.resuming.get(place).push(push);
        return;
      }
      const position = this.#positions.get(place);
      if (position?.epoch === epoch && offset <= position.offset) return;
      this.#positions.set(place, { offset, epoch });
    }
    const repeated = messageId !== undefined && this.#wasSeen(`${channel} ${messageId}`);
    const task = typeof data?.taskId === 'string' && typeof data.version === 'number' && type.startsWith('task_');
    const stale = task && !repeated && this._applyTasks([data]).length === 0;
    let running = [];
    // A final event from the inbox is a message of its own: it is told even where its state was known by other ways.
    const told = repeated || (stale && offset === undefined);
    if (!told) running = this._dispatch(push, this.#channels.get(channel)?.handlers);
    if (inbox && offset !== undefined) this.#handledAfter(running, inbox, push);
    const about = data?.channel ?? channel;
    if (type === 'unsubscribed') this.#ended(link, about);
    else if (type === 'resync' && typeof about === 'string') this.#resync(link, about);
    else if (type === 'inbox_overflow') this._emit('gap', { channel, cause: 'overflow', lost: data?.lost });
  }

  /** The channel whose positions a push counts on, where that is the inbox (final task events come through it, too). */
  #inboxChannel(channel) {
    const own = `user:${this.getState().userId}`;
    return channel === own || (typeof channel === 'string' && channel.startsWith('task:')) ? own : null;
  }

  /** Moves a channel's position to `offset`, in the same epoch forward only. */
  #moveTo(channel, { offset, epoch }) {
    const position = this.#positions.get(channel);
    if (position?.epoch !== epoch || position.offset < offset) this.#positions.set(channel, { offset, epoch });
  }

  #wasSeen(key) {
    if (this.#seen.has(key)) return true;
    this.#seen.add(key);
    if (this.#seen.size > MAX_SEEN) this.#seen.delete(this.#seen.values().next().value);
    return false;
  }

  #ended(link, channel) {
    link.channels.delete(channel);
    this.#positions.delete(channel);
    const entry = this.#channels.get(channel);
    this.#channels.delete(channel);
    entry?.ready.reject(new PushError('CLOSED', 'the subscription was ended by the server'));
  }

  #resync(link, channel) {
    this.#positions.delete(channel);
    this._emit('gap', { channel, cause: 'resync' });
    if (link !== this.#link) return;
    if (channel === `user:${this.getState().userId}`) this.#rereadInbox(link, channel);
    else if (this.#channels.has(channel) && link.channels.delete(channel)) this.#syncSubscriptions();
    else this.#syncSubscriptions([channel]);
  }

  /** After a `resync` of the inbox: what it still holds, less what was shown already. */
  #rereadInbox(link, channel) {
    const reply = ({ messages = [], offset, epoch }) => {
      if (link !== this.#link) return;
      this.#inboxEpoch = epoch;
      this.#handled = this.#acked = 0;
      for (const push of messages) this.#push(link, push);
      this.#moveTo(channel, { offset, epoch });
    };
    this.#internal('history', { channel, limit: 1000 }, reply, () => {});
  }

  // --- subscriptions -------------------------------------------------------------------------------------------------

  #leave(entry) {
    if (this.#channels.get(entry.channel) !== entry) return;
    this.#channels.delete(entry.channel);
    entry.ready.reject(new PushError('CLOSED', 'unsubscribed'));
    this.#flushSubscriptions();
  }

  /** Once per turn of the event loop, so that many calls are one message. */
  #flushSubscriptions() {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.#syncSubscriptions();
    });
  }

  /** Brings what the server knows to what is wanted; `extra` is asked for beside it. */
  #syncSubscriptions(extra = []) {
    const link = this.#link;
    if (!link?.ready) return;
    const left = [...link.channels].filter((channel) => !this.#channels.has(channel));
    for (const channel of left) {
      link.channels.delete(channel);
      if (!this.#server.has(channel)) this.#positions.delete(channel);
    }
    const leave = left.filter((channel) => !this.#server.has(channel));
    const refused = (error) => {
      if (error === null || !TEMPORARY.has(error.code)) return;
      this.#later(link, error, () => {
        for (const channel of leave) link.channels.add(channel);
        this.#syncSubscriptions();
      });
    };
    if (leave.length > 0) this.#internal('unsubscribe', { channels: leave }, () => {}, refused);
    const wanted = [...this.#channels.keys()].filter((channel) => !link.channels.has(channel));
    for (const channel of wanted) link.channels.add(channel);
    this.#sendSubscribe(link, [...new Set([...wanted, ...extra])]);
  }

  #sendSubscribe(link, names) {
    let batch = [];
    let size = 0;
    const batches = [];
    for (const channel of names) {
      const since = this.#positions.get(channel);
      const item = since ? { channel, since } : channel;
      if (since) link.resuming.set(channel, link.resuming.get(channel) ?? []);
      size += JSON.stringify(item).length;
      if (size > MAX_SUBSCRIBE_CHARS) {
        batches.push(batch);
        batch = [];
        size = 0;
      }
      batch.push(item);
    }
    if (batch.length > 0) batches.push(batch);
    for (const channels of batches) {
      const since = new Map(channels.filter((item) => item.since).map((item) => [item.channel, item.since]));
      const asked = channels.map((item) => item.channel ?? item);
      const failed = (error) => this.#notSubscribed(link, asked, error);
      this.#internal('subscribe', { channels }, (data) => this.#subscribed(link, asked, since, data), failed);
    }
  }

  /** Takes the results for `asked`, of which those in `since` wanted to resume. */
  #subscribed(link, asked, since, { results = {}, rejected = {} }) {
    for (const channel of asked) {
      if (link !== this.#link) return;
      const refusal = rejected[channel];
      if (refusal) {
        this.#notSubscribed(link, [channel], errorOf(refusal));
        continue;
      }
      const held = link.resuming.get(channel) ?? [];
      link.resuming.delete(channel);
      const entry = this.#channels.get(channel);
      const result = results[channel] ?? {};
      if (result.task) this._applyTasks([result.task]);
      // Of the inbox `inbox_overflow` and the epoch tell.
      if (since.has(channel) && result.recovered !== undefined && !channel.startsWith('user:')) {
        if (result.recovered) this._emit('recovered', { channel });
        else this._emit('gap', { channel, cause: 'not_recovered' });
      }
      for (const push of result.messages ?? []) this.#push(link, push);
      // The inbox's own messages come as pushes after this: its position moves with them alone.
      if (result.epoch !== undefined && !channel.startsWith('user:')) this.#moveTo(channel, result);
      if (entry) entry.rejected = false;
      entry?.ready.resolve(result);
      if (entry) this._emit('subscribed', { channel, result });
      for (const push of held) this.#push(link, push);
    }
  }

  #notSubscribed(link, channels, error) {
    if (error === null || link !== this.#link) return;
    if (TEMPORARY.has(error.code) || error.code === 'TIMEOUT') {
      // What is held back stays so: the position from which to resume must not move on.
      const wanted = (channel) => this.#channels.has(channel) || this.#server.has(channel);
      this.#later(link, error, () => this.#sendSubscribe(link, channels.filter(wanted)));
      return;
    }
    for (const channel of channels) {
      const held = link.resuming.get(channel) ?? [];
      link.resuming.delete(channel);
      for (const push of held) this.#push(link, push);
    }
    for (const channel of channels) {
      const entry = this.#channels.get(channel);
      if (!entry) continue;
      entry.rejected = true;
      entry.ready.reject(error);
      this._emit('rejected', { channel, code: error.code, message: error.message });
    }
  }

  /** Tries again on the same link, after the time that the server asked for or a second or two. */
  #later(link, { retryAfter = 0 }, run) {
    const delay = Math.max(retryAfter, 1000) * (1 + this.#env.random());
    this.#env.setTimeout(() => link === this.#link && run(), delay);
  }

  // --- the outgoing queue --------------------------------------------------------------------------------------------

  #internal(type, data, reply, failed) {
    const entry = { type, data, timeout: this.#options.requestTimeout, succeed: reply, fail: failed, internal: true };
    entry.seq = entry.id = ++this.#sequence;
    this.#transmit(entry);
  }

  #enqueue(entry) {
    entry.seq ??= entry.id = ++this.#sequence;
    entry.deadline ??= this.#env.now() + this.#options.queueTimeout;
    let at = this.#queue.length;
    while (at > 0 && this.#queue[at - 1].seq > entry.seq) at -= 1;
    this.#queue.splice(at, 0, entry);
    if (this.#tickTimer === null) this.#armTick();
    this.#pump();
  }

  #pump() {
    while (this.#queue.length > 0 && this.#link?.ready && this.#inFlight.size < MAX_IN_FLIGHT) {
      if (this.#env.now() < this.#pausedUntil) return;
      this.#transmit(this.#queue.shift());
    }
  }

  #transmit(entry) {
    if (!this.#link?.ready) {
      if (entry.internal) entry.fail(null);
      return;
    }
    entry.sentAt = this.#env.now();
    this.#inFlight.set(entry.id, entry);
    this.#link.transport.send(JSON.stringify({ type: entry.type, id: entry.id, data: entry.data }));
  }

  #settle(entry, { type, data }) {
    data ??= {};
    this.#inFlight.delete(entry.id);
    if (type === 'error' && data.code === 'RATE_LIMITED' && !entry.internal && this.#env.now() < entry.deadline) {
      // It was not carried out: it waits and goes again, before those that came after it.
      const pause = Math.max(100, data.retryAfter ?? 1000);
      this.#pausedUntil = this.#env.now() + pause;
      this.#env.setTimeout(() => this.#pump(), pause);
      this.#enqueue(entry);
      return;
    }
    if (type === 'error' || type === 'auth_failed') entry.fail(errorOf(data));
    else entry.succeed(data);
    this.#pump();
  }

  #expire(now) {
    for (const entry of [...this.#inFlight.values()]) {
      if (now - entry.sentAt < entry.timeout) continue;
      this.#inFlight.delete(entry.id);
      entry.fail(new PushError('TIMEOUT', `no reply to ${entry.type} within ${entry.timeout} ms`));
    }
    const late = this.#queue.filter((entry) => now >= entry.deadline);
    if (late.length > 0) this.#queue = this.#queue.filter((entry) => now < entry.deadline);
    for (const entry of late) entry.fail(new PushError('TIMEOUT', `${entry.type} waited too long for a connection`));
    this.#pump();
  }

  // --- the inbox -----------------------------------------------------------------------------------------------------

  #openInbox(userId, { epoch, acked }) {
    const channel = `user:${userId}`;
    const position = this.#positions.get(channel);
    if (this.#inboxEpoch !== epoch) {
      this.#handled = 0;
      if (this.#inboxEpoch !== null) this._emit('gap', { channel, cause: 'not_recovered' });
    }
    this.#inboxEpoch = epoch;
    this.#acked = acked;
    // Lost again before the first push: resume from the cursor, as the server would.
    if (position?.epoch !== epoch) this.#positions.set(channel, { offset: acked, epoch });
  }

  /** Counts an inbox push as dealt with once its handlers, and those of all before it, have run. */
  #handledAfter(running, inbox, { offset, epoch }) {
    const done = () => {
      const own = `user:${this.getState().userId}`;
      if (!this.#options.autoAck || inbox !== own || epoch !== this.#inboxEpoch) return;
      this.#handled = Math.max(this.#handled, offset);
      this.#scheduleAck();
    };
    this.#ackTail = this.#ackTail.then(() => Promise.all(running)).then(done);
  }

  #scheduleAck() {
    if (this.#ackTimer !== null || !this.#link?.ready || this.#handled <= this.#acked) return;
    this.#ackTimer = this.#env.setTimeout(() => this.#sendAck(), this.#options.ackDelay);
  }

  #sendAck() {
    this.#env.clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    if (!this.#link?.ready || this.#inboxEpoch === null || this.#handled <= this.#acked) return;
    const before = this.#acked;
    this.#acked = this.#handled;
    const failed = (error) => {
      if (error === null || !TEMPORARY.has(error.code)) return;
      this.#acked = Math.min(this.#acked, before);
      this.#scheduleAck();
    };
    this.#internal('ack', { offset: this.#handled, epoch: this.#inboxEpoch }, () => {}, failed);
  }

  #forgetUser() {
    this.#positions.clear();
    this.#server.clear();
    this.#seen.clear();
    this.#inboxEpoch = null;
    this.#handled = this.#acked = 0;
    this._set({ tasks: new Map(), taskProgress: new Map(), taskStatus: new Map() });
  }

  // --- time: watchdog, sleep and wake, token refresh -----------------------------------------------------------------

  #armTick() {
    const { setTimeout, clearTimeout, now } = this.#env;
    clearTimeout(this.#tickTimer);
    const { interval, timeout } = this.#link?.heartbeat ?? { interval: Infinity, timeout: Infinity };
    const period = Math.max(20, Math.min(TICK, interval / 4, timeout / 4));
    this.#lastTick = now();
    this.#tickTimer = setTimeout(() => this.#tick(period), period);
  }

  #tick(period) {
    const now = this.#env.now();
    const late = now - this.#lastTick - period;
    this.#tickTimer = null;
    const link = this.#link;
    if (late < -period) this.#setBack(now);
    // In a hidden tab timers are late by rule: its link is asked, but a wait for the next attempt is not cut short.
    if (late > SLEPT && (link || this.#env.document?.visibilityState !== 'hidden')) this.#woke();
    this.#expire(now);
    if (link && link === this.#link) this.#watch(link, now);
    if (this.#refreshAt && now + this.#clockOffset >= this.#refreshAt) this.#refresh();
    if (this.#wanted || this.#queue.length > 0) this.#armTick();
  }

  /** The wall clock was set back: what was noted on it before would hold things up for as long. */
  #setBack(now) {
    this.#round.endsAt = 0;
    this.#pausedUntil = 0;
    if (this.#link) Object.assign(this.#link, { receivedAt: now, startedAt: now, probe: null });
    for (const entry of this.#inFlight.values()) entry.sentAt = now;
  }

  #watch(link, now) {
    if (!link.ready) {
      const error = new PushError('TIMEOUT', 'no answer from the server');
      if (now - link.startedAt >= this.#options.connectTimeout) this.#refused(link, error);
      return;
    }
    const { interval, timeout } = link.heartbeat;
    if (link.probe && now - link.probe.sentAt >= link.probe.timeout) {
      this.#refused(link, new PushError('TIMEOUT', 'the server is silent'));
    } else if (!link.probe && now - link.receivedAt >= interval) {
      this.#probe(link, timeout);
    }
  }

  #probe(link, timeout) {
    // Anything that arrives from now on proves the link.
    link.probe = { sentAt: this.#env.now(), timeout };
    link.transport.send('{"type":"ping","data":{}}');
  }

  /** The machine slept, the tab was frozen, or the network changed: the link may be dead without a trace. */
  #woke() {
    const link = this.#link;
    if (link?.ready) this.#probe(link, Math.min(link.heartbeat.timeout, PROBE_AFTER_WAKE));
    else if (link) link.startedAt = this.#env.now();
    else this.#hurry();
  }

  #listen() {
    const { window, document } = this.#env;
    const woke = () => this.#woke();
    const offline = () => this.#link && this.#woke();
    const restored = (event) => event.persisted && this.#woke();
    const shown = () => document.visibilityState === 'visible' && this.#woke();
    const hidden = () => this.#sendAck();
    const added = [];
    const add = (target, type, listener) => {
      target?.addEventListener(type, listener);
      if (target) added.push([target, type, listener]);
    };
    add(window, 'online', woke);
    add(window, 'offline', offline);
    add(window, 'pageshow', restored);
    add(window, 'pagehide', hidden);
    add(document, 'visibilitychange', shown);
    add(document, 'resume', woke);
    return () => added.forEach(([target, type, listener]) => target.removeEventListener(type, listener));
  }

  /** The expiry is on the server's clock: a ping tells how far that is from ours, and then the refresh is planned. */
  #scheduleRefresh(link, expiresAt) {
    this.#refreshAt = 0;
    this.#expiresAt = typeof this.#token === 'function' && typeof expiresAt === 'number' ? expiresAt : 0;
    if (this.#expiresAt) link.transport.send('{"type":"ping","data":{}}');
  }

  #planRefresh() {
    const serverNow = this.#env.now() + this.#clockOffset;
    const lead = Math.min(60000, (this.#expiresAt - serverNow) * 0.2);
    this.#refreshAt = Math.max(this.#expiresAt - lead, serverNow + 1000);
    this.#expiresAt = 0;
  }

  async #refresh() {
    const link = this.#link;
    if (!link?.ready) return;
    if (this.#refreshing) {
      this.#refreshAgain = true;
      return;
    }
    this.#refreshing = true;
    this.#refreshAgain = false;
    this.#refreshAt = 0;
    const later = (error) => {
      this.#refreshing = false;
      if (error === null || link !== this.#link || link.failure) return;
      this.#refreshAt = this.#env.now() + this.#clockOffset + 5000;
      this._emit('error', error);
    };
    let token;
    try {
      token = await this.#takeToken('refresh');
    } catch (error) {
      later(error);
      return;
    }
    if (link !== this.#link || token === null) {
      this.#refreshing = false;
      return;
    }
    const renewed = (data) => {
      this.#refreshing = false;
      if (link !== this.#link) return;
      link.transport.renew?.(token);
      this._set({ permissions: Object.freeze([...(data.permissions ?? [])]) });
      this.#scheduleRefresh(link, data.expiresAt);
      if (this.#refreshAgain) this.#refresh();
      // What was refused may be allowed now.
      for (const entry of this.#channels.values()) if (entry.rejected) link.channels.delete(entry.channel);
      this.#flushSubscriptions();
    };
    this.#internal('auth', { token }, renewed, later);
  }
}

/** `url` (absolute, or relative to the page; http is taken as ws), by default the page's own server. */
function webSocketUrl(url) {
  const absolute = new URL(url ?? '/ws', globalThis.location?.href);
  absolute.protocol = absolute.protocol.replace('http', 'ws');
  absolute.hash = '';
  return absolute.href;
}

/** A link over WebSocket. After `close` no event comes from it. */
function openWebSocket({ WebSocket }, url, events) {
  const socket = new WebSocket(url, [SUBPROTOCOL]);
  let open = true;
  socket.onopen = () => open && events.opened();
  socket.onmessage = (event) => open && events.message(event.data);
  socket.onerror = () => {};
  socket.onclose = (event) => {
    if (!open) return;
    open = false;
    events.closed(event.code ?? 1006, event.reason ?? '');
  };
  return {
    socket,
    send: (text) => open && socket.send(text),
    close(code, reason) {
      open = false;
      try {
        socket.close(code, reason);
      } catch {
        // Already closed, or not yet open in an environment that refuses: nothing is left to do.
      }
    },
  };
}

/** A link over server-sent events: the stream one way, one POST for each message the other way, in order. */
function openEventStream({ fetch }, url, channels, token, events) {
  const aborted = new AbortController();
  let open = true;
  let bearer = null;
  let postUrl = null;
  let tail = Promise.resolve();
  const closed = (code, reason) => {
    if (!open) return;
    open = false;
    aborted.abort();
    events.closed(code, reason);
  };
  const headers = (more) => ({ ...more, ...(bearer !== null && { Authorization: `Bearer ${bearer}` }) });
  const fault = async (response) => {
    const body = await response.json().catch(() => ({}));
    return { code: 'INTERNAL_ERROR', message: `HTTP ${response.status}`, ...body.error };
  };

  const read = async () => {
    bearer = await token;
    const target = new URL(url);
    if (channels.length > 0) target.searchParams.set('channels', channels.join(','));
    const response = await fetch(target.href, {
      headers: headers({ Accept: 'text/event-stream' }),
      cache: 'no-store',
      signal: aborted.signal,
    });
    if (!response.ok || !response.headers.get('content-type')?.startsWith('text/event-stream')) {
      const { code, message } = await fault(response);
      const known = CLOSE_CODE_OF[code] ?? { 400: 3501, 401: 3500, 403: 3507 }[response.status];
      closed(known ?? 1006, message);
      return;
    }
    if (!open) return;
    events.opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    let data = [];
    for (;;) {
      const { value, done } = await reader.read();
      if (done || !open) break;
      events.alive();
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
        else if (line === '' && data.length > 0) {
          const text = data.join('\n');
          data = [];
          // A stream has no close code of its own: the server says it as a last message.
          if (text.startsWith('{"type":"closed",')) {
            const { code, reason } = JSON.parse(text).data;
            return void closed(code, reason);
          }
          if (open) events.message(text);
        }
      }
    }
    closed(1006, 'the stream ended');
  };
  read().catch((error) => closed(CLOSE_CODE_OF[error.code] ?? 1006, error.message));

  const post = async (text) => {
    if (aborted.signal.aborted) return;
    const response = await fetch(postUrl, {
      method: 'POST',
      headers: headers({ 'Content-Type': 'application/json' }),
      body: text,
      signal: aborted.signal,
    });
    if (response.status === 404 || response.status === 410) return void closed(1006, 'the stream is gone');
    if (!response.ok) {
      events.message(JSON.stringify({ type: 'error', id: JSON.parse(text).id, data: await fault(response) }));
      return;
    }
    const reply = await response.text();
    if (reply.startsWith('{"type"')) events.message(reply);
  };
  return {
    socket: null,
    address(connectionId) {
      postUrl = `${url.origin}${url.pathname}/${encodeURIComponent(connectionId)}`;
    },
    renew(renewed) {
      bearer = renewed;
    },
    send(text) {
      tail = tail.then(() => post(text)).catch((error) => closed(1006, error.message));
    },
    close(code) {
      open = false;
      const abort = () => aborted.abort();
      // What was sent just before the application's disconnect (an ack, say) still goes out.
      if (code !== 1000) abort();
      else Promise.race([tail, new Promise((resolve) => setTimeout(resolve, 2000))]).then(abort);
    },
  };
}

export function createClient(options) {
  return new PushClient(options);
}

export default createClient;
