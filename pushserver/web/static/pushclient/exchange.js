/**
 * What stands between tabs and their connection: in the SharedWorker, or in the tab itself where there is none.
 *
 * Tabs whose tokens name the same user share one PushClient; others have another one. A push is handed to every tab that
 * it concerns, and counts as taken (so that the inbox acks it) once one of them says that a handler ran. If all tabs that
 * had it die before, it is handed to those that live; if none lives, it was never acked and comes again with the next
 * connection. Closing a tab therefore loses nothing. A tab that has a handler for a message of the inbox says so before it
 * calls it: one that says nothing (frozen, or behind an open `alert()`) stands for none, and the message waits for a handler
 * in any tab.
 */
import { createClient, PushError, Unauthorized, UNTAKEN } from './index.js';

/** What each tab has for itself. */
const OWN = ['socket', 'outputs'];
const MAPS = ['taskProgress', 'taskStatus', 'tasks'];
/** Each tab sees for itself that the user changed. */
const EVENTS = ['connect', 'disconnect', 'error', 'gap', 'recovered', 'rejected', 'subscribed'];
const TOKEN_WAIT = 5000;
/** So many tokens are remembered that had to be replaced; only a tab with a string offers one again. */
const MOST_SPENT = 32;
/** So long a tab may take to say that it has a handler: later it still counts, but others are not kept waiting. */
const WORD_WAIT = 1000;

const plain = (value) => {
  if (!(value instanceof Error)) return value;
  const { name, code, message, retryAfter, closeCode } = value;
  return { name, code, message, retryAfter, closeCode };
};

function difference(now, before) {
  const patch = {};
  const maps = {};
  for (const [key, value] of Object.entries(now)) {
    if (Object.is(value, before[key]) || typeof value === 'function' || OWN.includes(key)) continue;
    if (!MAPS.includes(key)) {
      patch[key] = plain(value);
      continue;
    }
    const old = before[key] ?? new Map();
    maps[key] = {
      set: [...value].filter(([taskId, state]) => !Object.is(old.get(taskId), state)),
      removed: [...old.keys()].filter((taskId) => !value.has(taskId)),
    };
  }
  return { is: 'state', patch, maps };
}

/** The tabs of one user, and their client. `ended()` is called when the last one is gone. */
class Room {
  #client;
  #ended;
  #tabs = new Set();
  #serial = 0;
  /**
   * Pushes that tabs have, by number: `{n, push, silent, busy, resolve, timer, isLate, missed}`. Tabs that have said nothing
   * yet are `silent`, those whose handlers have it `busy`; `resolve` is null once it was called. Also by push.
   */
  #pending = new Map();
  #handed = new WeakMap();
  #asked = new Map();
  /** The token that a tab came with, until it is used; the one that was used last; and those that had to be replaced. */
  #token;
  #used;
  #spent = new Set();

