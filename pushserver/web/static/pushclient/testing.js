/**
 * For tests of applications: a server inside the test, and real clients that speak to it. Nothing leaves the process.
 *
 *   const fake = new FakeServer({ userId: '42' });
 *   const client = fake.create();                       // or: configure({ create: fake.create })
 *   await client.connect();
 *   fake.push({ type: 'user_notification', data: { title: 'Hello' } });
 *   fake.sent                                           // what the application sent: [{ type, data }, …]
 *
 * The clients are those of `createClient`; all that is not real is the WebSocket and the storage.
 */
import { PushClient, PushError } from './index.js';

const EPOCH = 'fake';
const OUTPUT_EPOCH = 'output';
const LONG = 3_600_000;
const FINAL = ['completed', 'failed', 'cancelled'];

/** What this fake answers where the test says nothing else: the type of the reply, and its data. */
const REPLIES = {
  ping: ['pong', (data) => ({ ...data, timestamp: Date.now() })],
  publish: ['published', ({ messageId }) => ({ messageId })],
  chat_message: ['message_sent', ({ messageId }) => ({ messageId, delivered: 1, queued: false })],
  ack: ['ack_success', ({ offset }) => ({ offset })],
  history: ['history', () => ({ messages: [], offset: 0, epoch: EPOCH, more: false })],
  presence: ['presence', () => ({ users: [], total: 0 })],
  inbox: ['inbox', (data, fake) => fake._page(data)],
  inbox_read: ['inbox_read_success', ({ read = true, ...data }, fake, link) =>
    fake._change({ ...data, readAt: read ? Date.now() : null }, link)],
  inbox_delete: ['inbox_delete_success', (data, fake, link) => fake._change({ ...data, deleted: true }, link)],
  task_get: ['task', ({ taskId }, fake) => fake._task(taskId)],
  task_cancel: ['task', ({ taskId }, fake) => ({ ...fake._task(taskId), cancelRequested: true })],
  subscribe: ['subscription_success', ({ channels }, fake) => fake._subscribe(channels)],
  task_subscribe: ['subscription_success', ({ taskId }, fake) => fake._subscribe([`task:${taskId}`])],
  unsubscribe: ['unsubscription_success', ({ channels }, fake) => fake._unsubscribe(channels)],
};

/** The client's housekeeping, which no application asked for. */
const OWN = ['auth', 'ping', 'ack'];

export class FakeServer {
  /** Every message of the application, in order: `{type, data}`. */
  sent = [];
  /** The channels that it is subscribed to. */
  channels = new Set();
  /** Offset up to which the inbox is acknowledged. */
  acked = 0;
  /** Whether a client gets through; false: every attempt to connect fails. */
  isUp = true;

  #clients = new Set();
  #links = new Set();
  #replies;
  #rejected;
  #tasks = new Map();
  /** By channel: what was written, as bytes or as items, and whether it is closed. */
  #outputs = new Map();
  #waiting = [];
  /** By user, newest first. */
  #inboxes = new Map();
  #offset = 0;
  #serial = 0;

  /**
   * `userId`: who signs in. `permissions`, `tasks`: as `auth_success` has them. `pushes`: come after the first sign-in.
   * `replies`: by type of request, the data of the reply, or a function `(data) => data`, whose `PushError` is the answer.
   * `rejected`: by channel, the code with which a subscription is refused.
   */
  constructor({ userId = '42', permissions = [], tasks = [], pushes = [], replies = {}, rejected = {} } = {}) {
    this.userId = userId;
    this.permissions = permissions;
    this.#replies = new Map(Object.entries(replies));
    this.#rejected = rejected;
    for (const task of tasks) this.#keep(task);
    for (const push of pushes) this.push(push);
    /** Makes a client of this server: for `createClient`'s place, and React's `create`. */
    this.create = (options = {}) => this.#create(options);
  }

