import { createCursor } from './cursor.js';
import { errorOf, isTemporary, PushError } from './errors.js';
import { callable, run } from './events.js';
import { deferred } from './promises.js';

const MAX_SUBSCRIBE_CHARS = 30000;
const MAX_QUERY_CHARS = 1500;

/**
 * The channels: which are wanted, how far each was read, and what comes on them.
 *
 * A subscription `{channel, handlers, ready, cursor, state, error, listeners}` begins with a channel's first handler and
 * ends with its last; its position ends with it. The channels that the server subscribes are the user's, and so are
 * their cursors. `link.asked` says for which subscription a channel was asked on that link.
 *
 * Of the line it needs `random`, `link`, `user`, `ask`, `emit`, `dispatch`, `applyTasks` and `forgetTasks`.
 */
export function createSubscriptions(line) {
  const channels = new Map();
  let flushing = false;

  const own = () => `user:${line.user?.id}`;
  /** The channel whose position a push counts on: final task events come through the inbox. */
  const placeOf = (channel) => (typeof channel === 'string' && channel.startsWith('task:') ? own() : channel);
  const cursorOf = (link, place) => {
    const cursor = line.user?.cursors.get(place) ?? channels.get(place)?.cursor ?? link.strays.get(place);
    if (cursor) return cursor;
    // Nobody here asked for it (a late push, the server's API): it is followed for as long as the link lasts.
    link.strays.set(place, createCursor());
    return link.strays.get(place);
  };

  const turn = (subscription, state, error = null) => {
    if (subscription.state === state) return;
    Object.assign(subscription, { state, error });
    if (error) subscription.ready.reject(error);
    for (const { handler } of [...subscription.listeners]) run(handler, state);
  };
  const leave = (subscription, error) => {
    const { channel } = subscription;
    if (channels.get(channel) !== subscription) return;
    channels.delete(channel);
    turn(subscription, 'closed', error);
    flush();
  };
  const drop = (subscription, subscriber) => {
    if (subscription.handlers.delete(subscriber) && subscription.handlers.size === 0) {
      leave(subscription, new PushError('CLOSED', 'unsubscribed'));
    }
  };

  /** Once per turn of the event loop, so that many calls are one message. */
  const flush = () => {
    if (flushing) return;
    flushing = true;
    Promise.resolve().then(() => {
      flushing = false;
      sync();
    });
  };
  /** Brings what the server knows to what is wanted; `extra` is asked for beside it. */
  const sync = (extra = []) => {
    const { link, user } = line;
    if (!link) return;
    const left = [...link.asked.keys()].filter((channel) => !channels.has(channel));
    for (const channel of left) link.asked.delete(channel);
    const gone = left.filter((channel) => !user.cursors.has(channel));
    const refused = (error) => {
      if (!error || !isTemporary(error)) return;
      later(link, error, () => {
        for (const channel of gone) if (!channels.has(channel)) link.asked.set(channel, null);
        sync();
      });
    };
    if (gone.length > 0) line.ask('unsubscribe', { channels: gone }, () => {}, refused);
    const wanted = [...channels.values()].filter((each) => link.asked.get(each.channel) !== each);
    send(link, [...new Set([...wanted.map(({ channel }) => channel), ...extra])]);
  };
  const send = (link, names) => {
    let size = 0;
    const batches = [[]];
    for (const channel of names) {
      if (channels.has(channel)) link.asked.set(channel, channels.get(channel));
      const cursor = cursorOf(link, channel);
      const { kept } = line.user;
      if (kept[channel] && !cursor.position) cursor.moveTo(kept[channel]);
      delete kept[channel];
      const since = cursor.position;
      if (since && cursor.held?.link !== link) cursor.held = { link, pushes: [] };
      const item = since ? { channel, since } : channel;
      size += JSON.stringify(item).length;
      if (size > MAX_SUBSCRIBE_CHARS) {
        batches.push([]);
        size = 0;
      }
      batches.at(-1).push(item);
    }
    for (const items of batches) {
      if (items.length === 0) continue;
      const asked = items.map((item) => {
        const channel = item.channel ?? item;
        return { channel, cursor: cursorOf(link, channel), since: item.since };
      });
      const failed = (error) => error && refuse(link, asked, error);
      line.ask('subscribe', { channels: items }, (data) => subscriptions.subscribed(link, asked, data), failed);
    }
  };
  /** Tries again on the same link, after the time that the server asked for or a second or two. */
  const later = (link, { retryAfter = 0 }, again) => {
    link.later(Math.max(retryAfter, 1000) * (1 + line.random()), again);
  };
  /** Whether what was asked for is still wanted: an answer to what is gone says nothing. */
  const stands = (link, { channel, cursor }) => link === line.link && cursorOf(link, channel) === cursor;

  const release = (link, cursor) => {
    const pushes = cursor.held?.link === link ? cursor.held.pushes : [];
    cursor.held = null;
    for (const push of pushes) subscriptions.receive(link, push);
  };
  const refuse = (link, asked, error) => {
    const standing = asked.filter((each) => stands(link, each));
    if (isTemporary(error)) {
      // What is held back stays so: the position from which to resume must not move on.
      const names = () => standing.filter((each) => stands(link, each)).map(({ channel }) => channel);
      later(link, error, () => send(link, names()));
      return;
    }
    for (const { cursor } of standing) release(link, cursor);
    for (const { channel } of standing) {
      const subscription = channels.get(channel);
      if (!subscription || link !== line.link) continue;
      turn(subscription, 'rejected', error);
      line.emit('rejected', { channel, code: error.code, message: error.message });
    }
  };

  const ended = (link, channel, { code, reason } = {}) => {
    link.asked.delete(channel);
    line.user.cursors.delete(channel);
    const subscription = channels.get(channel);
    if (subscription) leave(subscription, new PushError(code ?? 'CLOSED', reason ?? 'ended by the server'));
  };
  const resync = (link, channel) => {
    const cursor = cursorOf(link, channel);
    cursor.lose();
    cursor.held = null;
    if (channel === own()) line.forgetTasks();
    line.emit('gap', { channel, cause: 'resync' });
    if (link !== line.link) return;
    if (channel === own()) return void reread(link, channel, cursor);
    link.asked.delete(channel);
    sync([channel]);
  };
  /** After a `resync` of the inbox: what it still holds, less what was shown already; then what came meanwhile. */
  const reread = (link, channel, cursor, since) => {
    cursor.held ??= { link, pushes: [] };
    const read = ({ messages = [], offset, epoch, more }) => {
      if (!stands(link, { channel, cursor })) return;
      const { pushes } = cursor.held;
      cursor.held = null;
      if (!since) line.user.inbox.restart(epoch);
      for (const push of messages) subscriptions.receive(link, push);
      cursor.moveTo({ offset, epoch });
      cursor.held = { link, pushes };
      if (more) reread(link, channel, cursor, { offset, epoch });
      else release(link, cursor);
    };
    const failed = (error) => {
      if (!error || !stands(link, { channel, cursor })) return;
      if (isTemporary(error)) later(link, error, () => stands(link, { channel, cursor }) && reread(link, channel, cursor, since));
      else release(link, cursor);
    };
    line.ask('history', { channel, limit: 1000, ...(since && { since }) }, read, failed);
  };

  const subscriptions = {
    // --- for the application -----------------------------------------------------------------------------------------

    add(channel, handler, since) {
      const subscriber = { handler: callable(handler, channel) };
      let subscription = channels.get(channel);
      if (!subscription) {
        const cursor = line.user?.cursors.get(channel) ?? createCursor(since && { offset: since.offset, epoch: since.epoch });
        subscription = { channel, handlers: new Set(), ready: deferred(), cursor, state: 'subscribing', error: null, listeners: new Set() };
        channels.set(channel, subscription);
      } else if (subscription.state === 'rejected') {
        subscription.ready = deferred();
        turn(subscription, 'subscribing');
        line.link?.asked.delete(channel);
      }
      subscription.handlers.add(subscriber);
      flush();
      const { ready, listeners } = subscription;
      return {
        channel,
        ready: ready.promise,
        get state() {
          return subscription.handlers.has(subscriber) ? subscription.state : 'closed';
        },
        get error() {
          return subscription.error;
        },
        get position() {
          return subscription.cursor.position;
        },
        subscribe(listener) {
          const entry = { handler: callable(listener, channel) };
          listeners.add(entry);
          return () => listeners.delete(entry);
        },
        unsubscribe: () => drop(subscription, subscriber),
      };
    },

    /** Ends one handler's subscription, or the whole channel's. */
    remove(channel, handler) {
      const subscription = channels.get(channel);
      for (const subscriber of [...(subscription?.handlers ?? [])]) {
        if (handler === undefined || subscriber.handler === handler) drop(subscription, subscriber);
      }
    },

    handlers: (channel) => channels.get(channel)?.handlers,

    position(channel) {
      const { position } = line.user?.cursors.get(channel) ?? channels.get(channel)?.cursor ?? {};
      return position && { ...position };
    },

    // --- for the connection ------------------------------------------------------------------------------------------

    /** Every known position, to be kept over a reload, but the inbox's: that cursor the server keeps. */
    get positions() {
      const known = [...channels].map(([channel, { cursor }]) => [channel, cursor]).concat([...(line.user?.cursors ?? [])]);
      const placed = known.filter(([channel, { position }]) => position && !channel.startsWith('user:'));
      return { ...line.user?.kept, ...Object.fromEntries(placed.map(([channel, { position }]) => [channel, position])) };
    },

    /** The positions to sign in with: of the channels that the server subscribes. */
    get signInPositions() {
      const placed = [...(line.user?.cursors ?? [])].filter(([, { position }]) => position);
      return Object.fromEntries(placed.map(([channel, { position }]) => [channel, position]));
    },

    /** Channels that an event stream opens with: those without a position, as far as a url should be long. */
    channelsToOpen(link) {
      let length = 0;
      for (const [channel, subscription] of channels) {
        if (subscription.cursor.position) continue;
        length += channel.length;
        if (length > MAX_QUERY_CHARS) break;
        link.asked.set(channel, subscription);
      }
      return [...link.asked.keys()];
    },

    /** Signed in: the server subscribes these channels, and the inbox is in this state. */
    open(names, inbox) {
      const { user } = line;
      const before = user.cursors;
      user.cursors = new Map();
      for (const name of names) {
        const cursor = before.get(name) ?? channels.get(name)?.cursor ?? createCursor();
        user.cursors.set(name, cursor);
        if (channels.has(name)) channels.get(name).cursor = cursor;
      }
      if (!inbox) return;
      const channel = own();
      const cursor = user.cursors.get(channel) ?? createCursor();
      user.cursors.set(channel, cursor);
      if (user.inbox.open(inbox)) {
        line.forgetTasks();
        line.emit('gap', { channel, cause: 'not_recovered' });
      }
      // Lost again before the first push: resume from the cursor, as the server would.
      if (cursor.position?.epoch !== inbox.epoch) cursor.moveTo({ offset: inbox.acked, epoch: inbox.epoch });
    },

    /** An event stream is open, and with it the channels that it was opened with. */
    opened(link, data) {
      const asked = [...link.asked.keys()].map((channel) => ({ channel, cursor: cursorOf(link, channel) }));
      subscriptions.subscribed(link, asked, data);
    },

    /** After sign-in: takes what was resumed with it, and asks for all that is wanted. */
    begin(link, { results = {} }) {
      const resumed = Object.keys(results).map((channel) => ({ channel, cursor: cursorOf(link, channel), since: true }));
      for (const { channel } of resumed) if (channels.has(channel)) link.asked.set(channel, channels.get(channel));
      subscriptions.subscribed(link, resumed, { results });
      if (link !== line.link) return;
      // Of a channel that the server subscribes the position is known by subscribing again: without it, what is published
      // during the next interruption could not be asked for. An event stream had no way to resume these at sign-in.
      const placed = ([channel, { position }]) => channel.startsWith('user:') || position;
      const unknown = [...line.user.cursors].filter((each) => link.kind === 'sse' || !placed(each));
      sync(unknown.map(([channel]) => channel));
    },

    /** The link is gone: what was subscribed waits to be so again. */
    lost() {
      for (const each of channels.values()) if (each.state === 'subscribed') turn(each, 'subscribing');
    },

    /** The permissions changed: what was refused may be allowed now. */
    askRefusedAgain(link) {
      for (const { state, channel } of channels.values()) if (state === 'rejected') link.asked.delete(channel);
      flush();
    },

    /** Another user: how far anything was read concerns nobody any more. */
    forget() {
      for (const each of channels.values()) each.cursor = createCursor();
    },

    /** Ends every subscription. */
    clear() {
      for (const each of [...channels.values()]) leave(each, new PushError('CLOSED', 'the state was reset'));
    },

    /** A push came on `link`. */
    receive(link, push) {
      const { type, channel, offset, data } = push;
      const place = placeOf(channel);
      const inbox = offset !== undefined && place === own() ? line.user.inbox : null;
      const cursor = cursorOf(link, offset === undefined ? channel : place);
      if (offset !== undefined && cursor.held?.link === link) {
        // What lies between is still on its way: this one waits for its turn.
        cursor.held.pushes.push(push);
        return;
      }
      const accepted = cursor.accept(push);
      if (accepted === undefined) return;
      const repeated = !accepted && !inbox?.release(push);
      const task = typeof data?.taskId === 'string' && typeof data.version === 'number' && type.startsWith('task_');
      const stale = task && !repeated && line.applyTasks([data]).length === 0;
      // A final event from the inbox is a message of its own: it is told even where its state was known by other ways.
      const told = !repeated && !(stale && offset === undefined);
      const results = told ? line.dispatch(push) : [null];
      inbox?.take(push, results);
      const about = data?.channel ?? channel;
      if (type === 'unsubscribed') ended(link, about, data);
      else if (type === 'resync' && typeof about === 'string') resync(link, about);
      else if (type === 'inbox_overflow') line.emit('gap', { channel, cause: 'overflow', lost: data?.lost });
    },

    /** Takes the results for what was asked, `{channel, cursor, since}` each; `since`: from where it should resume. */
    subscribed(link, asked, { results = {}, rejected = {} }) {
      for (const each of asked) {
        const { channel, cursor, since } = each;
        if (!stands(link, each)) continue;
        if (rejected[channel]) {
          refuse(link, [each], errorOf(rejected[channel]));
          continue;
        }
        const subscription = channels.get(channel);
        const result = results[channel] ?? {};
        const { pushes = [] } = cursor.held ?? {};
        cursor.held = null;
        if (result.task) line.applyTasks([result.task]);
        // Of the inbox `inbox_overflow` and the epoch tell.
        const placed = result.epoch !== undefined && !channel.startsWith('user:');
        if (since && placed) {
          if (result.recovered) line.emit('recovered', { channel });
          else line.emit('gap', { channel, cause: 'not_recovered' });
        }
        for (const push of result.messages ?? []) subscriptions.receive(link, push);
        // The inbox's own messages come as pushes after this: its position moves with them alone.
        if (placed) cursor.moveTo(result);
        if (subscription) {
          subscription.ready.resolve(result);
          turn(subscription, 'subscribed');
          line.emit('subscribed', { channel, result });
        }
        for (const push of pushes) subscriptions.receive(link, push);
      }
    },
  };
  return subscriptions;
}