  constructor(create, { options, token }, ended) {
    this.#ended = ended;
    const callback = (context) => this.#askToken(context);
    const client = create({ ...options, token: token === null ? undefined : callback });
    this.#client = client;
    client.subscribe((now, before) => this.#notify(difference(now, before)));
    client.on('*', (push) => this.#hand(push));
    client.on('connect', () => {
      this.#token = undefined;
      this.#notify(this.#place());
    });
    for (const type of EVENTS) client.on(type, (value) => this.#notify({ is: 'event', type, value: plain(value) }));
  }

  attach(tab, { connect, token }) {
    this.#tabs.add(tab);
    // Where somebody is signed in, it would have aged until it is wanted.
    if (!this.#client.getState().isConnected) this.#token = token;
    if (connect) this.#client.connect();
    const state = this.#client.getState();
    tab.send(difference(state, {}));
    if (!state.isConnected) return;
    tab.send(this.#place());
    // For this tab the connection begins now.
    const { connectionId, userId, transport } = state;
    tab.send({ is: 'event', type: 'connect', value: { connectionId, userId, transport } });
  }

  receive(tab, message) {
    const { do: what, n } = message;
    if (what === 'begun') this.#begun(tab, n);
    else if (what === 'done') this.#done(tab, message);
    else if (what === 'call') this.#call(message);
    else if (what === 'answer') this.#asked.get(n)?.(tab, message);
    else if (what === 'offer') this.#offer();
    else if (what === 'abort') tab.aborts.get(n)?.abort();
    else if (what === 'request') {
      const { type, data, timeout } = message;
      const abort = new AbortController();
      tab.aborts.set(n, abort);
      const forget = () => tab.aborts.delete(n);
      const promise = this.#client.request(type, data, { timeout, signal: abort.signal });
      promise.then(forget, forget);
      this.#reply(tab, n, promise);
    } else if (what === 'subscribe') {
      const { channel, since, token } = message;
      // Other tabs have read on: what lies between concerns this one alone, which reads it for itself.
      const known = this.#client.getPosition(channel);
      const behind = Boolean(since && known) && (known.epoch !== since.epoch || known.offset > since.offset);
      // `true` stands for a function, which has to be asked where it is.
      const source = token === true ? (context) => this.#askTabs(context) : token;
      const subscription = this.#client.subscribeChannel(channel, () => UNTAKEN, { since, token: source });
      tab.channels.get(channel)?.unsubscribe();
      tab.channels.set(channel, subscription);
      // It is where the tabs are that it joins, wherever these began.
      const ready = subscription.ready.then((data) => ({ ...data, ...this.#client.getPosition(channel) }));
      this.#reply(tab, n, ready, behind);
    } else if (what === 'unsubscribe') {
      tab.channels.get(message.channel)?.unsubscribe();
      tab.channels.delete(message.channel);
    }
  }

  leave(tab) {
    if (!this.#tabs.delete(tab)) return;
    for (const subscription of tab.channels.values()) subscription.unsubscribe();
    tab.channels.clear();
    if (this.#tabs.size === 0) {
      for (const { timer } of this.#pending.values()) clearTimeout(timer);
      this.#client.disconnect();
      this.#ended();
      return;
    }
    for (const ask of this.#asked.values()) ask(tab, {});
    for (const entry of [...this.#pending.values()]) {
      const { silent, busy } = entry;
      if (!silent.delete(tab) && !busy.delete(tab)) continue;
      if (entry.resolve && this.#isFree(entry)) this.#send(entry, this.#tabs);
      else if (silent.size + busy.size === 0) this.#pending.delete(entry.n);
    }
  }

  /** How far the inbox was dealt with by all tabs together. */
  #place() {
    const position = this.#client._inboxPosition();
    return { is: 'place', position };
  }

  #notify(message) {
    for (const tab of this.#tabs) tab.send(message);
  }

  #call({ name, args = [], token }) {
    if (name !== 'setToken') return void this.#client[name](...args);
    this.#token = token ?? undefined;
    this.#client.setToken(token === null ? undefined : (context) => this.#askToken(context));
  }

  #reply(tab, n, promise, behind) {
    promise.then(
      (data) => tab.send({ is: 'reply', n, data, behind }),
      (error) => tab.send({ is: 'reply', n, error: plain(error) }),
    );
  }

  /** Somebody began to listen: what is still in the hands of others is offered once it turns out that nobody took it. */
  #offer() {
    for (const entry of this.#pending.values()) entry.missed = true;
    this.#client._listening();
  }

  /** Resolves when one tab's handlers ran, with UNTAKEN when no tab is known to have one. */
  #hand(push) {
    // What is offered again may by now be in the hands of a tab that was late to say so.
    const entry = this.#handed.get(push) ?? { n: ++this.#serial, push, silent: new Set(), busy: new Set() };
    this.#handed.set(push, entry);
    this.#pending.set(entry.n, entry);
    const concerned = [...this.#tabs].filter((tab) => tab.channels.has(push.channel));
    return new Promise((resolve) => {
      entry.resolve = resolve;
      // What no tab asked for came from the server's side (the inbox, system): it concerns all.
      this.#send(entry, concerned.length > 0 ? concerned : this.#tabs);
    });
  }

  /** Tells tabs of a push that do not have it already. */
  #send(entry, tabs) {
    const { n, push, silent, busy, timer } = entry;
    entry.missed = entry.isLate = false;
    clearTimeout(timer);
    // Of what is not in the inbox nobody waits for the answer.
    if (this.#isInbox(push)) {
      entry.timer = setTimeout(() => {
        entry.isLate = true;
        this.#weigh(entry);
      }, WORD_WAIT);
    }
    for (const tab of tabs) {
      if (silent.has(tab) || busy.has(tab)) continue;
      silent.add(tab);
      tab.send({ is: 'push', n, push });
    }
  }

  #isInbox({ channel, offset }) {
    return offset !== undefined && (channel === `user:${this.#client.getState().userId}` || channel.startsWith('task:'));
  }

  #begun(tab, n) {
    const entry = this.#pending.get(n);
    if (!entry?.silent.delete(tab)) return;
    entry.busy.add(tab);
    // Late: it was given back, and is in hand again.
    if (!entry.resolve) this.#client._listening();
  }

  #done(tab, { n, taken }) {
    const entry = this.#pending.get(n);
    if (!entry) return;
    entry.silent.delete(tab);
    entry.busy.delete(tab);
    if (!taken) return this.#weigh(entry);
    this.#pending.delete(n);
    if (entry.resolve) this.#finish(entry);
    // Late: it was given back, and whoever is asked again says that it was taken.
    else this.#client._listening();
  }

  /** Whether no tab has it in hand, as far as they have said. */
  #isFree({ silent, busy, isLate }) {
    return busy.size === 0 && (isLate || silent.size === 0);
  }

  #weigh(entry) {
    const { n, silent, busy, missed } = entry;
    if (silent.size + busy.size === 0) this.#pending.delete(n);
    if (!entry.resolve || !this.#isFree(entry)) return;
    this.#finish(entry, UNTAKEN);
    // Once the inbox has it back.
    if (missed) setTimeout(() => this.#client._listening(), 0);
  }

  #finish(entry, value) {
    clearTimeout(entry.timer);
    entry.resolve(value);
    entry.resolve = null;
  }

  async #askToken(context) {
    const given = this.#token;
    this.#token = undefined;
    this.#used = given && context.reason !== 'expired' ? given : await this.#askTabs(context);
    return this.#used;
  }

  #spend(token) {
    this.#spent.delete(token);
    this.#spent.add(token);
    if (this.#spent.size > MOST_SPENT) this.#spent.delete(this.#spent.values().next().value);
  }

  /**
   * A token from whichever tab gives one first: some may be frozen, and their number must not count. One for a channel is
   * asked of those that subscribed to it.
   */
  #askTabs({ reason, channel }) {
    const n = ++this.#serial;
    const silent = new Set([...this.#tabs].filter((tab) => channel === undefined || tab.channels.has(channel)));
    let failure = null;
    let spent = null;
    const isToReplace = reason === 'refresh' || reason === 'expired';
    if (isToReplace) this.#spend(this.#used);
    return new Promise((resolve, reject) => {
      const end = () => (clearTimeout(timer), this.#asked.delete(n));
      const fail = (otherwise) => (end(), reject(failure ?? otherwise ?? new PushError('TOKEN', 'no tab answered')));
      const timer = setTimeout(fail, TOKEN_WAIT);
      this.#asked.set(n, (tab, { token, error, fixed }) => {
        if (!silent.delete(tab)) return;
        if (error) failure = error.code === 'UNAUTHORIZED' ? new Unauthorized(error.message) : new PushError('TOKEN', error.message);
        // A tab that has a string has no other one.
        if (fixed && isToReplace && this.#spent.has(token)) {
          spent = new PushError('TOKEN_EXPIRED', 'the token has expired, and no tab has another one', { closeCode: 3005 });
        } else if (token) {
          end();
          return resolve(token);
        }
        if (silent.size === 0) fail(spent);
      });
      for (const tab of silent) tab.send({ is: 'ask', n, reason, channel });
    });
  }
}

/** All tabs of one server and session. `create(options)` makes a client. */
export class Exchange {
  #create;
  #rooms = new Map();

  constructor(create = createClient) {
    this.#create = create;
  }

  /** Takes a tab's port, and its first message where that was read already. */
  accept(port, first) {
    const tab = { port, room: null, channels: new Map(), aborts: new Map() };
    port.onmessage = ({ data }) => this.#receive(tab, data);
    port.start?.();
    if (first) this.#receive(tab, first);
  }

  #receive(tab, message) {
    if (message.do === 'attach') this.#attach(tab, message);
    else if (message.do === 'leave') this.#leave(tab);
    else tab.room?.receive(tab, message);
  }

  #attach(tab, message) {
    this.#leave(tab);
    const { user, lock, visit } = message;
    // What a room says to a tab that has left by then is about another user: by the visit the tab tells.
    tab.send = (said) => tab.port.postMessage({ ...said, visit });
    if (!this.#rooms.has(user)) {
      this.#rooms.set(user, new Room(this.#create, message, () => this.#rooms.delete(user)));
    }
    tab.room = this.#rooms.get(user);
    tab.room.attach(tab, message);
    if (lock) globalThis.navigator.locks.request(lock, () => this.#leave(tab));
  }

  #leave(tab) {
    tab.room?.leave(tab);
    tab.room = null;
  }
}
