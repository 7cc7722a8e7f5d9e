import { Backoff } from './backoff.js';
import { CLOSE_CODE_OF, errorOf, hitsEverybody, mayReconnect, PushError } from './errors.js';
import { Inbox } from './inbox.js';
import { openEventStream, streamUrl } from './links/eventstream.js';
import { openWebSocket, webSocketUrl } from './links/websocket.js';
import { Outbox } from './outbox.js';
import { deferred, quiet } from './promises.js';
import { Session } from './session.js';
import { INITIAL } from './store.js';
import { Subscriptions } from './subscriptions.js';
import { NO_TASKS } from './tasks.js';
import { Watchdog } from './watchdog.js';

const REPLIES = new Set([
  'auth_success', 'auth_failed', 'pong', 'subscription_success', 'unsubscription_success', 'published', 'message_sent',
  'ack_success', 'history', 'presence', 'task', 'error',
]);
const PROBE_AFTER_WAKE = 5000;
const MAX_UPGRADE_AFTER = 600000;

/**
 * The connection: one link at a time, and what becomes of it.
 *
 *   idle --connect()--> connecting --open--> authenticating --auth_success--> connected
 *                           ^  |                   |                             |
 *                           |  +---------+---------+---------- lost -------------+
 *                           |            v
 *                           +--------- waiting --terminal code, disconnect()--> closed
 *
 * Everything that belongs to one link (its channels, its probe, its sign-in) hangs on that link's object. An event of
 * a link that is no longer `#link` is dropped, so an old socket can never touch the state of the new one.
 *
 * Its parts (outbox, subscriptions, inbox, session) see of it and of each other no more than the line:
 *
 *   env                          what the platform gives: now, setTimeout, clearTimeout, random, ...
 *   link                         the link that is signed in, or null
 *   userId                       whose connection it is, or null
 *   ask(type, data, reply, failed)   a request of the client's own; `failed(null)` when the link is gone
 *   emit(type, value)            tells the application one of the client's events
 *   dispatch(push, handlers)     hands a push to the application; returns the promises of its handlers
 *   applyTasks(states)           takes what is newer of these task states; returns that
 *   watch()                      sees to it that time is looked after
 */
export class Connection {
  #options;
  #env;
  #store;
  #events;
  #url;
  #wanted = false;
  #link = null;
  #userId = null;
  #opening = null;
  #retryTimer = null;
  #failuresToOpen = 0;
  #stoppedForToken = false;

  #backoff;
  #watchdog;
  #outbox;
  #subscriptions;
  #inbox;
  #session;

