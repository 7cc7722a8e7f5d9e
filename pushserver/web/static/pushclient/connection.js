import { createBackoff } from './backoff.js';
import { CLOSE_CODE_OF, errorOf, mayReconnect, PushError } from './errors.js';
import { run } from './events.js';
import { createInbox } from './inbox.js';
import { createInboxList, NO_INBOX } from './inbox_list.js';
import { openWebSocket, webSocketUrl } from './links/websocket.js';
import { createOutbox } from './outbox.js';
import { deferred, quiet } from './promises.js';
import { createSession } from './session.js';
import { createStorage } from './storage.js';
import { NO_PERMISSIONS } from './store.js';
import { createSubscriptions } from './subscriptions.js';
import { NO_TASKS } from './tasks.js';
import { createWatchdog } from './watchdog.js';

/** What comes without an `id` and is no push, beside replies that nobody waits for any more. */
const NO_PUSH = /^(auth_success|auth_failed|pong|error)$/;
const PROBE_AFTER_WAKE = 5000;
/** How many times as long an answer is waited for at most. */
const MAX_PATIENCE = 4;
/** Attempts that the page's events bring forward lie so far apart. */
const HURRY = 3000;

/** What the state says of an error, or of none. */
const told = (error) => ({ error: error && error.message, lastError: error });

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
 *   since(time)                       the ms since then, whichever way the clock was set
 *   serverNow()                       the time on the server's clock
 *   link                              the link that is signed in, or null; `link.later` ends with the link
 *   user                              whose connection it is or was: `{id, token, cursors, inbox, kept}`, or null
 *   ask(type, data, reply, failed)    a request of the client's own; `failed(null)` when the link is gone
 *   emit(type, value)                 tells the application one of the client's events
 *   dispatch(push)                    hands a push to the application; returns the results of its handlers
 *   applyTasks(states)                takes what is newer of these task states; returns that
 *   forgetTasks()                     what is known of tasks holds no more
 *   showInbox(inbox)                  what the application sees of its inbox
 *   inboxList                         what comes to the inbox is told to it
 *   watch()                           sees to it that time is looked after
 *   debug(event, details)             the log for those who look for a fault; never a token, never a message's body
 */
