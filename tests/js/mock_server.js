// A small server that keeps the protocol's promises, for the client's tests: sign-in, channels with history and
// positions, an inbox with a cursor, tasks, the event stream, and every way to misbehave that a test asks for.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The sources, or what is packed. */
const STATIC = process.env.PUSHCLIENT ? join(process.env.PUSHCLIENT, '..') : fileURLToPath(new URL('../../pushserver/web/static', import.meta.url));

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { WebSocketServer } = require('ws');

let serial = 0;

export class MockServer {
  constructor(options = {}) {
    this.options = { interval: 25000, timeout: 10000, websocket: true, sse: true, ...options };
    this.epoch = 'e1';
    this.channels = new Map();
    this.inboxes = new Map();
    this.tasks = new Map();
    this.links = new Set();
    this.received = [];
    this.handshakes = 0;
    this.isAway = false;
    this.messageIds = new Map();
    this.userOf = (token) => token.split('.')[0];
    this.refuse = () => null;
    /** The code with which a subscription with this token is refused, if it is. */
    this.judge = () => null;
    this.reply = () => undefined;
  }

  async start() {
    this.http = createServer((request, response) => this.#http(request, response));
    this.sockets = new Set();
    this.http.on('connection', (socket) => {
      if (this.isAway) return void socket.destroy();
      this.sockets.add(socket);
      socket.on('close', () => this.sockets.delete(socket));
    });
    this.wss = new WebSocketServer({ noServer: true, handleProtocols: (set) => (set.has('pushserver.v1.json') ? 'pushserver.v1.json' : false) });
    this.http.on('upgrade', (request, socket, head) => {
      this.handshakes += 1;
      if (!this.options.websocket) {
        socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
        return;
      }
      // As behind a proxy that lets the handshake through and nothing after it.
      const silent = this.options.websocket === 'silent';
      this.wss.handleUpgrade(request, socket, head, (ws) => (silent ? ws.on('error', () => {}) : this.#accept(ws)));
    });
    await new Promise((resolve) => this.http.listen(0, '127.0.0.1', resolve));
    this.port = this.http.address().port;
    this.url = `ws://127.0.0.1:${this.port}/ws`;
    return this;
  }

  /** Gone at once, as a killed process is: no close frames, and no connection gets through. The port stays its own. */
  leave() {
    this.isAway = true;
    for (const socket of this.sockets) socket.destroy();
    this.links.clear();
  }

  comeBack() {
    this.isAway = false;
  }

  async stop() {
    this.leave();
    await new Promise((resolve) => this.http.close(resolve));
  }

  close(code, reason = '') {
    for (const link of this.links) link.close(code, reason);
  }

  publish(channel, data, { type = 'message', messageId = `m${++serial}`, from } = {}) {
    const push = { type, channel, data, timestamp: Date.now(), messageId, ...(from && { from }) };
    const kept = this.channels.get(channel);
    if (kept) {
      kept.offset += 1;
      Object.assign(push, { offset: kept.offset, epoch: this.epoch });
      kept.messages.push(push);
    }
    for (const link of this.links) if (link.channels.has(channel)) link.send(push);
    return push;
  }

  keep(...names) {
    for (const name of names) this.channels.set(name, { offset: 0, messages: [] });
  }

  inbox(userId) {
    if (!this.inboxes.has(userId)) this.inboxes.set(userId, { offset: 0, acked: 0, messages: [] });
    return this.inboxes.get(userId);
  }

  notify(userId, data, { type = 'user_notification', channel = `user:${userId}` } = {}) {
    const inbox = this.inbox(userId);
    inbox.offset += 1;
    const push = { type, channel, data, timestamp: Date.now(), messageId: `n${++serial}`, offset: inbox.offset, epoch: this.epoch };
    inbox.messages.push({ ...push, readAt: null });
    for (const link of this.links) if (link.userId === userId) link.send(push);
    return push;
  }

  task(state, { type = 'task_progress' } = {}) {
    this.tasks.set(state.taskId, state);
    const final = ['completed', 'failed', 'cancelled'].includes(state.status);
    if (final) return this.notify(state.userId, state, { type, channel: `task:${state.taskId}` });
    const push = { type, channel: `task:${state.taskId}`, data: state, timestamp: Date.now(), messageId: `t${++serial}` };
    for (const link of this.links) if (link.userId === state.userId || link.channels.has(push.channel)) link.send(push);
    return push;
  }

  unread(userId) {
    const unread = { notification: 0, chat: 0, task: 0 };
    for (const { type, readAt } of this.inbox(userId).messages) {
      if (readAt === null) unread[type === 'chat_message' ? 'chat' : type.startsWith('task_') ? 'task' : 'notification'] += 1;
    }
    return unread;
  }

  /** A page of an inbox, newest first. */
  page(userId, { limit = 50, before, unread = false }) {
    const { offset, messages } = this.inbox(userId);
    const found = messages.filter((each) => each.offset < (before?.offset ?? Infinity) && !(unread && each.readAt !== null)).reverse();
    return { messages: found.slice(0, limit), more: found.length > limit, unread: this.unread(userId), offset, epoch: this.epoch };
  }

  /** Marks or deletes messages, and tells every connection of the user but `except`. Returns how many there were. */
  change(userId, { offsets, upTo, readAt, deleted }, except) {
    const inbox = this.inbox(userId);
    const concerned = inbox.messages.filter(({ offset }) => (offsets ? offsets.includes(offset) : offset <= upTo));
    if (deleted) inbox.messages = inbox.messages.filter((each) => !concerned.includes(each));
    else for (const each of concerned) each.readAt = readAt && (each.readAt ?? readAt);
    const data = { offsets, upTo, epoch: this.epoch, readAt, deleted, unread: this.unread(userId) };
    const push = { type: 'inbox_changed', channel: `user:${userId}`, data, timestamp: Date.now(), messageId: `x${++serial}` };
    for (const link of this.links) if (link.userId === userId && link !== except) link.send(push);
    return concerned.length;
  }

  of(type) {
    return this.received.filter((message) => message.type === type);
  }

  #accept(ws) {
    const link = { id: `c${++serial}`, channels: new Set(), userId: null, open: true };
    link.send = (message) => ws.send(JSON.stringify(message));
    link.close = (code, reason) => ws.close(code, reason);
    link.socket = ws._socket;
    this.links.add(link);
    ws.on('message', (text) => this.#message(link, JSON.parse(text)));
    ws.on('close', () => this.links.delete(link));
    ws.on('error', () => {});
  }

  #message(link, message) {
    this.received.push(message);
    const { type, id, data = {} } = message;
    const answer = (kind, body) => link.send({ type: kind, ...(id !== undefined && { id }), data: body });
    const own = this.reply(message, link);
    if (own === null) return;
    if (own !== undefined) return void answer(own.type, own.data);
    if (type === 'auth') return this.#auth(link, data, answer);
    if (type === 'ping') return answer('pong', { ...data, timestamp: Date.now() });
    if (link.userId === null && !this.options.anonymous) return answer('error', { code: 'NOT_AUTHENTICATED', message: 'sign in first' });
    if (type === 'subscribe') return answer('subscription_success', this.#subscribe(link, data.channels));
    if (type === 'unsubscribe') {
      for (const channel of data.channels) link.channels.delete(channel);
      return answer('unsubscription_success', { channels: [...link.channels].sort(), rejected: {} });
    }
    if (type === 'publish') {
      const first = this.messageIds.get(data.messageId);
      if (first) return answer('published', { ...first, duplicate: true });
      const push = this.publish(data.channel, data.data, { type: data.messageType, messageId: data.messageId, from: link.userId });
      const result = { messageId: push.messageId, ...(push.offset && { offset: push.offset, epoch: push.epoch }) };
      this.messageIds.set(data.messageId, result);
      return answer('published', result);
    }
    if (type === 'ack') {
      const inbox = this.inbox(link.userId);
      inbox.acked = Math.max(inbox.acked, data.offset);
      return answer('ack_success', { offset: inbox.acked });
    }
    if (type.startsWith('inbox') && (data.before ?? data).epoch !== undefined && (data.before ?? data).epoch !== this.epoch) {
      return answer('error', { code: 'CONFLICT', message: 'another epoch' });
    }
    if (type === 'inbox') return answer('inbox', this.page(link.userId, data));
    if (type === 'inbox_read') {
      this.change(link.userId, { ...data, readAt: data.read === false ? null : Date.now() }, link);
      return answer('inbox_read_success', { unread: this.unread(link.userId) });
    }
    if (type === 'inbox_delete') {
      const deleted = this.change(link.userId, { ...data, deleted: true }, link);
      return answer('inbox_delete_success', { deleted, unread: this.unread(link.userId) });
    }
    if (type === 'history' && data.since && data.since.epoch !== this.epoch) {
      return answer('error', { code: 'CONFLICT', message: 'the epoch is another one by now' });
    }
    if (type === 'history') {
      const kept = data.channel.startsWith('user:') ? this.inbox(link.userId) : this.channels.get(data.channel);
      const messages = (kept?.messages ?? []).filter(({ offset }) => offset > (data.since?.offset ?? 0));
      return answer('history', { messages: messages.map((push) => ({ ...push, epoch: this.epoch })), offset: kept?.offset ?? 0, epoch: this.epoch });
    }
    if (type === 'task_get') return answer('task', this.tasks.get(data.taskId));
    return answer('error', { code: 'UNKNOWN_MESSAGE_TYPE', message: type });
  }

  #auth(link, { token, positions = {} }, answer) {
    const refusal = this.refuse(token, link);
    if (refusal && (link.userId === null || refusal.close)) {
      answer('auth_failed', { code: refusal.code, message: refusal.code });
      link.close(refusal.close ?? 3500, refusal.code);
      return;
    }
    if (refusal) return void answer('error', { code: refusal.code, message: refusal.code });
    const first = link.userId === null;
    link.userId = this.userOf(token);
    answer('auth_success', this.#welcome(link, positions));
    if (first) this.#replay(link, positions[`user:${link.userId}`]);
  }

  #welcome(link, positions) {
    const inbox = this.inbox(link.userId);
    const channels = [`user:${link.userId}`, 'system'];
    for (const channel of channels) link.channels.add(channel);
    const results = {};
    if (positions.system && this.channels.has('system')) results.system = this.#result('system', positions.system);
    return {
      connectionId: link.id,
      userId: link.userId,
      permissions: [],
      expiresAt: this.options.expiresAt?.() ?? Date.now() + 3600000,
      channels,
      results,
      heartbeat: { interval: this.options.interval, timeout: this.options.timeout },
      node: 'mock',
      inbox: {
        offset: inbox.offset, epoch: this.epoch, acked: inbox.acked, pending: inbox.offset - inbox.acked,
        ...(this.options.version !== 1 && { unread: this.unread(link.userId) }),
      },
      tasks: [...this.tasks.values()].filter((task) => task.userId === link.userId && !['completed', 'failed', 'cancelled'].includes(task.status)),
    };
  }

  #replay(link, position) {
    const inbox = this.inbox(link.userId);
    const after = position?.epoch === this.epoch ? position.offset : inbox.acked;
    for (const push of inbox.messages) if (push.offset > after) link.send(push);
  }

  #result(channel, since) {
    if (channel.startsWith('task:')) return { task: this.tasks.get(channel.slice(5)) };
    const kept = channel.startsWith('user:') ? this.inbox(channel.slice(5)) : this.channels.get(channel);
    if (!kept) return {};
    const first = kept.messages[0]?.offset ?? kept.offset + 1;
    const recovered = Boolean(since) && since.epoch === this.epoch && since.offset <= kept.offset && since.offset >= first - 1;
    // Of an earlier epoch of the same data.
    const stands = Boolean(since) && this.earlier?.includes(since.epoch);
    const messages = recovered || stands ? kept.messages.filter((push) => push.offset > since.offset).map((push) => ({ ...push, epoch: this.epoch })) : [];
    return { recovered, offset: kept.offset, epoch: this.epoch, messages };
  }

