// A world for walks of two users: a server, a browser with tabs and a shared worker, and time; all of it chosen by one seed.
// Each user has an inbox, tasks and a room with a history, which nobody else may enter.
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { createSharedClient } from '../../pushserver/web/static/pushclient/shared.js';
import { Exchange } from '../../pushserver/web/static/pushclient/worker.js';
import { Clock, fakePage, tokenOf } from './fakes.js';

const claimsOf = (token) => JSON.parse(atob(token.split('.')[1]));

/** A repeatable source of numbers in [0, 1) (mulberry32). */
export function source(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let value = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}

/** Carries messages one way, in order, each after a while of its own; what is still on its way when it closes is lost. */
class Way {
  #clock;
  #random;
  #slowest;
  #freeAt = 0;
  #open = true;

  constructor({ clock, random }, slowest) {
    this.#clock = clock;
    this.#random = random;
    this.#slowest = slowest;
  }

  carry(message, deliver) {
    const whole = structuredClone(message);
    const { time, environment } = this.#clock;
    this.#freeAt = Math.max(this.#freeAt, time + this.#random() * this.#slowest);
    environment.setTimeout(() => this.#open && deliver(whole), this.#freeAt - time);
  }

  close() {
    this.#open = false;
  }
}

/** The server: each user's inbox, tasks and room, and the connections. */
class Server {
  users = new Map();
  links = new Set();
  #serial = 0;
  #world;

  constructor(world) {
    this.#world = world;
  }

  of(name) {
    if (!this.users.has(name)) this.users.set(name, { acked: 0, inbox: [], tasks: new Map(), room: [] });
    return this.users.get(name);
  }

  notify(to, type = 'user_notification', data = {}) {
    const { inbox } = this.of(to);
    const push = { type, channel: `user:${to}`, data: { to, ...data }, offset: inbox.length + 1, epoch: `of ${to}`, messageId: `m${++this.#serial}` };
    inbox.push(push);
    this.#push(to, push);
    return push.messageId;
  }

  progress(to) {
    const { tasks } = this.of(to);
    const state = { taskId: `${to}'s`, userId: to, to, status: 'running', percentage: 1, version: (tasks.get(to)?.version ?? 0) + 1, createdAt: 1 };
    tasks.set(to, state);
    this.#push(to, { type: 'task_progress', channel: `task:${state.taskId}`, data: state, messageId: `m${++this.#serial}` });
  }

  /** Something is said in a user's room. */
  chat(to) {
    const { room } = this.of(to);
    const push = { type: 'said', channel: `room:${to}`, data: { to }, offset: room.length + 1, epoch: `room of ${to}`, messageId: `m${++this.#serial}` };
    room.push(push);
    for (const link of this.links) if (link.channels.has(push.channel)) link.send(push);
    return push.messageId;
  }

  #push(to, push) {
    for (const link of this.links) if (link.user === to) link.send(push);
  }