export function createConnection(options, env, store, events) {
  const { transports, connectTimeout, recover } = options;
  let { url } = options;
  let wanted = false;
  let link = null;
  let user = null;
  let lastUserId = null;
  let opening = null;
  let cancelRetry = () => {};
  let hurriedAt = 0;
  let failuresToOpen = 0;
  let stoppedForToken = false;
  /**
   * How many times as long a sign of life is waited for: twice as long after each link that owed an answer, until one
   * comes. It may have been long and the way slow, which a page does not see before all of it is there.
   */
  let patience = 1;
  /** Whether anything ever came on a WebSocket here: where nothing does, it is blocked and not slow. */
  let wasHeard = false;

  const storage = createStorage(env, url);
  /** Whether an event stream came through lately where no WebSocket did; what a worker cannot remember its tabs do. */
  let blocked = options.blocked || storage.read('blocked');

  const { now } = env;
  const { emit } = events;
  const later = (delay, act) => {
    const timer = env.setTimeout(act, Math.max(0, delay));
    return () => env.clearTimeout(timer);
  };
  /** The time since then, also where the wall clock was set back meanwhile: then it is too long rather than never. */
  const since = (time) => Math.abs(now() - time);
  const log = options.debug === true ? (...values) => console.debug('pushclient', ...values) : options.debug;
  const debug = (event, details) => log && run(log, event, details);
  const set = (patch) => store.set(patch);

  const line = {
    now,
    random: env.random,
    later,
    since,
    serverNow: () => session.serverNow(),
    get link() {
      return link?.ready ? link : null;
    },
    get user() {
      return user;
    },
    ask(type, data, reply, failed) {
      // Also a refusal is an answer; what is none says that it came too late, or that there is no link.
      const answered = (act) => (value) => {
        if (value && value.code !== 'TIMEOUT') patience = 1;
        act(value);
      };
      outbox.ask(type, data, answered(reply), answered(failed));
    },
    emit,
    dispatch: (push) => events.dispatch(push, subscriptions.handlers(push.channel)),
    applyTasks: (states) => store.applyTasks(states),
    forgetTasks: () => set(NO_TASKS),
    showInbox: (inbox) => set({ inbox }),
    get inboxList() {
      return inboxList;
    },
    watch: () => watchdog.isArmed || arm(),
    debug,
  };
  const backoff = createBackoff(options, env);
  const outbox = createOutbox(line, options);
  let inboxList = createInboxList(line, options);
  const subscriptions = createSubscriptions(line, options);
  const session = createSession(line, options, {
    renewed({ permissions }) {
      set({ permissions: Object.freeze(permissions ?? []) });
      subscriptions.renewed(link);
    },
    changed: () => forgetUser(),
    stranger() {
      abandon('another user');
      forgetUser();
      if (wanted) connection.connect();
    },
    signedOut: (error) => refused(link, error),
  });
  const watchdog = createWatchdog(env, {
    tick() {
      outbox.tick();
      if (link) watch(link);
      session.tick();
      subscriptions.tick();
      keepPositions();
      if (wanted || !outbox.isEmpty) arm();
    },
    /** The machine slept, the tab was frozen, the network or the clock changed: the link may be dead without a trace. */
    woke(isReachable) {
      if (link?.ready) {
        probe(link, Math.min(link.heartbeat.timeout, PROBE_AFTER_WAKE));
      } else if (!link) {
        if (isReachable) hurry();
      } else if (!link.forgiven) {
        // Once: where every timer is late, as in a hidden tab, an attempt that hangs would never end.
        link.forgiven = true;
        link.probe.at = now();
      }
    },
    hidden() {
      user?.inbox.flush();
      keepPositions();
    },
  });
  const arm = () => watchdog.arm(link?.heartbeat);

  // --- links ---------------------------------------------------------------------------------------------------------

  const attempt = (fallback) => {
    cancelRetry();
    const websocket = transports.includes('websocket') && env.WebSocket;
    // React Native's `fetch` has no streams.
    const sse = transports.includes('sse') && env.fetch && globalThis.TextDecoderStream;
    const kind = websocket && !fallback && !(blocked && sse) ? 'websocket' : 'sse';
    const timers = new Set();
    const made = {
      kind,
      // Where WebSocket seems to be blocked, each attempt tries it first and the event stream right after: a server
      // that was merely down is then found by WebSocket again.
      fallback: kind === 'websocket' && sse && failuresToOpen >= options.sseAfter - 1,
      receivedAt: now(),
      // What has to come, and by when: first that the server signs us in, later the answer to a ping.
      probe: { at: now(), within: connectTimeout },
      token: quiet(session.take()),
      asked: new Map(),
      strays: new Map(),
      heartbeat: { interval: 25000, timeout: 10000 },
      send(message) {
        debug('send', { type: message.type, id: message.id });
        made.transport.send(JSON.stringify(message));
      },
      later(delay, act) {
        timers.add(later(delay, act));
      },
      end: () => timers.forEach((cancel) => cancel()),
    };
    link = made;
    debug('attempt', { kind });
    set({ connectionState: 'connecting', transport: kind, nextAttemptAt: null });
    // Who listens to the state may have ended it.
    if (made !== link) return;
    const ifCurrent = (act) => (...values) => made === link && act(made, ...values);
    const linkEvents = {
      opened: ifCurrent(signIn),
      message: ifCurrent(receive),
      alive: ifCurrent(alive),
      closed: ifCurrent((_, code, reason, failure) => {
        if (failure) made.failure ??= errorOf(failure);
        lost(made, code, reason);
      }),
    };
    const open = (openLink) => {
      try {
        made.transport = openLink();
      } catch (error) {
        // A url that cannot be opened (its syntax, mixed content) will not be better the next time.
        return stop(new PushError('CLOSED', error.message));
      }
      set({ socket: made.transport.socket ?? null });
    };
    const openSocket = (events) => openWebSocket(env, webSocketUrl(url), events);
    if (kind === 'websocket') return open(() => openSocket(linkEvents));
    // Most pages never need it. Where it does not load, this attempt has failed like any other.
    import('./links/eventstream.js').then(ifCurrent((_, { openEventStream, watchForWebSocket }) => {
      if (websocket) made.upgrade = () => watchForWebSocket(env, made, openSocket, options, () => {
        blocked = false;
        abandon('a WebSocket works');
        connection.connect();
      });
      const channels = recover ? [] : subscriptions.toOpen(made);
      open(() => openEventStream(env, { ...options, url }, channels, made.token, linkEvents));
    }), (error) => linkEvents.closed(1006, error.message));
  };

  const signIn = async (given) => {
    alive(given);
    if (given.kind === 'sse') return;
    set({ connectionState: 'authenticating' });
    let token;
    try {
      token = await given.token;
    } catch (error) {
      refused(given, error);
    }
    if (given !== link) return;
    if (token === null) {
      welcome(given, {});
      // Nothing has come yet: a proxy that lets only the handshake through is found out.
      if (given === link) probe(given, connectTimeout);
      return;
    }
    const positions = subscriptions.positions();
    given.send({ type: 'auth', id: 'auth', data: { token, ...(Object.keys(positions).length > 0 && { positions }) } });
    given.signing = true;
    given.probe.within *= patience;
  };

  const welcome = (given, data) => {
    const { userId: id = null, connectionId = null, node = null, inbox = null } = data;
    given.ready = true;
    alive(given);
    if (data.heartbeat) given.heartbeat = data.heartbeat;
    arm();
    backoff.reset();
    if (given.kind === 'sse' && failuresToOpen > 0) storage.write('blocked', (blocked = true));
    if (user && user.id !== null && user.id !== id) {
      forgetUser();
      if (given.kind !== 'sse') data = { ...data, results: {} };
    }
    if (user?.id !== id) {
      const kept = (recover && storage.read(`positions ${id}`)) || {};
      user = { id, token: null, cursors: new Map(), inbox: createInbox(line, options), kept };
    }
    if (inbox) inboxList.open(inbox);
    given.token.then((token) => given === link && (user.token = token));
    subscriptions.open(data.channels ?? [], inbox);
    store.applyTasks(data.tasks ?? []);
    set({
      isConnected: true,
      connectionState: 'connected',
      connectionId,
      userId: id,
      permissions: Object.freeze(data.permissions ?? []),
      reconnectAttempts: 0,
      ...told(null),
    });
    if (given !== link) return;
    session.schedule(data.expiresAt);
    opened();
    const from = lastUserId;
    lastUserId = id;
    if (from !== null && from !== id) emit('user_changed', { from, to: id });
    emit('connect', { connectionId, userId: id, transport: given.kind, node, inbox });
    if (given !== link) return;
    subscriptions.begin(given, data);
    if (!outbox.isAsking) patience = 1;
    user?.inbox.flush();
    outbox.pump();
    // After what the application has changed meanwhile.
    if (inboxList.isWanted) inboxList.refresh();
    given.upgrade?.();
  };

  const opened = () => {
    opening?.resolve();
    opening = null;
  };

  /** Nobody gets what came for another: not the inbox, not the tasks, not the answers. */
  const forgetUser = () => {
    user?.inbox.end();
    user = null;
    subscriptions.forget();
    outbox.fail(new PushError('CLOSED', 'the user changed'));
    inboxList = createInboxList(line, options, inboxList.isWanted);
    set({ ...NO_TASKS, inbox: NO_INBOX, userId: null, permissions: NO_PERMISSIONS });
  };

  /** The link is no more: closes it from this side, too, and lets go of what hung on it. */
  const drop = (closeCode, patch) => {
    const given = link;
    link = null;
    given?.end();
    given?.transport?.close(closeCode, '');
    subscriptions.lost();
    keepPositions();
    set({ isConnected: false, socket: null, connectionId: null, ...patch });
  };

  /** The link cannot be used: to be treated as lost. */
  const refused = (given, error) => {
    if (given !== link) return;
    given.failure = error;
    lost(given, 1006, error.message);
  };

  /** Gives up the current link without a word from it. */
  const abandon = (reason) => {
    if (link) lost(link, 1000, reason, false);
    cancelRetry();
  };

  const lost = (given, code, reason, retry = true) => {
    const { ready, failure, received, kind } = given;
    const effective = failure && code < 3000 ? (CLOSE_CODE_OF[failure.code] ?? code) : code;
    const message = failure?.message || reason || `connection lost (${effective})`;
    const error = new PushError(failure?.code ?? 'CLOSED', message, { closeCode: effective });
    debug('lost', { code: effective, reason: message });
    // A string has no successor, nor has what says itself that it has none.
    const hopeless = effective === 3005 && !ready && failure && (failure.closeCode || !session.isRenewable);
    // Who waited longer than the server does for a token is not to blame for it.
    let again = (mayReconnect(effective) || (effective === 3502 && !ready && given.signing && patience > 1)) && !hopeless;
    if (effective === 3005) session.discard('expired');
    // A token from an earlier sign-in may have a better successor.
    if (effective === 3500 && failure?.code !== 'UNAUTHORIZED' && session.discard()) again = true;
    if (!received) {
      if (kind === 'websocket') failuresToOpen += 1;
      else blocked = false;
    }
    drop(4001, retry ? { connectionState: 'waiting', ...told(error) } : { connectionState: 'connecting' });
    outbox.lost();
    if (ready) emit('disconnect', { code: effective, reason: message, willReconnect: again || !retry });
    if (failure?.code === 'TOKEN') emit('error', failure);
    if (link || !wanted || !retry) return;
    if (!again) {
      stoppedForToken = hopeless || effective === 3500 || effective === 3502;
      return stop(error);
    }
    if (given.fallback && !received) return attempt(true);
    if (ready) backoff.reset(true, effective !== 3005);
    if (effective === 3004 || effective === 3013) backoff.widen();
    const { reconnectAttempts } = store.getState();
    if (reconnectAttempts < options.maxReconnectAttempts) wait(backoff.next(given.reconnectAfter), 1);
    else stop(new PushError('CLOSED', `gave up after ${reconnectAttempts} attempts: ${message}`));
  };

  /** Waits for the moment of the next attempt, which counts as so many. */
  const wait = (at, counts) => {
    cancelRetry();
    set({ nextAttemptAt: at });
    cancelRetry = later(at - now(), () => {
      if (!counts) hurriedAt = now();
      set({ reconnectAttempts: store.getState().reconnectAttempts + counts });
      attempt();
    });
  };

  /** A sign that the way is free again, for this client alone: no reason to wait, and it counts as no attempt. */
  const hurry = () => {
    const { nextAttemptAt } = store.getState();
    const at = Math.max(now(), hurriedAt + HURRY);
    if (at >= nextAttemptAt) return;
    if (at > now()) return wait(at, 0);
    hurriedAt = at;
    attempt();
  };

  /** Ends it all, by the application's wish (code 1000) or because there is no way on. */
  const stop = (error, closeCode) => {
    const wish = closeCode === 1000;
    const wasReady = link?.ready;
    wanted = false;
    cancelRetry();
    watchdog.stop();
    user?.inbox.rest();
    drop(closeCode ?? 4001, {
      transport: null,
      connectionState: 'closed',
      nextAttemptAt: null,
      ...told(wish ? null : error),
    });
    outbox.fail(error);
    opening?.reject(error);
    opening = null;
    if (wasReady) emit('disconnect', { code: closeCode ?? 1000, reason: error.message, willReconnect: false });
    if (!wish) emit('error', error);
  };

  const keepPositions = () => {
    if (recover && user?.id) storage.write(`positions ${user.id}`, subscriptions.positions(true));
  };

  // --- what comes in -------------------------------------------------------------------------------------------------

  const alive = (given) => {
    given.receivedAt = now();
    if (given.ready) given.probe = null;
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
    if (!given.received && given.kind === 'websocket') {
      failuresToOpen = 0;
      storage.remove('blocked');
    }
    given.received = true;
    wasHeard ||= given.kind === 'websocket';
    const { type, id, channel, offset } = message;
    const data = message.data ?? {};
    debug('receive', { type, id, channel, offset });
    if (!given.ready) {
      if (type === 'auth_success') return welcome(given, data);
      if (type === 'subscription_success') {
        given.transport.address(data.connectionId);
        return welcome(given, data);
      }
      if (type === 'error' && id === 'auth') return refused(given, errorOf(data));
    }
    if (type === 'auth_failed') given.failure = errorOf(data);
    if (type === 'pong' && typeof data.timestamp === 'number') session.received(data.timestamp);
    if (type === 'going_away' && data.reconnectAfter >= 0) given.reconnectAfter = data.reconnectAfter;
    if (outbox.finish(message)) return;
    if (type === 'error' && id === undefined) emit('error', errorOf(data));
    else if (given.ready && id === undefined && !NO_PUSH.test(type)) subscriptions.receive(given, message);
  };

  // --- time ----------------------------------------------------------------------------------------------------------

  const watch = (given) => {
    const { interval, timeout } = given.heartbeat;
    if (!given.probe) {
      if (since(given.receivedAt) >= interval) probe(given, timeout * patience);
    } else if (since(given.probe.at) >= given.probe.within) {
      if (given.ready ? outbox.isAsking : given.signing && wasHeard) patience = Math.min(2 * patience, MAX_PATIENCE);
      refused(given, new PushError('TIMEOUT', 'no answer from the server'));
    }
  };

  const probe = (given, within) => {
    // Anything that arrives from now on proves the link.
    given.probe = { at: now(), within };
    given.send({ type: 'ping', data: {} });
  };

  const connection = {
    subscriptions,

    get inbox() {
      return user?.inbox;
    },

    /** A request of the application. */
    request(type, data, options) {
      const reply = outbox.request(type, data, options);
      if (/^inbox/.test(type)) inboxList.follow(type, data, reply);
      // Whoever reads the inbox as a whole shows what no handler took.
      if (type === 'inbox') user?.inbox.showWhole();
      return reply;
    },

    connect(other = url) {
      if (other !== url) {
        url = other;
        if (wanted) abandon('another url');
      }
      opening ??= deferred();
      const { promise } = opening;
      if (!wanted) {
        wanted = true;
        stoppedForToken = false;
        // Who signs in may be another than who disconnected.
        session.discard();
        backoff.reset();
        watchdog.listen();
        arm();
        set({ reconnectAttempts: 0, ...told(null) });
      }
      if (!link) attempt();
      else if (link.ready) opened();
      return promise;
    },

    disconnect() {
      const error = new PushError('CLOSED', 'disconnected by the application');
      stoppedForToken = false;
      if (wanted) {
        user?.inbox.flush();
        stop(error, 1000);
      } else {
        outbox.fail(error);
        watchdog.stop();
      }
    },

    reconnect() {
      session.discard();
      if (wanted) abandon('reconnect');
      set({ reconnectAttempts: 0 });
      return connection.connect();
    },

    reset() {
      connection.disconnect();
      storage.remove(`positions ${user?.id}`);
      subscriptions.clear();
      forgetUser();
      lastUserId = null;
      set(store.getInitialState());
    },

    setToken(token) {
      const stranger = session.isStranger(token);
      session.replace(token);
      if (link?.ready) {
        session.renew();
      } else {
        if (stranger) forgetUser();
        if (link) connection.reconnect();
        else if (stoppedForToken) connection.connect();
      }
    },
  };
  return connection;
}