  #subscribe(link, entries) {
    const results = {};
    const rejected = {};
    for (const item of entries) {
      const channel = item.channel ?? item;
      if (channel.startsWith('secret:')) {
        rejected[channel] = { code: 'PERMISSION_DENIED', message: 'not for you' };
        continue;
      }
      const refusal = this.judge(channel, item.token);
      if (refusal) {
        rejected[channel] = { code: refusal, message: refusal };
        continue;
      }
      link.channels.add(channel);
      results[channel] = this.#result(channel, item.since);
    }
    return { channels: [...link.channels].sort(), results, rejected };
  }

  #http(request, response) {
    const url = new URL(request.url, 'http://mock');
    if (request.method === 'GET' && this.#file(url.pathname, response)) return;
    if (!this.options.sse) return void response.writeHead(404).end();
    if (request.method === 'GET' && url.pathname === '/sse') return this.#stream(request, response, url);
    if (request.method === 'POST' && url.pathname.startsWith('/sse/')) {
      let body = '';
      request.on('data', (chunk) => (body += chunk));
      request.on('end', () => {
        const link = [...this.links].find((each) => each.id === url.pathname.slice(5));
        if (!link) return void response.writeHead(404).end('{"error":{"code":"NOT_FOUND","message":"no such stream"}}');
        this.#message(link, JSON.parse(body));
        response.writeHead(202).end();
      });
      return;
    }
    response.writeHead(404).end();
  }

  /** The page and the client's files, as the server lays them out, under a strict content security policy. */
  #file(path, response) {
    const policy = { 'Content-Security-Policy': this.options.policy ?? "default-src 'self'; connect-src 'self' ws:" };
    if (path === '/') {
      response.writeHead(200, { 'Content-Type': 'text/html', ...policy }).end('<!doctype html><title>page</title>');
      return true;
    }
    const name = /^\/(pushclient(?:\/\w+)*\.js)$/.exec(path)?.[1];
    if (!name || this.options.refuse?.test(path)) return false;
    if (this.options.instead?.(path, response)) return true;
    const source = readFileSync(join(STATIC, name));
    response.writeHead(200, { 'Content-Type': 'text/javascript', ...policy }).end(source);
    return true;
  }

  #stream(request, response, url) {
    const token = request.headers.authorization?.slice(7) ?? '';
    const refusal = this.refuse(token);
    if (refusal) {
      response.writeHead(401, { 'Content-Type': 'application/json' });
      return void response.end(JSON.stringify({ error: { code: refusal.code, message: refusal.code } }));
    }
    const link = { id: `s${++serial}`, channels: new Set(), userId: this.userOf(token) };
    link.send = (message) => response.write(`id: ${serial}\r\ndata: ${JSON.stringify(message)}\r\n\r\n`);
    link.close = () => response.end();
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write(': welcome\n\n');
    request.on('close', () => this.links.delete(link));
    response.on('close', () => this.links.delete(link));
    const welcome = this.#welcome(link, {});
    const names = (url.searchParams.get('channels') ?? '').split(',').filter(Boolean);
    link.send({ type: 'subscription_success', data: { ...welcome, ...this.#subscribe(link, names) } });
    this.links.add(link);
    this.#replay(link);
  }
}
