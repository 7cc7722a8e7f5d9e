/**
 * One connection for all tabs: `createSharedClient(options)` has the calls of `createClient`, and behind it a
 * SharedWorker holds the one PushClient. What passes between a tab and the worker (see exchange.js):
 *
 *   tab -> worker   attach, leave, request, abort, subscribe, unsubscribe, call, offer, begun, done, answer
 *   worker -> tab   life, state, place, push, event, reply, ask
 *
 * A tab attaches with its token, and joins the tabs whose tokens name the same user. Where a browser has no SharedWorker,
 * or where that does not load, the tab gets a connection of its own.
 */
import { Exchange } from './exchange.js';
import { ClientBase, createClient, DEFAULTS, PushClient, PushError } from './index.js';
import { callable } from './events.js';
import { platform } from './options.js';
import { deferred, onAbort, quiet } from './promises.js';
import { createStorage } from './storage.js';
import { createTabInbox } from './tab_inbox.js';
import { NO_TASKS } from './tasks.js';
import { askForToken, claimsOf } from './tokens.js';

/** So long a worker may take for its first word, and so long a tab waits to ask its token callback again. */
const WORKER_WAIT = 3000;
const TOKEN_RETRY = 5000;

const later = (delay, act) => {
  const timer = setTimeout(act, delay);
  return () => clearTimeout(timer);
};

/** Whose token it is: its `sub`; else, or where that is not the user's id, all of it that stays from token to token. */
function userOf(token, whole) {
  const { iat, exp, nbf, jti, ...lasting } = claimsOf(token);
  if (!whole && lasting.sub !== undefined) return String(lasting.sub);
  return JSON.stringify(lasting);
}

const isOf = (token, userId) => {
  const values = Object.values(claimsOf(token));
  return values.length === 0 || values.some((value) => String(value) === userId);
};

export class SharedClient extends ClientBase {
  #options;
  #open;
  #ownOpen;
  #token;
  /** The token callback at work: `{source, answer}`. */
  #asking = null;
  #storage;
  /** The port, and the calls that wait until the tab may attach to it (null: it has). */
  #port = null;
  #outgoing = null;
  #release = null;
  #cancelWait = () => {};
  #lock = null;
  /** Whether it left the others because its page may never be seen again. */
  #isHidden = false;
  /** Whether it was connected by the worker that it has; and whether what waits was asked of one that is left. */
  #hasJoined = false;
  #isTorn = false;
  #wanted = false;
  /** Whether it left since nobody was signed in, while a connection was wanted: another token goes on. */
  #stoppedForToken = false;
  /** Which stay in a room of the worker's this is; what a room says that was left is another user's. */
  #visit = 0;

  #present = null;
  #user = null;
  #lastUserId = null;
  #whole = false;
  /** Whether the application shows its inbox: it goes on to, wherever this tab is connected. */
  #showsInbox = false;
  #kept = {};
  #inbox = createTabInbox();

  #serial = 0;
  #waiting = new Map();
  #channels = new Map();
  #positions = new Map();
  /** Of channels that are being resumed what came meanwhile. */
  #held = new Map();
  /** Channels of which what others have read is being read. */
  #reading = new Set();
  #connected = null;