  constructor(options, env, store, events) {
    this.#options = options;
    this.#env = env;
    this.#store = store;
    this.#events = events;
    this.#url = options.url;
    const line = this.#line();
    this.#backoff = new Backoff(options, env);
    this.#outbox = new Outbox(line, options);
    this.#inbox = new Inbox(line, options);
    this.#subscriptions = new Subscriptions(line, this.#inbox);
    this.#session = new Session(line, options, (link, data) => this.#renewed(link, data));
    this.#watchdog = new Watchdog(env, {
      tick: () => this.#tick(),
      setBack: () => this.#setBack(),
      // In a hidden tab timers are late by rule: its link is asked, but a wait for the next attempt is not cut short.
      slept: () => (this.#link || env.document?.visibilityState !== 'hidden') && this.#woke(),
      woke: () => this.#woke(),
      offline: () => this.#link && this.#woke(),
      hidden: () => this.#inbox.flush(),
    });
  }

  get outbox() {
    return this.#outbox;
  }

  get subscriptions() {
    return this.#subscriptions;
  }

  get inbox() {
    return this.#inbox;
  }

  #line() {
    const ready = () => (this.#link?.ready ? this.#link : null);
    const userId = () => this.#userId;
    return {
      env: this.#env,
      get link() {
        return ready();
      },
      get userId() {
        return userId();
      },
      ask: (...values) => this.#outbox.ask(...values),
      emit: (type, value) => this.#events.emit(type, value),
      dispatch: (push, handlers) => this.#events.dispatch(push, handlers),
      applyTasks: (states) => this.#store.applyTasks(states),
      watch: () => this.#watchdog.isArmed || this.#arm(),
    };
  }

  // --- the calls -----------------------------------------------------------------------------------------------------

  connect(url) {
    if (url !== undefined && url !== this.#url) {
      this.#url = url;
      if (this.#wanted) this.#abandon('another url');
    }
    if (!this.#wanted) {
      this.#wanted = true;
      this.#stoppedForToken = false;
      this.#opening = deferred();
      this.#backoff.reset();
      this.#watchdog.listen();
      this.#arm();
      this.#store.set({ reconnectAttempts: 0, error: null });
    }
    this.#opening ??= deferred();
    const { promise } = this.#opening;
    if (this.#link === null) this.#attempt();
    else if (this.#link.ready) this.#opened();
    return promise;
  }

  disconnect() {
    if (!this.#wanted) return;
    this.#inbox.flush();
    this.#stop(new PushError('CLOSED', 'disconnected by the application'), 1000);
  }

  reconnect() {
    if (!this.#wanted) return this.connect();
    this.#abandon('reconnect');
    this.#store.set({ reconnectAttempts: 0 });
    return this.connect();
  }

  reset() {
    this.disconnect();
    this.#subscriptions.clear();
    this.#forgetUser();
    this.#userId = null;
    const { reconnectInterval, maxReconnectAttempts } = this.#options;
    this.#store.set({ ...INITIAL, reconnectInterval, maxReconnectAttempts });
  }

  setToken(token) {
    this.#session.token = token;
    if (this.#link?.ready) this.#session.refresh();
    else if (this.#link) quiet(this.reconnect());
    else if (this.#stoppedForToken) quiet(this.connect());
  }

  // --- links ---------------------------------------------------------------------------------------------------------

  #attempt(kind) {
    const env = this.#env;
    this.#stopWaiting();
    const { transports, sseAfter } = this.#options;
    const sse = transports.includes('sse') && typeof env.fetch === 'function';
    const chosen = kind ?? (transports.includes('websocket') && env.WebSocket ? 'websocket' : 'sse');
    const link = {
      kind: chosen,
      transport: null,
      // Where WebSocket seems to be blocked, each attempt tries it first and the event stream right after: a server
      // that was merely down is then found by WebSocket again.
      fallback: chosen === 'websocket' && sse && this.#failuresToOpen >= sseAfter - 1,
      startedAt: env.now(),
      opened: false,
      ready: false,
      token: quiet(this.#session.take()),
      failure: null,
      reconnectAfter: undefined,
      channels: new Set(),
      resuming: new Map(),
      heartbeat: { interval: 25000, timeout: 10000 },
      receivedAt: env.now(),
      probe: null,
    };
    this.#link = link;
    this.#store.set({ connectionState: 'connecting', transport: chosen });
    const ifCurrent = (run) => (...values) => {
      if (link === this.#link) run(...values);
    };
    const events = {
      opened: ifCurrent(() => this.#signIn(link)),
      message: ifCurrent((text) => this.#receive(link, text)),
      alive: ifCurrent(() => this.#alive(link)),
      closed: ifCurrent((code, reason) => this.#lost(link, code, reason)),
    };
    try {
      link.transport = chosen === 'websocket'
        ? openWebSocket(env, webSocketUrl(this.#url), events)
        : openEventStream(
          env, streamUrl(this.#options.sseUrl, this.#url), this.#subscriptions.channelsToOpen(link), link.token, events,
        );
    } catch (error) {
      // A url that cannot be opened (its syntax, mixed content) will not be better the next time.
      this.#link = null;
      this.#stop(new PushError('CLOSED', error.message));
      return;
    }
    this.#store.set({ socket: link.transport.socket });
  }

  /** Gives up the current link without a word from it. */
  #abandon(reason) {
    const link = this.#link;
    if (link) {
      this.#lost(link, 1000, reason, { retry: false });
      link.transport?.close(4001, reason);
    }
    this.#stopWaiting();
  }

  #stopWaiting() {
    this.#env.clearTimeout(this.#retryTimer);
    this.#retryTimer = null;
  }

  async #signIn(link) {
    link.opened = true;
    link.receivedAt = this.#env.now();
    if (link.kind === 'sse') return;
    this.#failuresToOpen = 0;
    this.#store.set({ connectionState: 'authenticating' });
    let token;
    try {
      token = await link.token;
    } catch (error) {
      if (link === this.#link) this.#refused(link, error);
      return;
    }
    if (link !== this.#link) return;
    if (token === null) {
      this.#welcome(link, {});
      return;
    }
    const positions = this.#subscriptions.signInPositions;
    const data = { token, ...(Object.keys(positions).length > 0 && { positions }) };
    link.transport.send(JSON.stringify({ type: 'auth', id: 'auth', data }));
  }

  /** The link cannot be used: close it from this side and treat it as lost. */
  #refused(link, error) {
    link.failure = error;
    this.#lost(link, CLOSE_CODE_OF[error.code] ?? 1006, error.message);
    link.transport?.close(4001, 'gave up');
  }

  #welcome(link, data) {
    link.ready = true;
    if (data.heartbeat) link.heartbeat = data.heartbeat;
    this.#arm();
    this.#backoff.reset();
    const userId = data.userId ?? null;
    if (this.#userId !== null && this.#userId !== userId) this.#forgetUser();
    this.#userId = userId;
    this.#subscriptions.open(data.channels ?? [], data.inbox);
    this.#store.applyTasks(data.tasks ?? []);
    this.#store.set({
      isConnected: true,
      connectionState: 'connected',
      connectionId: data.connectionId ?? null,
      userId,
      permissions: Object.freeze([...(data.permissions ?? [])]),
      reconnectAttempts: 0,
      error: null,
    });
    if (link !== this.#link) return;
    this.#session.schedule(data.expiresAt);
    this.#opened();
    const { connectionId = null, node = null, inbox = null } = data;
    this.#events.emit('connect', { connectionId, userId, transport: link.kind, node, inbox });
    if (link !== this.#link) return;
    this.#subscriptions.begin(link, data);
    this.#inbox.flush();
    this.#outbox.pump();
    if (link.kind === 'sse') this.#tryUpgrade(link, this.#options.lossWindow);
  }

  /** A refresh went well. */
  #renewed(link, data) {
    this.#store.set({ permissions: Object.freeze([...(data.permissions ?? [])]) });
    this.#subscriptions.askRefusedAgain(link);
  }

  #forgetUser() {
    this.#subscriptions.forget();
    this.#store.set(NO_TASKS);
  }

  /** Over an event stream: asks now and then whether a WebSocket opens meanwhile, and if so moves to it. */
  #tryUpgrade(link, after) {
    const { WebSocket, setTimeout, random } = this.#env;
    if (!WebSocket || !this.#options.transports.includes('websocket')) return;
    const probe = () => {
      if (link !== this.#link) return;
      const found = (opened) => {
        socket.close(1000, '');
        if (link !== this.#link) return;
        if (opened) quiet(this.reconnect());
        else this.#tryUpgrade(link, Math.min(after * 2, MAX_UPGRADE_AFTER));
      };
      const events = { opened: () => found(true), closed: () => found(false), message: () => {} };
      const socket = openWebSocket(this.#env, webSocketUrl(this.#url), events);
    };
    setTimeout(probe, after * (1 + random()));
  }

  #opened() {
    this.#opening?.resolve();
    this.#opening = null;
  }

  #lost(link, code, reason, { retry = true } = {}) {
    if (link !== this.#link) return;
    this.#link = null;
    const was = link.ready;
    this.#outbox.requeue();
    this.#session.close();
    const effective = link.failure && code < 3000 ? (CLOSE_CODE_OF[link.failure.code] ?? code) : code;
    const message = link.failure?.message || reason || `connection lost (${effective})`;
    const hopeless = effective === 3005 && !link.ready && link.failure && !this.#session.isRenewable;
    const again = retry && mayReconnect(effective) && !hopeless;
    if (effective === 3005) this.#session.expired();
    if (!link.opened && link.kind === 'websocket') this.#failuresToOpen += 1;
    this.#store.set({
      isConnected: false,
      socket: null,
      connectionId: null,
      connectionState: retry ? 'waiting' : 'connecting',
      ...(retry && { error: message }),
    });
    if (was) this.#events.emit('disconnect', { code: effective, reason: message, willReconnect: again || !retry });
    if (this.#link !== null || !this.#wanted || !retry) return;
    if (!again) {
      const error = new PushError(link.failure?.code ?? 'CLOSED', message, { closeCode: effective });
      this.#stoppedForToken = hopeless || effective === 3500;
      this.#stop(error);
    } else if (link.fallback && !link.opened) {
      this.#attempt('sse');
    } else {
      this.#waitToRetry(link, effective);
    }
  }

  #waitToRetry(link, code) {
    const { now, setTimeout } = this.#env;
    const { reconnectAttempts, error } = this.#store.getState();
    if (reconnectAttempts >= this.#options.maxReconnectAttempts) {
      this.#stop(new PushError('CLOSED', `gave up after ${reconnectAttempts} attempts: ${error}`));
      return;
    }
    if (link.ready) this.#backoff.reset(hitsEverybody(code));
    if (code === 3004 || code === 3013) this.#backoff.widen();
    const at = this.#backoff.next(link.reconnectAfter);
    this.#retryTimer = setTimeout(() => this.#retry(), Math.max(0, at - now()));
  }

  #retry() {
    if (!this.#wanted || this.#link) return;
    this.#store.set({ reconnectAttempts: this.#store.getState().reconnectAttempts + 1 });
    this.#attempt();
  }

  /** A sign that the way is free again, for this client alone: no reason to wait. */
  #hurry() {
    if (this.#retryTimer === null) return;
    this.#stopWaiting();
    this.#retry();
  }

  /** Ends it all, by the application's wish (code 1000) or because there is no way on. */
  #stop(error, closeCode) {
    const link = this.#link;
    this.#wanted = false;
    this.#link = null;
    this.#stopWaiting();
    this.#watchdog.stop();
    this.#inbox.close();
    this.#session.close();
    link?.transport?.close(closeCode ?? 4001, '');
    this.#outbox.fail(error);
    this.#store.set({
      isConnected: false,
      socket: null,
      connectionId: null,
      transport: null,
      connectionState: 'closed',
      error: closeCode === 1000 ? null : error.message,
    });
    this.#opening?.reject(error);
    this.#opening = null;
    if (link?.ready) {
      this.#events.emit('disconnect', { code: closeCode ?? 1000, reason: error.message, willReconnect: false });
    }
    if (closeCode !== 1000) this.#events.emit('error', error);
  }

  // --- what comes in -------------------------------------------------------------------------------------------------

  #alive(link) {
    link.receivedAt = this.#env.now();
    link.probe = null;
  }

  #receive(link, text) {
    this.#alive(link);
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (typeof message?.type !== 'string') return;
    const { type, id } = message;
    const data = message.data ?? {};
    if (!link.ready) {
      if (type === 'auth_success') return void this.#welcome(link, data);
      if (type === 'subscription_success' && link.kind === 'sse') {
        link.transport.address(data.connectionId);
        const sent = [...link.channels];
        this.#welcome(link, { ...data, results: undefined });
        if (link === this.#link) this.#subscriptions.subscribed(link, sent, new Map(), data);
        return;
      }
      if (type === 'error' && id === 'auth') return void this.#refused(link, errorOf(data));
    }
    if (type === 'auth_failed') {
      link.failure = errorOf(data);
      this.#outbox.settle(message);
      return;
    }
    if (type === 'pong' && typeof data.timestamp === 'number') this.#session.heard(data.timestamp);
    if (type === 'going_away' && data.reconnectAfter >= 0) link.reconnectAfter = data.reconnectAfter;
    if (this.#outbox.settle(message)) return;
    if (type === 'error' && id === undefined) this.#events.emit('error', errorOf(data));
    else if (!REPLIES.has(type)) this.#subscriptions.receive(link, message);
  }

  // --- time ----------------------------------------------------------------------------------------------------------

  #arm() {
    this.#watchdog.arm(this.#link?.heartbeat);
  }

  #tick() {
    const link = this.#link;
    this.#outbox.expire();
    if (link && link === this.#link) this.#watch(link);
    this.#session.tick();
    if (this.#wanted || !this.#outbox.isEmpty) this.#arm();
  }

  #setBack() {
    const now = this.#env.now();
    this.#backoff.setBack();
    this.#outbox.setBack();
    if (this.#link) Object.assign(this.#link, { receivedAt: now, startedAt: now, probe: null });
  }

  #watch(link) {
    const now = this.#env.now();
    if (!link.ready) {
      const error = new PushError('TIMEOUT', 'no answer from the server');
      if (now - link.startedAt >= this.#options.connectTimeout) this.#refused(link, error);
      return;
    }
    const { interval, timeout } = link.heartbeat;
    if (link.probe && now - link.probe.sentAt >= link.probe.timeout) {
      this.#refused(link, new PushError('TIMEOUT', 'the server is silent'));
    } else if (!link.probe && now - link.receivedAt >= interval) {
      this.#probe(link, timeout);
    }
  }

  #probe(link, timeout) {
    // Anything that arrives from now on proves the link.
    link.probe = { sentAt: this.#env.now(), timeout };
    link.transport.send('{"type":"ping","data":{}}');
  }

  /** The machine slept, the tab was frozen, or the network changed: the link may be dead without a trace. */
  #woke() {
    const link = this.#link;
    if (link?.ready) this.#probe(link, Math.min(link.heartbeat.timeout, PROBE_AFTER_WAKE));
    else if (link) link.startedAt = this.#env.now();
    else this.#hurry();
  }
}
