/**
 * One connection for all tabs: `createSharedClient(options)` has the calls of `createClient`, and behind it a
 * SharedWorker holds the one PushClient. What passes between a tab and the worker (see worker.js):
 *
 *   tab -> worker   attach, leave, request, subscribe, unsubscribe, call, done, answer
 *   worker -> tab   state, push, event, reply, ready, ask
 *
 * Where a browser has no SharedWorker the tab gets a connection of its own.
 */
import { ClientBase, DEFAULTS, PushClient, PushError } from './index.js';
import { quiet } from './promises.js';
import { NO_TASKS } from './tasks.js';

export class SharedClient extends ClientBase {
  #options;
  #open;
  #token;
  #port = null;
  #serial = 0;
  #waiting = new Map();
  #channels = new Map();
  #connected = null;
  #release = null;

  /** `options` travel to the worker; `open(options)` opens a port to it. */
  constructor(options, { token, open }) {
    super();
    this.#token = token;
    this.#options = options;
    this.#open = open;
  }

  connect(url) {
    if (url !== undefined && url !== this.#options.url) {
      this.disconnect();
      this.#options.url = url;
    }
    if (this.#port === null) this.#attach();
    else this.#post({ do: 'call', name: 'connect' });
    if (this.getState().isConnected) return Promise.resolve();
    if (this.#connected === null) {
      const waiting = {};
      waiting.promise = quiet(new Promise((resolve, reject) => Object.assign(waiting, { resolve, reject })));
      this.#connected = waiting;
    }
    return this.#connected.promise;
  }

  /** Leaves the shared connection; the last tab's leaving closes it. */
  disconnect() {
    if (this.#port === null) return;
    this.#post({ do: 'leave' });
    this.#detach();
    const error = new PushError('CLOSED', 'disconnected by the application');
    this.#failWaiting(error);
    this._store.set({ isConnected: false, connectionState: 'closed', connectionId: null, transport: null, error: null });
  }

  /** A new connection, for all tabs. */
  reconnect() {
    if (this.#port === null) return this.connect();
    this.#post({ do: 'call', name: 'reconnect' });
    return Promise.resolve();
  }

  resetState() {
    this.disconnect();
    this.#channels.clear();
    this._store.set({ connectionState: 'idle', userId: null, ...NO_TASKS });
  }

  setToken(token) {
    this.#token = token;
    if (this.#port !== null) this.#post({ do: 'call', name: 'refresh' });
  }

  request(type, data = {}, { timeout } = {}) {
    if (this.#port === null && this.getState().connectionState === 'closed') {
      return quiet(Promise.reject(new PushError('CLOSED', 'disconnected')));
    }
    if (this.#port === null) this.#attach({ connect: false });
    return quiet(this.#ask({ do: 'request', type, data, timeout }));
  }

  subscribeChannel(channel, handler, { since } = {}) {
    if (this.#port === null) this.#attach({ connect: false });
    let entry = this.#channels.get(channel);
    if (!entry) {
      entry = { handlers: new Set(), since };
      this.#channels.set(channel, entry);
      entry.ready = quiet(this.#ask({ do: 'subscribe', channel, since }));
    }
    const subscriber = { handler };
    entry.handlers.add(subscriber);
    return {
      channel,
      ready: entry.ready,
      unsubscribe: () => {
        if (entry.handlers.delete(subscriber) && entry.handlers.size === 0) this.#leave(channel, entry);
      },
    };
  }

  unsubscribeChannel(channel, handler) {
    const entry = this.#channels.get(channel);
    if (!entry) return;
    for (const subscriber of [...entry.handlers]) {
      if (handler === undefined || subscriber.handler === handler) entry.handlers.delete(subscriber);
    }
    if (entry.handlers.size === 0) this.#leave(channel, entry);
  }

  updateTaskProgress(taskId, progress, options) {
    super.updateTaskProgress(taskId, progress, options);
    if (this.#port !== null) this.#post({ do: 'call', name: 'updateTaskProgress', args: [taskId, progress, options] });
  }

  updateTaskStatus(taskId, status) {
    super.updateTaskStatus(taskId, status);
    if (this.#port !== null) this.#post({ do: 'call', name: 'updateTaskStatus', args: [taskId, status] });
  }

  _applyTasks(states) {
    const taken = super._applyTasks(states);
    if (taken.length > 0 && this.#port !== null) this.#post({ do: 'call', name: '_applyTasks', args: [taken] });
    return taken;
  }

  #leave(channel, entry) {
    if (this.#channels.get(channel) !== entry) return;
    this.#channels.delete(channel);
    if (this.#port !== null) this.#post({ do: 'unsubscribe', channel });
  }

  #attach({ connect = true } = {}) {
    const { port, lock, release } = this.#open(this.#options);
    this.#port = port;
    this.#release = release;
    port.onmessage = ({ data }) => port === this.#port && this.#receive(data);
    port.start?.();
    this.#post({ do: 'attach', connect, lock, options: this.#options, token: this.#token !== undefined });
    for (const [channel, { since }] of this.#channels) quiet(this.#ask({ do: 'subscribe', channel, since }));
  }

  #detach() {
    this.#release?.();
    this.#port = this.#release = null;
  }

  #post(message) {
    this.#port.postMessage(message);
  }

  #ask(message) {
    const n = ++this.#serial;
    this.#post({ ...message, n });
    return new Promise((resolve, reject) => this.#waiting.set(n, { resolve, reject }));
  }

  #failWaiting(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.#connected?.reject(error);
    this.#connected = null;
  }

  async #receive(message) {
    const { is, n } = message;
    if (is === 'push') {
      const running = this._events.dispatch(message.push, this.#channels.get(message.push.channel)?.handlers);
      await Promise.all(running);
      if (this.#port !== null) this.#post({ do: 'done', n });
    } else if (is === 'state') {
      this.#mirror(message);
    } else if (is === 'event') {
      this.#event(message.type, revived(message.value));
    } else if (is === 'reply') {
      const waiting = this.#waiting.get(n);
      this.#waiting.delete(n);
      if (message.error) waiting?.reject(revived(message.error));
      else waiting?.resolve(message.data);
    } else if (is === 'ask') {
      try {
        const token = typeof this.#token === 'function' ? await this.#token({ reason: message.reason }) : this.#token;
        this.#post({ do: 'answer', n, token: token ?? null });
      } catch (error) {
        this.#post({ do: 'answer', n, error: String(error?.message ?? error) });
      }
    }
  }

  #mirror({ patch, maps }) {
    const state = this.getState();
    const next = { ...patch };
    for (const [key, { set, removed }] of Object.entries(maps)) {
      const map = new Map(state[key]);
      for (const taskId of removed) map.delete(taskId);
      for (const [taskId, value] of set) map.set(taskId, value);
      next[key] = map;
    }
    this._store.set(next);
    if (next.isConnected) {
      this.#connected?.resolve();
      this.#connected = null;
    } else if (next.connectionState === 'closed') {
      this.#failWaiting(new PushError('CLOSED', this.getState().error ?? 'the connection is closed'));
    }
  }

  #event(type, value) {
    // Which channels concern a tab is told to all: only those who asked hear it.
    const about = type === 'rejected' || type === 'subscribed';
    if (!about || this.#channels.has(value.channel)) this._events.emit(type, value);
  }
}

function revived(value) {
  if (value?.name !== 'PushError') return value;
  return new PushError(value.code, value.message, value);
}

/** Opens the worker and holds a lock for as long as this page lives: the worker gets it the moment the page is gone. */
function openWorker({ url, session }, workerUrl) {
  // The address and the options stand here literally: bundlers look for them.
  const worker = workerUrl
    ? new SharedWorker(workerUrl, { type: 'module', name: 'pushclient' })
    : new SharedWorker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'pushclient' });
  const lock = `pushclient ${url} ${session} ${Math.random().toString(36).slice(2)}`;
  const { port } = worker;
  const { locks } = globalThis.navigator;
  let release = () => {};
  // The worker may ask for the lock only when this page holds it already.
  let held = Promise.resolve();
  const leaving = () => port.postMessage({ do: 'leave' });
  if (locks) {
    held = new Promise((holds) => {
      locks.request(lock, () => {
        holds();
        return new Promise((resolve) => (release = resolve));
      });
    });
  } else {
    globalThis.addEventListener('pagehide', leaving);
  }
  return {
    lock: locks ? lock : null,
    port: {
      postMessage: (message) => held.then(() => port.postMessage(message)),
      set onmessage(listener) {
        port.onmessage = listener;
      },
    },
    release: () => {
      held.then(() => release());
      globalThis.removeEventListener('pagehide', leaving);
    },
  };
}

/**
 * A client that shares its connection with the other tabs of this origin. `session` keeps apart what must not be shared
 * (give the user's id where different users may be signed in in different tabs). Functions among the options are
 * not shared, but for `token`, which is asked of a living tab when needed.
 */
export function createSharedClient(options = {}) {
  const { open, workerUrl, session = '', token, url = '/ws' } = options;
  if (open === undefined && typeof globalThis.SharedWorker !== 'function') return new PushClient(options);
  const given = Object.entries(options).filter(([key, value]) => key in DEFAULTS && value !== undefined);
  const absolute = new URL(url, globalThis.location?.href).href;
  const shareable = { ...Object.fromEntries(given), token: undefined, url: absolute, session };
  return new SharedClient(shareable, { token, open: open ?? ((each) => openWorker(each, workerUrl)) });
}

export default createSharedClient;
