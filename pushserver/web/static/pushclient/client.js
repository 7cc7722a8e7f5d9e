import { createConnection } from './connection.js';
import { PushError } from './errors.js';
import { callable, createEvents } from './events.js';
import { platform, settingsOf } from './options.js';
import { quiet } from './promises.js';
import { Store } from './store.js';
import { taskHandle } from './tasks.js';

/** What the snapshot carries beside the values, so that a selector can pick a call as well as a value. */
const CALLS = [
  'connect', 'disconnect', 'reconnect', 'send', 'updateTaskProgress', 'updateTaskStatus', 'getTaskProgress',
  'getTaskStatus', 'resetState',
];

/** An id has to differ, not to be secret; `crypto` is not everywhere, and in pages it wants a secure context. */
const uniqueId = () => [1, 2].map(() => Math.random().toString(36).slice(2)).join('');

/** The store, the events and the calls that need nothing but `_request` and `subscribeChannel`. */
export class ClientBase {
  _events = createEvents();

  constructor(values = {}) {
    const calls = {};
    for (const name of CALLS) calls[name] = this[name] = this[name].bind(this);
    /** The snapshot, who listens to it, and what the application sets in it by hand. */
    this.store = new Store({ ...values, ...calls });
    this.getState = this.store.getState;
    this.subscribe = this.store.subscribe;
  }

  /** Calls `listener(slice, previous)` whenever what `selector` picks has changed. */
  select(selector, listener, equal) {
    return this.store.select(selector, listener, equal);
  }

  /** Calls `handler` for each push of `type` (`*`: every push), or for one of the client's own events. */
  on(type, handler) {
    return this._listening(this._events.on(type, handler));
  }

  /** The same, once. */
  once(type, handler) {
    callable(handler, type);
    const end = this.on(type, (value) => {
      end();
      return handler(value);
    });
    return end;
  }

  /** Calls `handler` for each push of `type`, also where one of the client's own events has that name. */
  onPush(type, handler) {
    return this._listening(this._events.onPush(type, handler));
  }

  /**
   * Sends one protocol message and resolves with the data of its reply. While disconnected it waits in the queue; what
   * was sent on a link that broke is sent again: what publishes carries a `messageId`, so nothing happens twice.
   */
  request(type, data = {}, options = {}) {
    const { messageId = uniqueId() } = data;
    return quiet(this._request(type, /^(publish|chat_message)$/.test(type) ? { ...data, messageId } : data, options));
  }

  /** The short form: `{type, data}`, and the promise may be ignored. */
  send({ type, data }) {
    return this.request(type, data);
  }

  /** Publishes `data` to a channel. */
  publish(channel, data, { messageType, messageId, ...options } = {}) {
    return this.request('publish', { channel, data, messageType, messageId }, options);
  }

  /** Sends chat to a room (`channel`) or to one user (`targetId`). */
  chat(content, { channel, targetId, messageType, messageId, ...options } = {}) {
    return this.request('chat_message', { content, channel, targetId, messageType, messageId }, options);
  }

  history(channel, { limit, since, reverse, ...options } = {}) {
    return this.request('history', { channel, limit, since, reverse }, options);
  }

  presence(channel, options) {
    return this.request('presence', { channel }, options);
  }

  /** A page of one's inbox, newest first: the newest ones, or those before a position; `unread`: only these. */
  inbox({ limit, before, unread, ...options } = {}) {
    return this.request('inbox', { limit, before, unread }, options);
  }

  /** Marks messages of the inbox as read, by their offsets; with `read: false` as not read. */
  markRead(offsets, { read, ...options } = {}) {
    return this.request('inbox_read', { offsets, epoch: this.getState().inbox.epoch, read }, options);
  }

  /** Marks all of the inbox as read that has come so far. */
  markAllRead(options) {
    const { offset: upTo, epoch } = this.getState().inbox;
    return this.request('inbox_read', { upTo, epoch }, options);
  }

  deleteFromInbox(offsets, options) {
    return this.request('inbox_delete', { offsets, epoch: this.getState().inbox.epoch }, options);
  }

  task(taskId) {
    return taskHandle(this, taskId);
  }

  getTaskProgress(taskId) {
    return this.store.getTaskProgress(taskId);
  }

  getTaskStatus(taskId) {
    return this.store.getTaskStatus(taskId);
  }

  updateTaskProgress(taskId, progress, options) {
    this.store.updateTaskProgress(taskId, progress, options);
  }

  updateTaskStatus(taskId, status) {
    this.store.updateTaskStatus(taskId, status);
  }

  /** Takes those task states that are newer than what is known. Returns them. */
  _applyTasks(states) {
    return this.store.applyTasks(states);
  }
}

/** A client with its own connection. `environment` replaces what the platform gives (for tests). */
export class PushClient extends ClientBase {
  #connection;

  constructor({ environment, ...options } = {}) {
    const settings = settingsOf(options);
    super({ reconnectInterval: settings.reconnectInterval, maxReconnectAttempts: settings.maxReconnectAttempts });
    this.#connection = createConnection(settings, platform(environment), this.store, this._events);
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

  /**
   * Another token, or way to get one. A live connection signs in with it, or gives way to a new one where it is another
   * user's; one that stopped for its token resumes.
   */
  setToken(token) {
    this.#connection.setToken(token);
  }

  /**
   * Calls `handler(push)` for each push of a channel, from now on or from `since` (`{offset, epoch}`), through all
   * reconnections. Returns the subscription; its `ready` resolves with the server's first result. `token`: a token for this
   * channel, or a function that is asked for one, and anew before it ends.
   */
  subscribeChannel(channel, handler, { since, token } = {}) {
    return this._listening(this.#connection.subscriptions.add(channel, handler, since, token));
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
    this.#connection.inbox?.ack(offset);
  }

  _inboxPosition() {
    return this.#connection.inbox?.position;
  }

  _request(type, data, options) {
    const { connectionState, error } = this.getState();
    if (connectionState === 'closed') return Promise.reject(new PushError('CLOSED', error ?? 'disconnected'));
    return this.#connection.request(type, data, options);
  }

  /** Somebody began to listen: what nobody took goes there, once the present turn is over. */
  _listening(end) {
    Promise.resolve().then(() => this.#connection.inbox?.offer());
    return end;
  }
}

export function createClient(options) {
  return new PushClient(options);
}