  receive(link, { type, id, data }) {
    const answer = (reply, body) => link.send({ type: reply, id, data: body });
    if (type === 'auth') return this.#auth(link, data, answer);
    if (type === 'ping') return answer('pong', { timestamp: this.#world.clock.time });
    const user = this.of(link.user);
    if (type === 'ack') user.acked = Math.max(user.acked, data.offset);
    if (type === 'subscribe') return answer('subscription_success', this.#subscribe(link, data.channels));
    if (type === 'unsubscribe') {
      for (const channel of data.channels) link.channels.delete(channel);
      return answer('unsubscription_success', { channels: [...link.channels], rejected: {} });
    }
    if (type === 'history') return answer('history', { ...this.#after(data.since), epoch: `room of ${link.user}` });
    answer(`${type}_success`, { user: link.user, offset: user.acked });
  }

  #after({ offset, epoch }) {
    const { room } = this.of(epoch.slice('room of '.length));
    return { messages: room.slice(offset), offset: room.length };
  }

  #subscribe(link, items) {
    const [results, rejected] = [{}, {}];
    for (const item of items) {
      const { channel = item, since } = item;
      const epoch = `room of ${link.user}`;
      if (channel !== `room:${link.user}`) {
        rejected[channel] = { code: 'PERMISSION_DENIED', message: 'not your room' };
        continue;
      }
      link.channels.add(channel);
      const recovered = since?.epoch === epoch;
      results[channel] = { recovered, epoch, ...(recovered ? this.#after(since) : { messages: [], offset: this.of(link.user).room.length }) };
    }
    return { channels: [...link.channels], results, rejected };
  }

  #auth(link, { token, positions = {} }, answer) {
    const { sub, exp } = claimsOf(token);
    if (exp <= this.#world.clock.time) {
      if (link.user) return answer('error', { code: 'TOKEN_EXPIRED', message: 'it has expired' });
      answer('auth_failed', { code: 'TOKEN_EXPIRED', message: 'it has expired' });
      return link.end(3005);
    }
    if (link.user && link.user !== sub) return answer('error', { code: 'PERMISSION_DENIED', message: 'another user' });
    const first = !link.user;
    link.user = sub;
    link.expiresAt = exp;
    const { inbox, acked, tasks } = this.of(sub);
    const epoch = `of ${sub}`;
    answer('auth_success', {
      connectionId: `c${++this.#serial}`, userId: sub, permissions: [], channels: [`user:${sub}`], results: {},
      heartbeat: { interval: 5000, timeout: 3000 }, expiresAt: exp, tasks: [...tasks.values()],
      inbox: { offset: inbox.length, epoch, acked, pending: inbox.length - acked },
    });
    if (!first) return;
    const since = positions[`user:${sub}`]?.offset ?? acked;
    for (const push of inbox.slice(since)) link.send(push);
  }
}

/** The WebSocket of a world; `opened` gets each. */
const socketOf = (world, opened) => class {
  constructor() {
    opened.push(this);
    const [there, back] = [new Way(world, 80), new Way(world, 80)];
    const link = {
      user: null,
      channels: new Set(),
      send: (message) => back.carry(message, (whole) => this.onmessage?.({ data: JSON.stringify(whole) })),
      end: (code) => {
        world.server.links.delete(link);
        there.close();
        back.carry(null, () => this.onclose?.({ code, reason: '' }));
      },
    };
    Object.assign(this, { link, there, back });
    there.carry(null, () => {
      world.server.links.add(link);
      back.carry(null, () => this.onopen?.({}));
    });
  }

  send(text) {
    this.there.carry(JSON.parse(text), (whole) => world.server.receive(this.link, whole));
  }

  close() {
    world.server.links.delete(this.link);
    this.there.close();
    this.back.close();
  }
};

/** Two ports, as of a MessageChannel, each with a `close` that loses what it has sent and that has not arrived. */
function ports(world) {
  const make = () => ({ onmessage: null });
  const [one, other] = [make(), make()];
  for (const [from, to] of [[one, other], [other, one]]) {
    const way = new Way(world, 40);
    from.postMessage = (message) => way.carry(message, (data) => to.onmessage?.({ data }));
    from.close = () => way.close();
  }
  return [one, other];
}

/** A tab, and the application in it: it signs in as whomever its session says, and notes what it is shown. */
export class Tab {
  /** Whom the newest token names that the application gave the client. */
  user = null;
  shown = [];
  wrong = [];
  #world;
  #sockets = [];
  #source = null;
  #stay = 0;
  #room = null;

  constructor(world, shared) {
    this.#world = world;
    this.shared = shared;
    const { clock, random } = world;
    const WebSocket = socketOf(world, this.#sockets);
    const options = { url: 'ws://push.test/ws', token: this.#callback(), transports: ['websocket'], ackDelay: 50 };
    if (shared) {
      this.client = createSharedClient({ ...options, open: () => this.#toWorker() });
    } else {
      this.client = createClient({ ...options, environment: { WebSocket, random, ...clock.environment, ...fakePage() } });
    }
    for (const type of ['user_notification', 'task_progress']) this.client.on(type, ({ data, messageId }) => this.#show(data.to, messageId));
    this.client.connect().catch(() => {});
  }

  /** What it shows of somebody else than the token's user. */
  check() {
    const { userId, tasks } = this.client.getState();
    const seen = [userId, ...[...tasks.values()].map((task) => task.userId)];
    for (const user of seen) if (user && user !== this.user) this.wrong.push(`state of ${user} for ${this.user}${this.shared ? ', shared' : ''}`);
  }

  signIn(user, asText) {
    this.#world.session = user;
    this.#source = null;
    this.client.setToken(asText ? this.#give(user, null) : this.#callback());
    this.client.connect().catch(() => {});
  }

  signOut() {
    this.client.resetState();
    this.user = null;
  }

  /** Leaves, and forgets nothing. At what a callback gives that is asked by then nobody looks any more. */
  disconnect() {
    this.client.disconnect();
    this.#stay += 1;
  }

  visit(name) {
    this.#room?.unsubscribe();
    this.#room = this.client.subscribeChannel(`room:${name}`, ({ data, messageId }) => this.#show(data.to, messageId));
  }

  leave() {
    this.#room?.unsubscribe();
    this.#room = null;
  }

  /** Asks something of its user's own. */
  ask() {
    const { userId } = this.client.getState();
    if (!userId) return;
    this.client.request('who', {}).then(({ user }) => user !== userId && this.wrong.push(`answer of ${user} for ${userId}`), () => {});
  }

  /** The page is gone, and all that ran in it. */
  close() {
    this.gone = true;
    this.client.disconnect();
    for (const socket of this.#sockets) socket.close();
  }

  #callback() {
    const callback = async () => {
      const stay = this.#stay;
      await new Promise((resolve) => this.#world.clock.environment.setTimeout(resolve, this.#world.random() * 60));
      return this.#give(this.#world.session, stay === this.#stay && callback);
    };
    this.#source = callback;
    return callback;
  }

  /** A token for this user. Where the client was given another source meanwhile, it will not look at it. */
  #give(user, source) {
    if (source === this.#source) this.user = user;
    const { time } = this.#world.clock;
    // A string ends within the walk, most times.
    const life = source !== null ? 20_000 + this.#world.random() * 60_000 : 2000 + this.#world.random() * 15_000;
    return tokenOf(user, { iat: time, exp: time + life, jti: this.#world.random() });
  }

  #show(to, messageId) {
    if (this.gone) return;
    this.shown.push(messageId);
    if (to !== this.user) this.wrong.push(`message of ${to} for ${this.user}${this.shared ? ', shared' : ''}`);
  }

  #toWorker() {
    const { worker } = this.#world;
    const [here, there] = ports(this.#world);
    worker.ports.push(here, there);
    worker.exchange.accept(there);
    return { port: here, lock: null, release: () => {}, died: worker.died };
  }
}

/** A shared worker: it outlives its tabs here, as it may, and can be killed. */
class Worker {
  ports = [];
  #sockets = [];
  #isAlive = true;
  #end;
  #clock;

  constructor(world) {
    const { clock, random } = world;
    this.#clock = clock;
    this.died = new Promise((resolve) => (this.#end = resolve));
    const run = (act) => (...values) => this.#isAlive && act(...values);
    const { setTimeout } = clock.environment;
    const environment = {
      ...clock.environment, random, window: undefined, document: undefined,
      WebSocket: socketOf(world, this.#sockets),
      setTimeout: (act, delay) => setTimeout(run(act), delay),
    };
    this.exchange = new Exchange((options) => createClient({ ...options, environment }));
  }

  kill(after) {
    this.#isAlive = false;
    for (const port of this.ports) port.close();
    for (const socket of this.#sockets) socket.close();
    this.#clock.environment.setTimeout(this.#end, after);
  }
}

/** Everything that one seed chooses. */
export class World {
  clock = new Clock();
  session = 'alice';
  tabs = [];

  constructor(seed) {
    this.random = source(seed);
    this.server = new Server(this);
    this.worker = new Worker(this);
  }

  pick(values) {
    return values[Math.floor(this.random() * values.length)];
  }

  open(shared) {
    this.tabs.push(new Tab(this, shared));
  }

  close(tab) {
    this.tabs.splice(this.tabs.indexOf(tab), 1);
    tab.close();
  }

  /** The browser ends the worker; its tabs are told a little later. */
  crash() {
    this.worker.kill(this.random() * 100);
    this.worker = new Worker(this);
  }

  /** The server ends the connections whose tokens have ended. */
  expire() {
    for (const link of [...this.server.links]) if (link.expiresAt <= this.clock.time) link.end(3005);
  }
}