  /** `options` travel to the worker; `open(options)` opens a port to it, and `openOwn` one to an exchange of this tab. */
  constructor(options, { token, open, openOwn }) {
    super();
    this.#token = token;
    this.#options = options;
    this.#open = open;
    this.#ownOpen = openOwn;
    this.#storage = createStorage(platform(), options.url);
    globalThis.addEventListener?.('pagehide', () => this.#hide());
    globalThis.addEventListener?.('pageshow', () => this.#showAgain());
  }

  connect(url) {
    if (url !== undefined && url !== this.#options.url) {
      this.disconnect();
      this.#options.url = url;
    }
    this.#wanted = true;
    this.#stoppedForToken = false;
    if (this.#port === null) this.#attach();
    else this.#post({ do: 'call', name: 'connect' });
    if (this.getState().isConnected) return Promise.resolve();
    this.#connected ??= deferred();
    return this.#connected.promise;
  }

  /** Leaves the shared connection; the last tab's leaving closes it. */
  disconnect() {
    this.#stoppedForToken = false;
    if (this.#port === null) return;
    this.#end(new PushError('CLOSED', 'disconnected by the application'), null);
  }

  /** A new connection, for all tabs. */
  reconnect() {
    if (this.#port === null) return this.connect();
    this.#post({ do: 'call', name: 'reconnect' });
    return Promise.resolve();
  }

  resetState() {
    this.disconnect();
    for (const channel of [...this.#channels.keys()]) this.unsubscribeChannel(channel);
    this.#storage.remove(`positions ${this.#user}`);
    this.#forgetUser();
    this.#lastUserId = null;
    this.store.set({ connectionState: 'idle' });
  }

  setToken(token) {
    this.#token = token;
    if (this.#port !== null && this.#outgoing === null) this.#renew();
    if (this.#stoppedForToken) this.connect();
  }

  subscribeChannel(channel, handler, { since, token } = {}) {
    callable(handler, channel);
    if (this.#port === null) this.#attach();
    let entry = this.#channels.get(channel);
    if (!entry || entry.state === 'rejected') {
      entry = { handlers: entry?.handlers ?? new Set(), since, token: token ?? entry?.token, state: 'subscribing', error: null };
      this.#channels.set(channel, entry);
      entry.ready = this.#subscribe(channel, entry);
    } else if (token && token !== entry.token) {
      entry.token = token;
      this.#subscribe(channel, entry);
    }
    const subscriber = { handler };
    entry.handlers.add(subscriber);
    const client = this;
    return this._listening({
      channel,
      ready: entry.ready,
      get state() {
        return entry.handlers.has(subscriber) ? entry.state : 'closed';
      },
      get error() {
        return entry.error;
      },
      get position() {
        return client.getPosition(channel);
      },
      unsubscribe: () => {
        if (entry.handlers.delete(subscriber) && entry.handlers.size === 0) this.#leave(channel, entry);
      },
    });
  }

  unsubscribeChannel(channel, handler) {
    const entry = this.#channels.get(channel);
    if (!entry) return;
    for (const subscriber of [...entry.handlers]) {
      if (handler === undefined || subscriber.handler === handler) entry.handlers.delete(subscriber);
    }
    if (entry.handlers.size === 0) this.#leave(channel, entry);
  }

  /** The last known position of a channel, as this tab saw it. */
  getPosition(channel) {
    const position = this.#positions.get(channel);
    return position && { ...position };
  }

  /** With `autoAck: false`: tells that everything in the inbox up to `offset` was dealt with. */
  ack(offset) {
    if (this.#port !== null) this.#post({ do: 'call', name: 'ack', args: [offset] });
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

  _request(type, data, { timeout, signal } = {}) {
    if (this.#port === null && this.getState().connectionState === 'closed') {
      return Promise.reject(new PushError('CLOSED', 'disconnected'));
    }
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#port === null) this.#attach();
    this.#showsInbox ||= type === 'inbox';
    const { n, promise } = this.#ask({ do: 'request', type, data, timeout });
    onAbort(signal, promise, () => {
      this.#waiting.get(n)?.reject(signal.reason);
      if (this.#waiting.delete(n)) this.#post({ do: 'abort', n });
    });
    return promise;
  }

  /** Somebody began to listen: what no tab took goes there. */
  _listening(end) {
    if (this.#port !== null) Promise.resolve().then(() => this.#port !== null && this.#post({ do: 'offer' }));
    return end;
  }

  // --- attaching -----------------------------------------------------------------------------------------------------

  #attach() {
    const { port, lock, release, failed, died } = this.#open(this.#options);
    this.#port = port;
    this.#lock = lock;
    this.#release = release;
    port.onmessage = ({ data }) => {
      if (data.visit !== this.#visit) return;
      this.#cancelWait();
      this.#receive(data);
    };
    port.start?.();
    failed?.then((reason) => port === this.#port && this.#fallBack(reason));
    died?.then(() => port === this.#port && this.#revive());
    this.#hasJoined = false;
    this.#admit();
  }

  /** Finds out whose tab this is, with a token from its own application, and joins the tabs of that user. */
  async #admit(known) {
    const port = this.#port;
    this.#outgoing ??= [];
    this.#isHidden = false;
    let token = known;
    while (token === undefined) {
      try {
        token = await this.#take('connect');
      } catch (error) {
        if (port !== this.#port) return;
        if (error.code === 'UNAUTHORIZED') return void this.#end(error, error);
        this._events.emit('error', error);
        this.store.set({ error: error.message, lastError: error });
        await new Promise((resolve) => setTimeout(resolve, TOKEN_RETRY));
      }
      if (port !== this.#port) return;
    }
    this.#present = token;
    const user = userOf(token, this.#whole);
    if (this.#user !== null && this.#user !== user) {
      if (this.#isTorn) this.#endRequests(new PushError('CLOSED', 'the user changed'));
      this.#forgetUser();
    }
    this.#user = user;
    this.#isTorn = false;
    this.#kept = (this.#options.recover && this.#storage.read(`positions ${this.#user}`)) || {};
    const waiting = [...this.#waiting.values()].map(({ message }) => message);
    const calls = this.#outgoing;
    this.#outgoing = null;
    // Positions over a reload are this page's: a worker has no storage for them.
    const options = { ...this.#options, recover: false, blocked: this.#storage.read('blocked') };
    const visit = ++this.#visit;
    this.#post({ do: 'attach', connect: this.#wanted, lock: this.#lock, options, user: this.#user, token, visit });
    for (const message of waiting) this.#post(message.do === 'subscribe' ? this.#resuming(message) : message);
    const asked = new Set(waiting.map(({ channel }) => channel));
    for (const [channel, entry] of this.#channels) if (!asked.has(channel)) this.#subscribe(channel, entry);
    for (const call of calls) this.#post(call);
    if (this.#showsInbox && !waiting.some(({ type }) => type === 'inbox')) this._request('inbox', {});
    this.#post({ do: 'offer' });
    this.#fetchMissed(visit);
    if (this.#ownOpen) {
      this.#cancelWait();
      this.#cancelWait = later(WORKER_WAIT, () => this.#fallBack('no answer'));
    }
  }

  /** The token as it is now: null for none. What a callback answers counts no more once another source was set. */
  async #take(reason) {
    const source = this.#token;
    const port = this.#port;
    if (typeof source !== 'function') return source ?? null;
    try {
      const token = await this.#askCallback(source, reason);
      if (source === this.#token) return token;
    } catch (error) {
      if (source === this.#token) throw error;
    }
    // Where the tab has left meanwhile, nobody would look at the answer: it might name another user than the one who comes.
    return port === this.#port ? this.#take(reason) : undefined;
  }

  /** Who asks while the callback is at work, as after the end of a worker, gets the same answer. */
  #askCallback(source, reason) {
    if (this.#asking?.source !== source) {
      const mine = { source };
      mine.answer = askForToken(source, { reason }, later, this.#tokenLimit).finally(() => {
        if (this.#asking === mine) this.#asking = null;
      });
      this.#asking = mine;
    }
    return this.#asking.answer;
  }

  async #takeFor(channel) {
    const { token } = this.#channels.get(channel) ?? {};
    return typeof token === 'function' ? askForToken(token, { channel }, later, this.#tokenLimit) : token;
  }

  get #tokenLimit() {
    return this.#options.connectTimeout ?? DEFAULTS.connectTimeout;
  }

  /** Another token was set: the same user's renews the connection of all, another's leads this tab elsewhere. */
  async #renew() {
    const port = this.#port;
    try {
      const token = await this.#take('refresh');
      if (port !== this.#port) return;
      if (userOf(token, this.#whole) !== this.#user) return void this.#move(token);
      this.#present = token;
      this.#post({ do: 'call', name: 'setToken', token });
    } catch (error) {
      if (port !== this.#port) return;
      if (error.code === 'UNAUTHORIZED') this.#end(error, error);
      else this._events.emit('error', error);
    }
  }

  /** The worker wants a token, of any of its tabs: the user's, or one for a channel. */
  async #answer({ n, reason, channel }) {
    const port = this.#port;
    try {
      if (channel !== undefined) {
        const token = await this.#takeFor(channel);
        if (port === this.#port) this.#post({ do: 'answer', n, token });
        return;
      }
      const token = await this.#take(reason);
      if (port !== this.#port) return;
      if (userOf(token, this.#whole) === this.#user) {
        this.#present = token;
        // A string is the same whenever it is asked for.
        this.#post({ do: 'answer', n, token, fixed: typeof this.#token !== 'function' });
      } else {
        this.#move(token);
      }
    } catch (error) {
      const { code, message } = error;
      if (port === this.#port) this.#post({ do: 'answer', n, error: { code, message } });
    }
  }

  /** This tab is another user's now: it leaves the others, with nothing of what it had. */
  #move(token) {
    this.#post({ do: 'leave' });
    this.#endRequests(new PushError('CLOSED', 'the user changed'));
    this.#forgetUser();
    this.store.set({ isConnected: false, connectionState: 'connecting', connectionId: null });
    this.#admit(token);
  }

  #forgetUser() {
    this.#positions.clear();
    this.#held.clear();
    this.#kept = {};
    this.#inbox = createTabInbox();
    this.store.set({ ...NO_TASKS, inbox: this.store.getInitialState().inbox, userId: null, permissions: [] });
  }

  /** The worker that had the connection is no more: joins the next one, and goes on where it was. */
  #revive() {
    // One that ends before it is of use would be started without end.
    if (!this.#hasJoined && this.#ownOpen) return void this.#fallBack('it ended at once');
    const reason = 'the shared worker ended';
    if (this.getState().isConnected) this._events.emit('disconnect', { code: 1006, reason, willReconnect: true });
    this.#tear();
    this.#release?.();
    this.#attach();
  }

  /** What is still on its way from the worker is not waited for: it is asked again. */
  #tear() {
    this.#cancelWait();
    this.#visit += 1;
    this.#isTorn = true;
    this.store.set({ isConnected: false, connectionState: 'connecting', connectionId: null });
    this.#turnAll();
  }

  #turnAll() {
    for (const entry of this.#channels.values()) if (entry.state === 'subscribed') this.#turn(entry, 'subscribing');
  }

  /**
   * The page is gone, or put aside whole. Where no lock tells the worker that it is gone, it has to say so itself, and joins
   * again if it is shown again.
   */
  #hide() {
    this.#keepPositions();
    if (this.#lock !== null || this.#port === null || this.#outgoing !== null) return;
    this.#post({ do: 'leave' });
    this.#tear();
    this.#outgoing = [];
    this.#isHidden = true;
  }

  #showAgain() {
    if (this.#isHidden) this.#admit();
  }

  /** The worker did not load, or says nothing: from now on this tab has a connection of its own. */
  #fallBack(reason) {
    if (!this.#ownOpen) return;
    console.warn(`pushclient: the shared worker does not work (${reason}); this tab has a connection of its own`);
    this.#cancelWait();
    this.#port.postMessage({ do: 'leave' });
    this.#release?.();
    this.#open = this.#ownOpen;
    this.#ownOpen = null;
    this.#attach();
  }

  /** Leaves, by the application's wish (no `failure`) or because nobody is signed in. */
  #end(error, failure) {
    this.#keepPositions();
    if (this.#outgoing === null) this.#post({ do: 'leave' });
    this.#cancelWait();
    this.#release?.();
    this.#visit += 1;
    this.#port = this.#release = this.#outgoing = null;
    this.#isHidden = false;
    this.#asking = null;
    this.#stoppedForToken ||= this.#wanted && failure !== null;
    this.#wanted = false;
    this.#failWaiting(error);
    this.store.set({
      isConnected: false,
      connectionState: 'closed',
      connectionId: null,
      transport: null,
      nextAttemptAt: null,
      error: failure && failure.message,
      lastError: failure,
    });
    if (failure) this._events.emit('error', failure);
  }

  #keepPositions() {
    if (!this.#options.recover || this.#user === null) return;
    const placed = [...this.#positions].filter(([channel]) => this.#channels.has(channel));
    const { position } = this.#inbox;
    if (position) placed.push([`user:${this.getState().userId}`, position]);
    this.#storage.write(`positions ${this.#user}`, { ...this.#kept, ...Object.fromEntries(placed) });
  }

  // --- messages ------------------------------------------------------------------------------------------------------

  #subscribe(channel, entry) {
    // A function stays here, and is asked when the worker needs what it gives.
    const token = typeof entry.token === 'function' || entry.token;
    const { promise } = this.#ask({ do: 'subscribe', channel, since: entry.since, token });
    entry.newest = promise;
    const settled = (state, error = null) => {
      if (this.#channels.get(channel) === entry) this.#turn(entry, state, error);
    };
    promise.then(
      (result) => {
        const { offset, epoch } = result;
        if (epoch !== undefined && this.#channels.get(channel) === entry) this.#moveTo(channel, { offset, epoch });
        settled('subscribed');
      },
      (error) => settled('rejected', error),
    );
    return promise;
  }

  #turn(entry, state, error = null) {
    if (entry.state === state) return;
    Object.assign(entry, { state, error });
  }

  #resuming(message) {
    const { channel } = message;
    const since = this.#positions.get(channel) ?? message.since ?? this.#kept[channel];
    delete this.#kept[channel];
    const waiting = this.#waiting.get(message.n);
    if (since) {
      this.#moveTo(channel, since);
      // What comes waits for what lies before it.
      this.#held.set(channel, []);
    }
    return (waiting.message = { ...message, since });
  }

  /** A channel is subscribed from a position on. Other tabs may have read further: then what lies between is read first. */
  async #resumed({ message: { channel, since }, resolve, reject }, { data, error: refusal, visit, behind }) {
    try {
      if (refusal) throw revived(refusal);
      // Where the tab has gone elsewhere meanwhile, it has subscribed there.
      if (behind && !(await this.#read(channel, since, visit))) return void resolve(this.#channels.get(channel)?.newest);
      resolve(data);
    } catch (error) {
      reject(error);
    }
    // Where it is resumed for another token, too, what is held waits for that.
    if (refusal && (this.#reading.has(channel) || [...this.#waiting.values()].some(({ message }) => message.channel === channel))) return;
    const held = this.#held.get(channel) ?? [];
    this.#held.delete(channel);
    for (const each of held) this.#receive(each);
  }

  /** Shows the history of a channel behind a position. Resolves with whether this tab is still there to see it. */
  async #read(channel, from, visit) {
    this.#reading.add(channel);
    try {
      for (let since = from, more = true; more;) {
        const read = await this.#readPage(channel, since);
        if (visit !== this.#visit) return false;
        if (read.moved) this.#moved(channel, read);
        for (const push of read.messages) this.#show(push);
        const { offset, epoch } = read;
        since = { offset, epoch };
        more = read.more;
      }
      return true;
    } finally {
      this.#reading.delete(channel);
    }
  }

  /** What follows a position. What one of an earlier epoch is worth the server tells to who subscribes with it. */
  async #readPage(channel, since) {
    try {
      return await this._request('history', { channel, since, limit: 1000 });
    } catch (error) {
      if (error.code !== 'CONFLICT') throw error;
      const { results, rejected } = await this._request('subscribe', { channels: [{ channel, since }] });
      if (rejected[channel]) throw new PushError(rejected[channel].code, rejected[channel].message);
      return { messages: [], ...results[channel], moved: true, more: true };
    }
  }

  /** A channel has another epoch than the position from which it was to be resumed. */
  #moved(channel, { messages, offset, epoch }) {
    const [first = { offset: offset + 1 }] = messages;
    if (channel === `user:${this.getState().userId}`) this.#inbox.goOn({ offset: first.offset - 1, epoch });
    else this._events.emit('gap', { channel, cause: 'not_recovered' });
  }

  #leave(channel, entry) {
    if (this.#channels.get(channel) !== entry) return;
    this.#channels.delete(channel);
    this.#positions.delete(channel);
    this.#held.delete(channel);
    const error = new PushError('CLOSED', 'unsubscribed');
    this.#turn(entry, 'closed', error);
    for (const [n, { message, reject }] of this.#waiting) {
      if (message.channel !== channel) continue;
      this.#waiting.delete(n);
      reject(error);
    }
    if (this.#port !== null) this.#post({ do: 'unsubscribe', channel });
  }

  #moveTo(channel, { offset, epoch }) {
    // What follows an output knows its own, and what the page before had of it is gone.
    if (channel.startsWith('output:')) return;
    const position = this.#positions.get(channel);
    if (position?.epoch !== epoch || position.offset < offset) this.#positions.set(channel, { offset, epoch });
  }

  /** Sends to the worker. Before the tab is admitted calls wait here; `#waiting` and `#channels` remember the rest. */
  #post(message) {
    if (this.#outgoing === null) this.#port.postMessage(message);
    else if (message.do === 'call') this.#outgoing.push(message);
  }

  #ask(message) {
    const n = ++this.#serial;
    const whole = { ...message, n };
    const promise = quiet(new Promise((resolve, reject) => this.#waiting.set(n, { message: whole, resolve, reject })));
    this.#post(message.do === 'subscribe' ? this.#resuming(whole) : whole);
    return { n, promise };
  }

  #endRequests(error) {
    for (const [n, { message, reject }] of this.#waiting) {
      // A subscription is asked for again, where the tab goes.
      if (message.do !== 'request') continue;
      this.#waiting.delete(n);
      reject(error);
    }
  }

  #failWaiting(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.#connected?.reject(error);
    this.#connected = null;
  }

  /** After a reload: what came to the inbox meanwhile, which other tabs may have acknowledged; then what came since. */
  async #fetchMissed(visit) {
    const channel = Object.keys(this.#kept).find((each) => each.startsWith('user:'));
    if (!channel) return;
    const since = this.#kept[channel];
    delete this.#kept[channel];
    this.#inbox.resume(since);
    try {
      if (!(await this.#read(channel, since, visit))) return;
    } catch (error) {
      if (visit !== this.#visit) return;
      this._events.emit('error', error);
    }
    for (const message of this.#inbox.release()) this.#receive(message);
  }

  /** Hands a push to the application. Resolves with whether somebody took it; of the inbox, calls `begun` before a handler. */
  async #show(push, begun) {
    const { channel, offset, epoch } = push;
    const inbox = this.#isInbox(push);
    const place = inbox ? `user:${this.getState().userId}` : channel;
    const known = this.#positions.get(place);
    if (!inbox && offset !== undefined && known?.epoch === epoch && offset <= known.offset) return true;
    if (offset !== undefined) this.#moveTo(place, { offset, epoch });
    const hand = async () => {
      const handlers = this.#channels.get(channel)?.handlers;
      if (inbox && this._events.has(push, handlers)) begun?.();
      const results = this._events.dispatch(push, handlers);
      await Promise.all(results);
      return results.length > 0;
    };
    return inbox ? this.#inbox.show(push, hand, begun) : hand();
  }

  /** Keeps a message of a channel for later where that is being resumed. */
  #holds(message) {
    const { channel, offset } = message.push;
    const held = offset === undefined ? undefined : this.#held.get(channel);
    held?.push(message);
    return held !== undefined;
  }

  #isInbox({ channel, offset }) {
    return offset !== undefined && (channel === `user:${this.getState().userId}` || channel.startsWith('task:'));
  }

  async #receive(message) {
    const { is, n, visit } = message;
    if (is === 'push') {
      const { push } = message;
      if (this.#isInbox(push) ? this.#inbox.hold(message) : this.#holds(message)) return;
      const taken = await this.#show(push, () => visit === this.#visit && this.#post({ do: 'begun', n }));
      if (visit === this.#visit) this.#post({ do: 'done', n, taken });
    } else if (is === 'state') {
      this.#mirror(message);
    } else if (is === 'event') {
      this.#event(message.type, revived(message.value));
    } else if (is === 'reply') {
      const waiting = this.#waiting.get(n);
      this.#waiting.delete(n);
      if (waiting?.message.since) this.#resumed(waiting, message);
      else if (message.error) waiting?.reject(revived(message.error));
      else waiting?.resolve(message.data);
    } else if (is === 'ask') {
      this.#answer(message);
    } else if (is === 'place') {
      this.#inbox.begin(message.position);
    }
  }

  #mirror({ patch, maps }) {
    const { userId } = patch;
    if (typeof userId === 'string' && !this.#whole && !isOf(this.#present, userId)) {
      // The tokens agree in `sub`, and the user is named elsewhere: what came here is another's.
      this.#whole = true;
      return void this.#move(this.#present);
    }
    const state = this.getState();
    const next = { ...patch, ...('lastError' in patch && { lastError: revived(patch.lastError) }) };
    for (const [key, { set, removed }] of Object.entries(maps)) {
      const map = new Map(state[key]);
      for (const taskId of removed) map.delete(taskId);
      for (const [taskId, value] of set) map.set(taskId, value);
      next[key] = map;
    }
    this.store.set(next);
    if (next.isConnected) {
      this.#hasJoined = true;
      // A worker has no storage.
      if (this.getState().transport === 'sse') this.#storage.write('blocked', true);
      else this.#storage.remove('blocked');
      this.#connected?.resolve();
      this.#connected = null;
      const from = this.#lastUserId;
      const to = this.getState().userId;
      this.#lastUserId = to;
      if (from !== null && from !== to) this._events.emit('user_changed', { from, to });
    } else if (next.connectionState === 'closed') {
      const { error, lastError } = this.getState();
      this.#failWaiting(lastError ?? new PushError('CLOSED', error ?? 'the connection is closed'));
    }
    if (next.isConnected === false) this.#turnAll();
  }

  #event(type, value) {
    // Which channels concern a tab is told to all: only those who asked hear it.
    const entry = this.#channels.get(value?.channel);
    if (type === 'subscribed' && entry) this.#turn(entry, 'subscribed');
    if (type === 'rejected' && entry) this.#turn(entry, 'rejected', new PushError(value.code, value.message));
    const about = type === 'rejected' || type === 'subscribed';
    if (!about || entry) this._events.emit(type, value);
  }
}

function revived(value) {
  if (value?.name !== 'PushError') return value;
  return new PushError(value.code, value.message, value);
}

/**
 * Opens the worker and holds a lock for as long as this page lives: the worker gets it the moment the page is gone, as
 * this page gets the worker's.
 */
function openWorker({ url, session }, workerUrl) {
  // The address and the options stand here literally: bundlers look for them.
  const worker = workerUrl
    ? new SharedWorker(workerUrl, { type: 'module', name: 'pushclient 3' })
    : new SharedWorker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'pushclient 3' });
  const failed = new Promise((resolve) => {
    worker.onerror = (event) => resolve(event.message || 'it did not load: is it at its address, and does worker-src allow it?');
  });
  const lock = `pushclient ${url} ${session} ${Math.random().toString(36).slice(2)}`;
  const { port } = worker;
  const { locks } = globalThis.navigator;
  const gone = new AbortController();
  const over = deferred();
  let release = () => {};
  // The worker may ask for the lock only when this page holds it already. Then all goes at once: a handler may block the page.
  let held = Promise.resolve();
  let waiting = [];
  if (locks) {
    held = new Promise((holds) => {
      locks.request(lock, () => {
        holds();
        return new Promise((resolve) => (release = resolve));
      });
    });
  }
  held.then(() => {
    for (const message of waiting) port.postMessage(message);
    waiting = null;
  });
  return {
    lock: locks ? lock : null,
    failed,
    died: over.promise,
    port: {
      postMessage: (message) => void (waiting ? waiting.push(message) : port.postMessage(message)),
      set onmessage(listener) {
        port.onmessage = (event) => {
          const { is, lock: its } = event.data;
          if (is !== 'life') listener(event);
          else quiet(locks.request(its, { mode: 'shared', signal: gone.signal }, over.resolve));
        };
      },
    },
    release: () => {
      held.then(() => release());
      gone.abort();
    },
  };
}

/** An exchange of this tab alone, behind a port like the worker's. */
function openOwn(environment) {
  const exchange = new Exchange((given) => createClient({ ...given, environment }));
  const { port1, port2 } = new MessageChannel();
  exchange.accept(port2);
  return { lock: null, port: port1, release: () => setTimeout(() => port1.close(), 0) };
}

/**
 * A client that shares its connection with the other tabs of this origin that are the same user's. `session` keeps apart
 * what must not be shared beside. Functions among the options are not shared, but for `token`, which is asked of a
 * living tab when needed.
 */
export function createSharedClient(options = {}) {
  const { open, workerUrl, session = '', token, url = '/ws', environment } = options;
  if (open === undefined && typeof globalThis.SharedWorker !== 'function') return new PushClient(options);
  const given = Object.entries(options).filter(([key, value]) => key in DEFAULTS && value !== undefined && typeof value !== 'function');
  const absolute = new URL(url, globalThis.location?.href).href;
  const shareable = { ...Object.fromEntries(given), token: undefined, url: absolute, session };
  const own = () => openOwn(environment);
  const opened = (each) => {
    try {
      return openWorker(each, workerUrl);
    } catch (error) {
      const advice = error.name === 'SecurityError' ? ' It has to come from the origin of the page.' : '';
      console.warn(`pushclient: no shared worker (${error.message}${advice}); this tab has a connection of its own`);
      return own();
    }
  };
  return new SharedClient(shareable, { token, open: open ?? opened, openOwn: open ? null : own });
}

export default createSharedClient;