  /** The data of every message of one type that the application sent. */
  sentOf(type) {
    return this.sent.filter((message) => message.type === type).map(({ data }) => data);
  }

  /** From now on this answers requests of a type: data, or a function `(data) => data` that may throw a `PushError`. */
  reply(type, answer) {
    this.#replies.set(type, answer);
  }

  /**
   * Sends a push: its `type` ('message') and `data`; `channel` is the user's own where none is given. While nobody is signed
   * in it waits for the next sign-in. When this returns, the handlers were called.
   */
  push({ type = 'message', data = null, channel = `user:${this.userId}`, ...rest }) {
    const push = { type, channel, data, timestamp: Date.now(), messageId: `fake-${++this.#serial}`, ...rest };
    if (channel.startsWith('user:') && push.offset === undefined) Object.assign(push, { offset: ++this.#offset, epoch: EPOCH });
    if (push.epoch === EPOCH) this.#inboxes.set(channel, [{ readAt: null, ...push }, ...(this.#inboxes.get(channel) ?? [])]);
    const links = this.#signedIn();
    if (links.length === 0) this.#waiting.push(push);
    for (const link of links) link.receive(push);
    return push;
  }

  /** The messages of the inbox, newest first, with `readAt`. */
  get inbox() {
    return [...(this.#inboxes.get(this.#own()[1]) ?? [])];
  }

  /** Another device of the user marks messages of the inbox as read. */
  markRead(offsets) {
    this._change({ offsets, epoch: EPOCH, readAt: Date.now() });
  }

  /** Another device of the user deletes messages of the inbox. */
  deleteFromInbox(offsets) {
    this._change({ offsets, epoch: EPOCH, deleted: true });
  }

  /** Brings a task to a state: what is given changes, the rest stays. The push has the type that fits its status. */
  task(state) {
    const oldStatus = this.#tasks.get(state.taskId)?.status;
    const task = this.#keep(state);
    const { taskId, status } = task;
    // The end of a task is a message of its user's inbox.
    const channel = FINAL.includes(status) ? `user:${task.userId}` : `task:${taskId}`;
    if (oldStatus === undefined) this.push({ type: 'task_created', channel, data: task });
    else if (oldStatus === status) this.push({ type: 'task_progress', channel, data: task });
    else if (status === 'completed' || status === 'failed') this.push({ type: `task_${status}`, channel, data: task });
    else this.push({ type: 'task_status_changed', channel, data: { ...task, oldStatus, newStatus: status } });
    return task;
  }

  /** What a task writes to one of its outputs: `text`, or `items`; `closed`: nothing follows. */
  output(taskId, { name = 'main', text, items, closed = false } = {}) {
    const channel = `output:${name}/${taskId}`;
    const parts = items ?? [...new TextEncoder().encode(text ?? '')];
    const output = this.#outputs.get(channel) ?? { isText: !items, parts: [], closed };
    output.parts.push(...parts);
    output.closed = closed;
    this.#outputs.set(channel, output);
    if (!this.channels.has(channel)) return;
    const data = { ...(text && { text }), ...(items && { items }), ...(closed && { closed }) };
    this.push({ type: 'output', channel, data, offset: output.parts.length, epoch: OUTPUT_EPOCH });
  }

  /** Cuts every connection, as a network does, or closes it with a code of the server's. */
  drop(code = 1006, reason = '') {
    for (const link of [...this.#links]) link.end(code, reason);
  }

  /** Disconnects every client that it made: for the end of a test. */
  close() {
    for (const client of this.#clients) client.disconnect();
    this.#clients.clear();
  }

  _page({ limit = 50, before, unread: filtered = false }) {
    const found = this.inbox.filter(({ offset, readAt }) => !(offset >= before?.offset) && !(filtered && readAt));
    const messages = found.slice(0, limit);
    return { messages, more: messages.length < found.length, unread: this.#unread(), offset: this.#offset, epoch: EPOCH };
  }

  /** Changes messages, and tells every connection but the one that asked for it. */
  _change({ offsets, upTo, epoch, readAt, deleted }, asking) {
    if (epoch !== EPOCH) throw new PushError('CONFLICT', 'the epoch is another one by now');
    if (!offsets === (upTo === undefined)) throw new PushError('INVALID_MESSAGE', 'either offsets or upTo');
    const concerned = this.inbox.filter(({ offset }) => (offsets ? offsets.includes(offset) : offset <= upTo));
    const own = this.#own()[1];
    if (deleted) this.#inboxes.set(own, this.inbox.filter((each) => !concerned.includes(each)));
    else for (const each of concerned) each.readAt = readAt && (each.readAt ?? readAt);
    const unread = this.#unread();
    const data = { offsets, upTo, epoch, readAt, deleted, unread };
    const push = { type: 'inbox_changed', channel: own, data, timestamp: Date.now(), messageId: `fake-${++this.#serial}` };
    for (const link of this.#signedIn()) if (link !== asking) link.receive(push);
    return { ...(deleted && { deleted: concerned.length }), unread };
  }

  _task(taskId) {
    const task = this.#tasks.get(taskId);
    if (!task) throw new PushError('NOT_FOUND', 'no such task');
    return task;
  }

  _subscribe(items) {
    const results = {};
    const rejected = {};
    for (const item of items) {
      const channel = item.channel ?? item;
      const taskId = channel.startsWith('task:') ? channel.slice(5) : null;
      const code = this.#rejected[channel] ?? (taskId && !this.#tasks.has(taskId) ? 'NOT_FOUND' : undefined);
      if (code) {
        rejected[channel] = { code, message: `${channel} is refused by the test` };
        continue;
      }
      if (!this.#own().includes(channel)) this.channels.add(channel);
      if (channel.startsWith('output:')) results[channel] = { output: this.#told(channel, item.since) };
      else results[channel] = taskId ? { task: this.#tasks.get(taskId) } : {};
    }
    return { channels: this.#subscribed(), results, rejected };
  }

  _unsubscribe(channels) {
    for (const channel of channels) this.channels.delete(channel);
    return { channels: this.#subscribed(), rejected: {} };
  }

  _signIn() {
    return {
      connectionId: `fake-${++this.#serial}`,
      userId: this.userId,
      permissions: this.permissions,
      channels: this.#own(),
      results: {},
      heartbeat: { interval: LONG, timeout: LONG },
      node: 'fake',
      inbox: {
        offset: this.#offset, epoch: EPOCH, acked: this.acked, pending: this.#waiting.length, unread: this.#unread(),
      },
      tasks: [...this.#tasks.values()].filter(({ status }) => !FINAL.includes(status)),
    };
  }

  #told(channel, since) {
    const { isText, parts, closed } = this.#outputs.get(channel) ?? { isText: true, parts: [], closed: false };
    const kept = parts.slice(since?.epoch === OUTPUT_EPOCH ? since.offset : 0);
    const told = isText ? { text: new TextDecoder().decode(new Uint8Array(kept)) } : { items: kept };
    const kind = parts.length === 0 ? null : isText ? 'text' : 'items';
    return { ...told, offset: parts.length, epoch: OUTPUT_EPOCH, start: 0, closed, kind };
  }

  #signedIn() {
    return [...this.#links].filter((link) => link.isSignedIn);
  }

  #unread() {
    const unread = { notification: 0, chat: 0, task: 0 };
    for (const { type, data, readAt } of this.inbox) {
      const isTask = type.startsWith('task_') && FINAL.includes(data?.status);
      if (!readAt) unread[isTask ? 'task' : type === 'chat_message' ? 'chat' : 'notification'] += 1;
    }
    return unread;
  }

  #own() {
    return ['system', `user:${this.userId}`];
  }

  #subscribed() {
    return [...this.#own(), ...this.channels].sort();
  }

  #keep({ taskId, ...given }) {
    const now = Date.now();
    const before = this.#tasks.get(taskId) ?? {
      taskId, userId: this.userId, title: taskId, status: 'running', percentage: 0, attempt: 1, version: 0, createdAt: now,
    };
    const whole = given.status === 'completed' && { percentage: 100 };
    const task = { ...before, ...whole, ...given, version: before.version + 1, updatedAt: now };
    this.#tasks.set(taskId, task);
    return task;
  }

  #create({ environment, ...options }) {
    const fake = this;
    const storage = { getItem: () => null, setItem() {}, removeItem() {} };
    const client = new PushClient({
      token: 'fake',
      // A test does not wait for a herd to spread.
      reconnectInterval: 1,
      maxReconnectInterval: 1,
      lossWindow: 1,
      ackDelay: 0,
      ...Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)),
      url: 'ws://fake.test/ws',
      transports: ['websocket'],
      environment: {
        storage,
        ...environment,
        WebSocket: class {
          constructor() {
            return fake.#open();
          }
        },
      },
    });
    this.#clients.add(client);
    return client;
  }

  /** A WebSocket whose other end is this. What it is sent is answered once the caller is done, never within its call. */
  #open() {
    const socket = {
      isSignedIn: false,
      send: (text) => queueMicrotask(() => this.#receive(socket, JSON.parse(text))),
      close: () => this.#links.delete(socket),
      receive: (message) => socket.onmessage?.({ data: JSON.stringify(message) }),
      end: (code, reason) => {
        this.#links.delete(socket);
        socket.onclose?.({ code, reason });
      },
    };
    queueMicrotask(() => {
      if (!this.isUp) return socket.end(1006, '');
      this.#links.add(socket);
      return socket.onopen?.({});
    });
    return socket;
  }

  #receive(socket, { type, id, data = {} }) {
    if (!this.#links.has(socket)) return;
    this.#record(type, data);
    if (type === 'ack') this.acked = Math.max(this.acked, data.offset);
    const answer = (reply, body) => socket.receive({ type: reply, ...(id !== undefined && { id }), data: body });
    let reply;
    try {
      reply = this.#answer(type, data, socket);
    } catch (error) {
      if (!(error instanceof PushError)) throw error;
      const { code, message, retryAfter } = error;
      answer(type === 'auth' ? 'auth_failed' : 'error', { code, message, ...(retryAfter && { retryAfter }) });
      if (type === 'auth') socket.end(code === 'TOKEN_EXPIRED' ? 3005 : code === 'UNAVAILABLE' ? 3004 : 3500, code);
      return;
    }
    answer(...reply);
    if (type !== 'auth') return;
    socket.isSignedIn = true;
    for (const push of this.#waiting.splice(0)) socket.receive(push);
  }

  /** Without what the client does by itself: its housekeeping, and the channels that every user has. */
  #record(type, data) {
    if (OWN.includes(type)) return;
    if (type !== 'subscribe' && type !== 'unsubscribe') return void this.sent.push({ type, data });
    const own = this.#own();
    const channels = data.channels.filter((item) => !own.includes(item.channel ?? item));
    if (channels.length > 0) this.sent.push({ type, data: { ...data, channels } });
  }

  #answer(type, data, link) {
    const scripted = this.#replies.get(type);
    const [kind, usual] = type === 'auth' ? ['auth_success', () => this._signIn()] : (REPLIES[type] ?? [type]);
    const given = typeof scripted === 'function' ? scripted(data) : scripted;
    if (given !== undefined) return [kind, type === 'auth' ? { ...usual(data, this), ...given } : given];
    if (!usual) throw new PushError('UNKNOWN_MESSAGE_TYPE', `the test gives no reply to ${type}: fake.reply('${type}', …)`);
    return [kind, usual(data, this, link)];
  }
}
