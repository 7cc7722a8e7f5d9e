// A clock that stands still and a socket that does what the test says.

export class Clock {
  constructor(start = 1_700_000_000_000) {
    this.time = start;
    this.timers = new Map();
    this.serial = 0;
    this.environment = {
      now: () => this.time,
      setTimeout: (callback, delay = 0, ...values) => {
        this.timers.set(++this.serial, { at: this.time + Math.max(0, delay), run: () => callback(...values) });
        return this.serial;
      },
      clearTimeout: (timer) => this.timers.delete(timer),
    };
  }

  /** Lets `ms` pass, with every timer at its time. */
  async advance(ms) {
    const end = this.time + ms;
    await nextTurn();
    for (;;) {
      let next = null;
      let first = null;
      for (const [serial, timer] of this.timers) {
        if (timer.at <= end && (first === null || timer.at < first.at)) [next, first] = [serial, timer];
      }
      if (first === null) break;
      this.timers.delete(next);
      this.time = Math.max(this.time, first.at);
      first.run();
      await nextTurn();
    }
    this.time = end;
  }

  /** A sleep of the machine: time goes on, timers do not; then they fire late. */
  async sleep(ms) {
    this.time += ms;
    await this.advance(0);
  }
}

/** Lets every promise that can move on do so. */
export const nextTurn = () => new Promise((resolve) => setImmediate(resolve));

export class FakeSocket {
  static all = [];

  static fresh() {
    return class extends FakeSocket {
      static all = [];
    };
  }

  constructor(url, protocols) {
    Object.assign(this, { url, protocols, sent: [], closed: null });
    this.constructor.all.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code, reason) {
    this.closed ??= { code, reason };
  }

  open() {
    this.onopen?.({});
  }

  receive(type, data, more = {}) {
    this.onmessage?.({ data: JSON.stringify({ type, data, ...more }) });
  }

  drop(code = 1006, reason = '') {
    this.onclose?.({ code, reason });
  }

  of(type) {
    return this.sent.filter((message) => message.type === type);
  }

  /** Answers the last request of `type`. */
  answer(type, reply, data) {
    this.receive(reply, data, { id: this.of(type).at(-1).id });
  }
}

export const WELCOME = {
  connectionId: 'c1',
  userId: '42',
  permissions: [],
  channels: ['user:42', 'system'],
  heartbeat: { interval: 25000, timeout: 10000 },
  inbox: { offset: 0, epoch: 'i1', acked: 0, pending: 0 },
  tasks: [],
  results: {},
};

/** Targets of `online`, `visibilitychange` and their kin. */
export function fakePage() {
  const document = new EventTarget();
  document.visibilityState = 'visible';
  return { window: new EventTarget(), document };
}

/** A token that names a user, as far as a client looks at it. */
export const tokenOf = (sub, more = {}) => `h.${btoa(JSON.stringify({ sub, ...more }))}.s`;

/** What a page keeps over a reload. */
export function fakeStorage() {
  const kept = new Map();
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, String(value)),
    removeItem: (key) => void kept.delete(key),
  };
}

/** A shared worker: `open` gives a tab its port, whose other end goes to `accept`; `close` ends all `ports`. */
export function fakeWorker(accept) {
  const ports = [];
  const open = () => {
    const { port1, port2 } = new MessageChannel();
    ports.push(port1, port2);
    accept(port2);
    return { port: port1, lock: null, release: () => {} };
  };
  return { open, ports, close: () => ports.forEach((port) => port.close()) };
}

/** A client on a fake clock and fake sockets, and what a test needs to play the server. */
export function rig(createClient, options = {}) {
  const clock = new Clock();
  const Socket = FakeSocket.fresh();
  const page = fakePage();
  const { environment, ...rest } = options;
  const client = createClient({
    url: 'ws://push.test/ws',
    token: 'token-1',
    transports: ['websocket'],
    ...rest,
    environment: { WebSocket: Socket, random: () => 0.5, ...clock.environment, ...page, ...environment },
  });
  const events = [];
  for (const type of ['connect', 'disconnect', 'error', 'gap', 'recovered', 'rejected', 'subscribed', 'user_changed']) {
    client.on(type, (value) => events.push([type, value]));
  }
  const socket = () => Socket.all.at(-1);
  return {
    clock,
    Socket,
    client,
    events,
    socket,
    ...page,
    /** The events of one type, in order. */
    received: (type) => events.filter(([each]) => each === type).map(([, value]) => value),
    async welcome(more = {}) {
      socket().open();
      await nextTurn();
      socket().receive('auth_success', { ...WELCOME, expiresAt: clock.time + 3_600_000, ...more }, { id: 'auth' });
      await nextTurn();
    },
    async connect(more) {
      client.connect();
      await this.welcome(more);
      return socket();
    },
  };
}

/**
 * A line as the connection gives it to its parts, with the other end in the test's hands: what was asked stands in
 * `asked`, what was told in `told`, what was handed over in `handed`. `handlers(push)` is the application.
 */
export function fakeLine(more = {}) {
  const clock = new Clock();
  const line = {
    clock,
    now: () => clock.time,
    since: (time) => Math.abs(clock.time - time),
    serverNow: () => clock.time,
    random: () => 0.5,
    later: (delay, act) => {
      const timer = clock.environment.setTimeout(act, delay);
      return () => clock.environment.clearTimeout(timer);
    },
    link: null,
    user: { id: '42', token: null, cursors: new Map(), kept: {} },
    asked: [],
    told: [],
    handed: [],
    watched: 0,
    tasksForgotten: 0,
    ask(type, data, reply, failed) {
      // As it travels: without what is undefined.
      if (line.link) line.asked.push({ type, data: JSON.parse(JSON.stringify(data)), reply, failed });
      else failed(null);
    },
    emit: (type, value) => line.told.push([type, value]),
    handlers: () => [undefined],
    dispatch(push) {
      line.handed.push(push);
      return line.handlers(push);
    },
    applyTasks: (states) => states,
    forgetTasks: () => (line.tasksForgotten += 1),
    shown: [],
    showInbox: (inbox) => line.shown.push(inbox),
    inboxList: { add: () => {}, changed: () => {}, refresh: () => {} },
    watch: () => (line.watched += 1),
    debug: () => {},
    ...more,
  };
  return line;
}

/** A link that is signed in, as far as the connection's parts look at it. */
export function fakeLink(line) {
  const sent = [];
  return {
    kind: 'websocket',
    sent,
    send: (message) => sent.push(JSON.parse(JSON.stringify(message))),
    later: (delay, act) => void line.later(delay, act),
    transport: {},
    asked: new Map(),
    strays: new Map(),
    failure: null,
  };
}
