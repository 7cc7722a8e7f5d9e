import { createBackoff } from './backoff.js';
import { CLOSE_CODE_OF, errorOf, mayReconnect, PushError } from './errors.js';
import { run } from './events.js';
import { createInbox } from './inbox.js';
import { openEventStream, streamUrl } from './links/eventstream.js';
import { openWebSocket, webSocketUrl } from './links/websocket.js';
import { createOutbox } from './outbox.js';
import { deferred, quiet } from './promises.js';
import { createSession } from './session.js';
import { createStorage } from './storage.js';
import { INITIAL } from './store.js';
import { createSubscriptions } from './subscriptions.js';
import { NO_TASKS } from './tasks.js';
import { createWatchdog } from './watchdog.js';

const REPLIES =
  /^(auth_success|auth_failed|pong|(un)?subscription_success|published|message_sent|ack_success|history|presence|task|error)$/;
const PROBE_AFTER_WAKE = 5000;
const MAX_UPGRADE_AFTER = 600000;
/** Attempts that the page's events bring forward lie so far apart. */
const HURRY = 3000;

/**
 * The connection: one link at a time, and what becomes of it.
 *
 *   idle --connect()--> connecting --open--> authenticating --auth_success--> connected
 *                           ^  |                   |                             |
 *                           |  +---------+---------+---------- lost -------------+
 *                           |            v
 *                           +--------- waiting --terminal code, disconnect()--> closed
 *
 * What belongs to one link (its probe, its timers, what was asked on it) hangs on that link's object, what belongs to one
 * user (inbox, cursors) on that user's, and both are dropped whole. An event of a link that is no longer `link` is
 * dropped, so an old socket can never touch the state of the new one.
 *
 * Its parts (outbox, subscriptions, inbox, session) see of it and of each other no more than the line:
 *
 *   now(), random(), later(ms, run)   the platform's; `later` returns what cancels it
 *   link                              the link that is signed in, or null; `link.later` ends with the link
 *   user                              whose connection it is or was: `{id, token, cursors, inbox, kept}`, or null
 *   ask(type, data, reply, failed)    a request of the client's own; `failed(null)` when the link is gone
 *   emit(type, value)                 tells the application one of the client's events
 *   dispatch(push)                    hands a push to the application; returns the results of its handlers
 *   applyTasks(states)                takes what is newer of these task states; returns that
 *   forgetTasks()                     what is known of tasks holds no more
 *   watch()                           sees to it that time is looked after
 *   debug(event, details)             the log for those who look for a fault; never a token, never a message's body
 */
