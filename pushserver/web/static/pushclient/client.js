import { Connection } from './connection.js';
import { PushError } from './errors.js';
import { Events } from './events.js';
import { platform, settingsOf } from './options.js';
import { quiet } from './promises.js';
import { Store } from './store.js';
import { taskHandle } from './tasks.js';

/** What the snapshot carries beside the values, so that a selector can pick a call as well as a value. */
const CALLS = [
  'connect', 'disconnect', 'reconnect', 'send', 'updateTaskProgress', 'updateTaskStatus', 'getTaskProgress',
  'getTaskStatus', 'resetState',
];

/** Of some values those that are given. */
const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));

function uniqueId() {
  const { crypto } = globalThis;
  // randomUUID exists in secure contexts only; a page on a plain-http intranet has getRandomValues alone.
  if (typeof crypto?.randomUUID === 'function') return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The store, the events and the calls that need nothing but `request` and `subscribeChannel`. */
export class ClientBase {
  #store;
  #events = new Events();

  constructor(values = {}) {
    const calls = {};
    for (const name of CALLS) calls[name] = this[name] = this[name].bind(this);
    this.#store = new Store({ ...values, ...calls });
    this.getState = this.#store.getState;
    this.subscribe = this.#store.subscribe;
  }

  get _store() {
    return this.#store;
  }

  get _events() {
    return this.#events;
  }

  /** Calls `listener(slice, previous)` whenever what `selector` picks has changed. */
  select(selector, listener, equal) {
    return this.#store.select(selector, listener, equal);
  }

  /** Calls `handler` for each push of `type` (`*`: every push), or for one of the client's own events. */
  on(type, handler) {
    return this.#events.on(type, handler);
  }

  request() {
    throw new Error('not implemented');
  }

  /** Sends one protocol message, `{type, data}`. The promise may be ignored. */
  send(message) {
    return quiet(this.request(message.type, message.data));
  }

  /** Publishes `data` to a channel. Safe to repeat: the server knows the `messageId`. */
  publish(channel, data, { messageType, messageId = uniqueId() } = {}) {
    return this.request('publish', { channel, data, messageId, ...given({ messageType }) });
  }

  /** Sends chat to a room (`channel`) or to one user (`targetId`). */
  chat(content, { channel, targetId, messageType, messageId = uniqueId() } = {}) {
    return this.request('chat_message', { content, messageId, ...given({ channel, targetId, messageType }) });
  }

  history(channel, { limit, since, reverse } = {}) {
    return this.request('history', { channel, ...given({ limit, since, reverse }) });
  }

  presence(channel) {
    return this.request('presence', { channel });
  }

  task(taskId) {
    return taskHandle(this, taskId);
  }

  getTaskProgress(taskId) {
    return this.#store.getTaskProgress(taskId);
  }

  getTaskStatus(taskId) {
    return this.#store.getTaskStatus(taskId);
  }

  updateTaskProgress(taskId, progress, options) {
    this.#store.updateTaskProgress(taskId, progress, options);
  }

  updateTaskStatus(taskId, status) {
    this.#store.updateTaskStatus(taskId, status);
  }

  /** Takes those task states that are newer than what is known. Returns them. */
  _applyTasks(states) {
    return this.#store.applyTasks(states);
  }
}

/** A client with its own connection. `environment` replaces what the platform gives (for tests). */
export class PushClient extends ClientBase {
  #connection;

  constructor({ environment, ...options } = {}) {
    const settings = settingsOf(options);
    super({ reconnectInterval: settings.reconnectInterval, maxReconnectAttempts: settings.maxReconnectAttempts });
    this.#connection = new Connection(settings, platform(environment), this._store, this._events);
  }

  /** Connects, and stays so until `disconnect`. Resolves once signed in; rejects when the server says no for good. */
  connect(url) {
    return this.#connection.connect(url);
  }

  /** Ends the connection and all attempts. Subscriptions and positions are kept for the next `connect`. */
  disconnect() {
    this.#connection.disconnect();
  }

  /** Drops the connection and makes a new one at once. */
  reconnect() {
    return this.#connection.reconnect();
  }

  /** Disconnects and forgets everything but listeners: for signing out. */
  resetState() {
    this.#connection.reset();
  }

  /** Another token, or way to get one. A live connection signs in with it; one that stopped for its token resumes. */
  setToken(token) {
    this.#connection.setToken(token);
  }

  /**
   * Sends one protocol message and resolves with the data of its reply. While disconnected it waits in the queue; what
   * was sent on a link that broke is sent again (`publish` and `chat` carry a `messageId`, so nothing happens twice).
   */
  request(type, data = {}, { timeout } = {}) {
    const { connectionState, error } = this.getState();
    if (connectionState !== 'closed') return this.#connection.outbox.request(type, data, timeout);
    return quiet(Promise.reject(new PushError('CLOSED', error ?? 'disconnected')));
  }

  /**
   * Calls `handler(push)` for each push of a channel, from now on or from `since` (`{offset, epoch}`), through all
   * reconnections. Returns `{channel, ready, unsubscribe}`; `ready` resolves with the server's first result.
   */
  subscribeChannel(channel, handler, { since } = {}) {
    return this.#connection.subscriptions.add(channel, handler, since);
  }

  /** Ends one handler's subscription, or the whole channel's. */
  unsubscribeChannel(channel, handler) {
    this.#connection.subscriptions.remove(channel, handler);
  }

  /** The last known position of a channel, to be kept by the application and given back as `since`. */
  getPosition(channel) {
    return this.#connection.subscriptions.position(channel);
  }

  /** With `autoAck: false`: tells that everything in the inbox up to `offset` was dealt with. */
  ack(offset) {
    this.#connection.inbox.ack(offset);
  }
}

export function createClient(options) {
  return new PushClient(options);
}
