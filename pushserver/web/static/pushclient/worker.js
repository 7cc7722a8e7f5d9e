/**
 * The SharedWorker behind shared.js: one PushClient for all tabs.
 *
 * A push is handed to every tab that it concerns, and counts as handled (so that the inbox acks it) once one of them
 * says that its handlers ran. If all tabs that had it die before, it is handed to those that live; if none lives, it
 * was never acked and comes again with the next connection. Closing a tab therefore loses nothing.
 */
import { createClient, PushError } from './index.js';

const MAPS = ['taskProgress', 'taskStatus', 'tasks'];
const EVENTS = ['connect', 'disconnect', 'error', 'gap', 'recovered', 'rejected', 'subscribed'];
const TOKEN_WAIT = 5000;

const plain = (value) => {
  if (!(value instanceof Error)) return value;
  const { name, code, message, retryAfter, closeCode } = value;
  return { name, code, message, retryAfter, closeCode };
};

function difference(now, before) {
  const patch = {};
  const maps = {};
  for (const [key, value] of Object.entries(now)) {
    if (Object.is(value, before[key]) || typeof value === 'function' || key === 'socket') continue;
    if (!MAPS.includes(key)) {
      patch[key] = value;
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

/** All tabs and their one client. `create(options)` makes the client. */
export class Exchange {
  #create;
  #client = null;
  #tabs = new Set();
  #serial = 0;
  #pending = new Map();
  #asked = new Map();

  constructor(create = createClient) {
    this.#create = create;
  }

  /** Takes a tab's port, and its first message where that was read already. */
  accept(port, first) {
    const tab = { port, channels: new Map() };
    port.onmessage = ({ data }) => this.#receive(tab, data);
    port.start?.();
    if (first) this.#receive(tab, first);
  }

  #receive(tab, message) {
    const { do: what, n } = message;
    if (what === 'attach') return void this.#attach(tab, message);
    if (what === 'answer') return void this.#asked.get(n)?.(message);
    if (!this.#tabs.has(tab)) return;
    if (what === 'leave') this.#gone(tab);
    else if (what === 'done') this.#done(n);
    else if (what === 'call') this.#call(message);
    else if (what === 'request') {
      const { type, data, timeout } = message;
      this.#reply(tab, n, this.#client.request(type, data, { timeout }));
    } else if (what === 'subscribe') {
      const { channel, since } = message;
      const subscription = this.#client.subscribeChannel(channel, () => {}, { since });
      tab.channels.get(channel)?.unsubscribe();
      tab.channels.set(channel, subscription);
      this.#reply(tab, n, subscription.ready);
    } else if (what === 'unsubscribe') {
      tab.channels.get(message.channel)?.unsubscribe();
      tab.channels.delete(message.channel);
    }
  }

  #attach(tab, { connect, lock, options, token }) {
    this.#tabs.add(tab);
    tab.hasToken = token;
    if (this.#client === null) this.#begin(options, token);
    if (connect) this.#client.connect();
    const state = this.#client.getState();
    tab.port.postMessage(difference(state, {}));
    if (state.isConnected) {
      // For this tab the connection begins now.
      const { connectionId, userId, transport } = state;
      tab.port.postMessage({ is: 'event', type: 'connect', value: { connectionId, userId, transport } });
    }
    if (lock) globalThis.navigator.locks.request(lock, () => this.#gone(tab));
  }

  #begin(options, token) {
    const client = this.#create({ ...options, token: token ? (context) => this.#askToken(context) : undefined });
    this.#client = client;
    client.subscribe((now, before) => this.#tell(difference(now, before)));
    client.on('*', (push) => this.#hand(push));
    for (const type of EVENTS) client.on(type, (value) => this.#tell({ is: 'event', type, value: plain(value) }));
  }

  #tell(message) {
    for (const { port } of this.#tabs) port.postMessage(message);
  }

  #call({ name, args = [] }) {
    if (name === 'refresh') this.#client.setToken((context) => this.#askToken(context));
    else this.#client[name](...args);
  }

  #reply(tab, n, promise) {
    promise.then(
      (data) => tab.port.postMessage({ is: 'reply', n, data }),
      (error) => tab.port.postMessage({ is: 'reply', n, error: plain(error) }),
    );
  }

  /** Resolves when one tab's handlers ran. */
  #hand(push) {
    const n = ++this.#serial;
    const concerned = [...this.#tabs].filter((tab) => tab.channels.has(push.channel));
    // What no tab asked for came from the server's side (the inbox, system): it concerns all.
    const tabs = new Set(concerned.length > 0 ? concerned : this.#tabs);
    return new Promise((resolve) => {
      this.#pending.set(n, { push, tabs, resolve });
      for (const { port } of tabs) port.postMessage({ is: 'push', n, push });
    });
  }

  #done(n) {
    this.#pending.get(n)?.resolve();
    this.#pending.delete(n);
  }

  #gone(tab) {
    if (!this.#tabs.delete(tab)) return;
    for (const subscription of tab.channels.values()) subscription.unsubscribe();
    if (this.#tabs.size === 0) {
      this.#client.disconnect();
      this.#client = null;
      this.#pending.clear();
      return;
    }
    for (const [n, entry] of this.#pending) {
      if (!entry.tabs.delete(tab) || entry.tabs.size > 0) continue;
      for (const other of this.#tabs) {
        entry.tabs.add(other);
        other.port.postMessage({ is: 'push', n, push: entry.push });
      }
    }
  }

  /** A token from the first living tab that has one. */
  async #askToken({ reason }) {
    let failure = 'no tab answered';
    for (const tab of [...this.#tabs].filter((each) => each.hasToken)) {
      const n = ++this.#serial;
      const answer = await new Promise((resolve) => {
        this.#asked.set(n, resolve);
        setTimeout(resolve, TOKEN_WAIT, {});
        tab.port.postMessage({ is: 'ask', n, reason });
      });
      this.#asked.delete(n);
      if (answer.token !== undefined) return answer.token;
      failure = answer.error ?? failure;
    }
    throw new PushError('TOKEN', failure);
  }
}

if (typeof SharedWorkerGlobalScope !== 'undefined') {
  /** One for each server and session of this origin. */
  const exchanges = new Map();
  globalThis.onconnect = ({ ports: [port] }) => {
    port.onmessage = ({ data }) => {
      const key = `${data.options.url} ${data.options.session}`;
      if (!exchanges.has(key)) exchanges.set(key, new Exchange());
      exchanges.get(key).accept(port, data);
    };
  };
}