export function createConnection(options, env, store, events) {
  let { url } = options;
  let wanted = false;
  let link = null;
  let user = null;
  let lastUserId = null;
  let opening = null;
  let cancelRetry = () => {};
  let hurriedAt = -Infinity;
  let failuresToOpen = 0;
  let stoppedForToken = false;

  const storage = createStorage(env, url);
  /** Whether an event stream came through lately where no WebSocket did. */
  let blocked = storage.read('blocked');

  const later = (delay, act) => {
    const timer = env.setTimeout(act, Math.max(0, delay));
    return () => env.clearTimeout(timer);
  };
  const log = options.debug === true ? (...values) => console.debug('pushclient', ...values) : options.debug;
  const line = {
    now: env.now,
    random: env.random,
    later,
    get link() {
      return link?.ready ? link : null;
    },
    get user() {
      return user;
    },
    ask: (...values) => outbox.ask(...values),
    emit: events.emit,
    dispatch: (push) => events.dispatch(push, subscriptions.handlers(push.channel)),
    applyTasks: (states) => store.applyTasks(states),
    forgetTasks: () => store.set(NO_TASKS),
    watch: () => watchdog.isArmed || arm(),
    debug: (event, details) => log && run(log, event, details),
  };
  const backoff = createBackoff(options, env);
  const outbox = createOutbox(line, options);
  const subscriptions = createSubscriptions(line);
  const session = createSession(line, options, {
    renewed(data) {
      store.set({ permissions: Object.freeze([...(data.permissions ?? [])]) });
      subscriptions.askRefusedAgain(link);
    },
    stranger() {
      abandon('another user');
      forgetUser();
      quiet(connection.connect());
    },
    signedOut: (error) => refused(link, error),
  });
  const watchdog = createWatchdog(env, {
    tick() {
      outbox.expire();
      if (link) watch(link);
      session.tick();
      keepPositions();
      if (wanted || !outbox.isEmpty) arm();
    },
    setBack() {
      const now = env.now();
      backoff.setBack();
      outbox.setBack();
      if (!link) return;
      Object.assign(link, { receivedAt: now, startedAt: now, probe: null });
      // The server's clock stands elsewhere than was thought: a pong tells.
      if (link.ready) probe(link, link.heartbeat.timeout);
    },
    // In a hidden tab timers are late by rule: its link is asked, but a wait for the next attempt is not cut short.
    slept: () => (link || env.document?.visibilityState !== 'hidden') && woke(),
    woke: () => woke(),
    offline: () => link && woke(),
    hidden() {
      user?.inbox.flush();
      keepPositions();
    },
  });
  const arm = () => watchdog.arm(link?.heartbeat);

  // --- links ---------------------------------------------------------------------------------------------------------

  const attempt = (kind) => {
    cancelRetry();
    const { transports, sseAfter, sseUrl, recover } = options;
    const websocket = transports.includes('websocket') && env.WebSocket;
    // React Native's `fetch` has no streams.
    const sse = transports.includes('sse') && env.fetch && globalThis.TextDecoderStream;
    const chosen = kind ?? (websocket && !(blocked && sse) ? 'websocket' : 'sse');
    const timers = new Set();
    const made = {
      kind: chosen,
      transport: null,
      // Where WebSocket seems to be blocked, each attempt tries it first and the event stream right after: a server
      // that was merely down is then found by WebSocket again.
      fallback: chosen === 'websocket' && sse && failuresToOpen >= sseAfter - 1,
      startedAt: env.now(),
      receivedAt: env.now(),
      heard: false,
      ready: false,
      forgiven: false,
      token: quiet(session.take()),
      failure: null,
      reconnectAfter: undefined,
      asked: new Map(),
      strays: new Map(),
      heartbeat: { interval: 25000, timeout: 10000 },
      probe: null,
      send(message) {
        line.debug('send', { type: message.type, id: message.id });
        made.transport.send(JSON.stringify(message));
      },
      later(delay, act) {
        const timer = env.setTimeout(() => (timers.delete(timer), act()), delay);
        timers.add(timer);
      },
      end: () => timers.forEach((timer) => env.clearTimeout(timer)),
    };
    link = made;
    line.debug('attempt', { transport: chosen });
    store.set({ connectionState: 'connecting', transport: chosen, nextAttemptAt: null });
    const ifCurrent = (act) => (...values) => made === link && act(made, ...values);
    const heard = {
      opened: ifCurrent(signIn),
      message: ifCurrent(receive),
      alive: ifCurrent(alive),
      closed: ifCurrent((_, code, reason, failure) => {
        made.failure ??= failure;
        lost(made, code, reason);
      }),
    };
    try {
      if (chosen === 'websocket') made.transport = openWebSocket(env, webSocketUrl(url), heard);
      else {
        const channels = recover ? [] : subscriptions.channelsToOpen(made);
        made.transport = openEventStream(env, streamUrl(sseUrl, url), channels, made.token, heard);
      }
    } catch (error) {
      // A url that cannot be opened (its syntax, mixed content) will not be better the next time.
      link = null;
      stop(new PushError('CLOSED', error.message));
      return;
    }
    store.set({ socket: made.transport.socket });
  };

  /** Gives up the current link without a word from it. */
  const abandon = (reason) => {
    const given = link;
    if (given) {
      lost(given, 1000, reason, false);
      given.transport?.close(4001, reason);
    }
    cancelRetry();
  };

  const signIn = async (given) => {
    given.receivedAt = env.now();
    if (given.kind === 'sse') return;
    store.set({ connectionState: 'authenticating' });
    let token;
    try {
      token = await given.token;
    } catch (error) {
      refused(given, error);
      return;
    }
    if (given !== link) return;
    if (token === null) {
      welcome(given, {});
      // Nothing has come yet: a proxy that lets only the handshake through is found out.
      if (given === link) probe(given, options.connectTimeout);
      return;
    }
    const positions = subscriptions.signInPositions;
    given.send({ type: 'auth', id: 'auth', data: { token, ...(Object.keys(positions).length > 0 && { positions }) } });
  };

  /** The link cannot be used: close it from this side and treat it as lost. */
  const refused = (given, error) => {
    if (given !== link) return;
    given.failure = error;
    lost(given, CLOSE_CODE_OF[error.code] ?? 1006, error.message);
    given.transport?.close(4001, 'gave up');
  };

  const welcome = (given, data) => {
    given.ready = true;
    if (data.heartbeat) given.heartbeat = data.heartbeat;
    arm();
    backoff.reset();
    if (given.kind === 'sse' && failuresToOpen > 0) storage.write('blocked', (blocked = true));
    const { userId: id = null, connectionId = null, node = null, inbox = null } = data;
    if (user && user.id !== null && user.id !== id) {
      forgetUser();
      data = { ...data, results: {} };
    }
    if (user?.id !== id) {
      const kept = (options.recover && storage.read(`positions ${id}`)) || {};
      user = { id, token: null, cursors: new Map(), inbox: createInbox(line, options), kept };
    }
    given.token.then((token) => given === link && (user.token = token));
    subscriptions.open(data.channels ?? [], inbox);
    store.applyTasks(data.tasks ?? []);
    store.set({
      isConnected: true,
      connectionState: 'connected',
      connectionId,
      userId: id,
      permissions: Object.freeze([...(data.permissions ?? [])]),
      reconnectAttempts: 0,
      error: null,
      lastError: null,
    });
    if (given !== link) return;
    session.schedule(data.expiresAt);
    opening?.resolve();
    opening = null;
    const from = lastUserId;
    lastUserId = id;
    if (from !== null && from !== id) events.emit('user_changed', { from, to: id });
    events.emit('connect', { connectionId, userId: id, transport: given.kind, node, inbox });
    if (given !== link) return;
    subscriptions.begin(given, data);
    user.inbox.flush();
    outbox.pump();
    if (given.kind === 'sse') tryUpgrade(given, options.lossWindow);
  };

  /** Nobody gets what came for another: not the inbox, not the tasks, not the answers. */
  const forgetUser = () => {
    user?.inbox.end();
    user = null;
    subscriptions.forget();
    outbox.fail(new PushError('CLOSED', 'the user changed'));
    store.set({ ...NO_TASKS, userId: null, permissions: INITIAL.permissions });
  };

  /** Over an event stream: asks now and then whether a WebSocket works meanwhile, and if so moves to it. */
  const tryUpgrade = (given, after) => {
    if (!env.WebSocket || !options.transports.includes('websocket')) return;
    given.later(after * (1 + env.random()), () => {
      const found = (works) => {
        socket.close(1000, '');
        cancel();
        if (given !== link) return;
        if (!works) return tryUpgrade(given, Math.min(after * 2, MAX_UPGRADE_AFTER));
        blocked = false;
        quiet(connection.reconnect());
      };
      const socket = openWebSocket(env, webSocketUrl(url), {
        // Any answer will do, also that one has to sign in first.
        opened: () => socket.send('{"type":"ping","data":{}}'),
        message: () => found(true),
        closed: () => found(false),
      });
      const cancel = later(options.connectTimeout, () => found(false));
    });
  };

  const lost = (given, code, reason, retry = true) => {
    if (given !== link) return;
    link = null;
    given.end();
    outbox.requeue();
    subscriptions.lost();
    keepPositions();
    const { ready, failure, heard, kind } = given;
    const effective = failure && code < 3000 ? (CLOSE_CODE_OF[failure.code] ?? code) : code;
    const message = failure?.message || reason || `connection lost (${effective})`;
    const error = new PushError(failure?.code ?? 'CLOSED', message, { closeCode: effective });
    line.debug('lost', { code: effective, reason: message });
    const hopeless = effective === 3005 && !ready && failure && !session.isRenewable;
    let again = mayReconnect(effective) && !hopeless;
    if (effective === 3005) session.refuse('expired');
    // A token from an earlier sign-in may have a better successor.
    if (effective === 3500 && failure?.code !== 'UNAUTHORIZED' && session.refuse()) again = true;
    if (!heard) {
      if (kind === 'websocket') failuresToOpen += 1;
      else blocked = false;
    }
    store.set({
      isConnected: false,
      socket: null,
      connectionId: null,
      connectionState: retry ? 'waiting' : 'connecting',
      ...(retry && { error: message, lastError: error }),
    });
    if (ready) events.emit('disconnect', { code: effective, reason: message, willReconnect: again || !retry });
    if (failure?.code === 'TOKEN') events.emit('error', failure);
    if (link !== null || !wanted || !retry) return;
    if (!again) {
      stoppedForToken = hopeless || effective === 3500;
      stop(error);
    } else if (given.fallback && !heard) {
      attempt('sse');
    } else {
      if (ready) backoff.reset(true, effective !== 3005);
      if (effective === 3004 || effective === 3013) backoff.widen();
      const { reconnectAttempts } = store.getState();
      if (reconnectAttempts < options.maxReconnectAttempts) wait(backoff.next(given.reconnectAfter), 1);
      else stop(new PushError('CLOSED', `gave up after ${reconnectAttempts} attempts: ${message}`));
    }
  };

  /** Waits for the moment of the next attempt, which counts as so many. */
  const wait = (at, counts) => {
    cancelRetry();
    store.set({ nextAttemptAt: at });
    cancelRetry = later(at - env.now(), () => {
      if (!counts) hurriedAt = env.now();
      store.set({ reconnectAttempts: store.getState().reconnectAttempts + counts });
      attempt();
    });
  };

  /** A sign that the way is free again, for this client alone: no reason to wait, and it counts as no attempt. */
  const hurry = () => {
    const { nextAttemptAt } = store.getState();
    const now = env.now();
    const at = Math.max(now, hurriedAt + HURRY);
    if (nextAttemptAt === null || nextAttemptAt <= at) return;
    if (at > now) return void wait(at, 0);
    hurriedAt = now;
    attempt();
  };

  /** Ends it all, by the application's wish (code 1000) or because there is no way on. */
  const stop = (error, closeCode) => {
    const given = link;
    wanted = false;
    link = null;
    cancelRetry();
    watchdog.stop();
    user?.inbox.rest();
    given?.end();
    given?.transport?.close(closeCode ?? 4001, '');
    outbox.fail(error);
    subscriptions.lost();
    store.set({
      isConnected: false,
      socket: null,
      connectionId: null,
      transport: null,
      connectionState: 'closed',
      nextAttemptAt: null,
      error: closeCode === 1000 ? null : error.message,
      lastError: closeCode === 1000 ? null : error,
    });
    opening?.reject(error);
    opening = null;
    line.debug('closed', { code: error.code, reason: error.message });
    const { message: reason } = error;
    if (given?.ready) events.emit('disconnect', { code: closeCode ?? 1000, reason, willReconnect: false });
    if (closeCode !== 1000) events.emit('error', error);
  };

  const keepPositions = () => {
    if (options.recover && user?.id) storage.write(`positions ${user.id}`, subscriptions.positions);
  };

  // --- what comes in -------------------------------------------------------------------------------------------------

  const alive = (given) => {
    given.receivedAt = env.now();
    given.probe = null;
  };

  const receive = (given, text) => {
    alive(given);
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (typeof message?.type !== 'string') return;
    if (!given.heard && given.kind === 'websocket') {
      failuresToOpen = 0;
      blocked = false;
      storage.remove('blocked');
    }
    given.heard = true;
    const { type, id, channel, offset } = message;
    const data = message.data ?? {};
    line.debug('receive', { type, id, channel, offset });
    if (!given.ready) {
      if (type === 'auth_success') return welcome(given, data);
      if (type === 'subscription_success' && given.kind === 'sse') {
        given.transport.address(data.connectionId);
        const { results, rejected } = data;
        welcome(given, { ...data, results: {} });
        if (given === link) subscriptions.opened(given, { results, rejected });
        return;
      }
      if (type === 'error' && id === 'auth') return refused(given, errorOf(data));
    }
    if (type === 'auth_failed') {
      given.failure = errorOf(data);
      outbox.settle(message);
      return;
    }
    if (type === 'pong' && typeof data.timestamp === 'number') session.heard(data.timestamp);
    if (type === 'going_away' && data.reconnectAfter >= 0) given.reconnectAfter = data.reconnectAfter;
    if (outbox.settle(message)) return;
    if (type === 'error' && id === undefined) events.emit('error', errorOf(data));
    else if (given.ready && !REPLIES.test(type)) subscriptions.receive(given, message);
  };

  // --- time ----------------------------------------------------------------------------------------------------------

  const watch = (given) => {
    const now = env.now();
    const { ready, startedAt, receivedAt, heartbeat: { interval, timeout } } = given;
    const { sentAt, within } = given.probe ?? {};
    if (!ready) {
      if (now - startedAt >= options.connectTimeout) refused(given, new PushError('TIMEOUT', 'no answer from the server'));
    } else if (now - sentAt >= within) {
      refused(given, new PushError('TIMEOUT', 'the server is silent'));
    } else if (!given.probe && now - receivedAt >= interval) {
      probe(given, timeout);
    }
  };

  const probe = (given, within) => {
    // Anything that arrives from now on proves the link.
    given.probe = { sentAt: env.now(), within };
    given.send({ type: 'ping', data: {} });
  };

  /** The machine slept, the tab was frozen, or the network changed: the link may be dead without a trace. */
  const woke = () => {
    if (link?.ready) {
      probe(link, Math.min(link.heartbeat.timeout, PROBE_AFTER_WAKE));
    } else if (!link) {
      hurry();
    } else if (!link.forgiven) {
      // Once: where every timer is late, as in a hidden tab, an attempt that hangs would never end.
      link.forgiven = true;
      link.startedAt = env.now();
    }
  };

  const connection = {
    outbox,
    subscriptions,

    get inbox() {
      return user?.inbox;
    },

    connect(other = url) {
      if (other !== url) {
        url = other;
        if (wanted) abandon('another url');
      }
      if (!wanted) {
        wanted = true;
        stoppedForToken = false;
        opening = deferred();
        backoff.reset();
        watchdog.listen();
        arm();
        store.set({ reconnectAttempts: 0, error: null, lastError: null });
      }
      opening ??= deferred();
      const { promise } = opening;
      if (link === null) {
        attempt();
      } else if (link.ready) {
        opening.resolve();
        opening = null;
      }
      return promise;
    },

    disconnect() {
      const error = new PushError('CLOSED', 'disconnected by the application');
      if (wanted) {
        user?.inbox.flush();
        keepPositions();
        stop(error, 1000);
      } else {
        outbox.fail(error);
        watchdog.stop();
      }
    },

    reconnect() {
      if (wanted) abandon('reconnect');
      store.set({ reconnectAttempts: 0 });
      return connection.connect();
    },

    reset() {
      connection.disconnect();
      storage.remove(`positions ${user?.id}`);
      subscriptions.clear();
      forgetUser();
      lastUserId = null;
      const { reconnectInterval, maxReconnectAttempts } = options;
      store.set({ ...INITIAL, reconnectInterval, maxReconnectAttempts });
    },

    setToken(token) {
      const stranger = session.isStranger(token);
      session.replace(token);
      if (link?.ready) {
        session.renew();
      } else {
        if (stranger) forgetUser();
        if (link) quiet(connection.reconnect());
        else if (stoppedForToken) quiet(connection.connect());
      }
    },
  };
  return connection;
}
