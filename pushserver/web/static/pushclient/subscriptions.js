import { createCursor } from './cursor.js';
import { errorOf, isTemporary, PushError } from './errors.js';
import { callable } from './events.js';
import { deferred } from './promises.js';
import { askForToken, claimsOf } from './tokens.js';

const MAX_SUBSCRIBE_CHARS = 30000;
const MAX_QUERY_CHARS = 1500;

/** So long (ms) a channel waits whose token could not be had. */
const RETRY_TOKEN = 5000;

const isInbox = (channel) => channel.startsWith('user:');

/**
 * The channels: which are wanted, how far each was read, and what comes on them.
 *
 * A subscription `{channel, handlers, ready, cursor, token, state, error}` begins with a channel's first handler and
 * ends with its last; its position ends with it. The channels that the server subscribes are the user's, and so are
 * their cursors. `link.asked` says for which subscription a channel was asked on that link.
 *
 * Of the line it needs `random`, `later`, `serverNow`, `link`, `user`, `ask`, `emit`, `dispatch`, `applyTasks`, `forgetTasks` and `inboxList`.
 */
export function createSubscriptions(line, { connectTimeout } = {}) {
  const { ask, emit, applyTasks } = line;
  const channels = new Map();
  let flushing = false;
  /** The inbox, where its position of before a reload was not known at the sign-in. */
  let unsent = null;

  const own = () => `user:${line.user?.id}`;
  const known = (channel) => line.user?.cursors.get(channel) ?? channels.get(channel)?.cursor;
  const cursorOf = (link, channel) => {
    let cursor = known(channel) ?? link.strays.get(channel);
    // Nobody here asked for it (a late push, the server's API): it is followed for as long as the link lasts.
    if (!cursor) link.strays.set(channel, (cursor = createCursor()));
    return cursor;
  };
  /** What an answer is taken for; it says nothing to a subscription that came later. */
  const asking = (link, channel, since) => ({ channel, since, cursor: cursorOf(link, channel) });
  const stands = (link, { channel, cursor }) => link === line.link && cursorOf(link, channel) === cursor;

  const turn = (subscription, state, error = null) => {
    if (subscription.state === state) return;
    Object.assign(subscription, { state, error });
    if (error) subscription.ready.reject(error);
  };
  const leave = (subscription, error) => {
    if (!channels.delete(subscription.channel)) return;
    turn(subscription, 'closed', error);
    flush();
  };
  const drop = (subscription, subscriber) => {
    const { handlers } = subscription;
    if (handlers.delete(subscriber) && handlers.size === 0) leave(subscription, new PushError('CLOSED', 'unsubscribed'));
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
    const refused = (error) => later(link, error, () => {
      for (const channel of gone) if (!channels.has(channel)) link.asked.set(channel, null);
      sync();
    });
    if (gone.length > 0) ask('unsubscribe', { channels: gone }, () => {}, refused);
    const wanted = [...channels.values()].filter((each) => link.asked.get(each.channel) !== each);
    send(link, [...new Set([...wanted.map(({ channel }) => channel), ...extra])]);
  };
  const send = (link, names) => {
    const batches = [];
    let room = 0;
    for (const channel of names) {
      const subscription = channels.get(channel);
      if (subscription) link.asked.set(channel, subscription);
      if (subscription?.token) {
        sendWithToken(link, subscription);
        continue;
      }
      const item = itemOf(link, channel);
      room -= JSON.stringify(item).length;
      if (room < 0) {
        batches.push([]);
        room = MAX_SUBSCRIBE_CHARS;
      }
      batches.at(-1).push(item);
    }
    for (const items of batches) sendItems(link, items);
  };
  const sendItems = (link, items) => {
    const asked = items.map((item) => asking(link, item.channel ?? item, item.since));
    const failed = (error) => error && refuse(link, asked, error);
    ask('subscribe', { channels: items }, (data) => subscribed(link, asked, data), failed);
  };
  const itemOf = (link, channel, token) => {
    const { kept } = line.user;
    const cursor = cursorOf(link, channel);
    if (kept[channel] && !cursor.position) cursor.moveTo(kept[channel]);
    delete kept[channel];
    const since = cursor.position;
    if (since && cursor.held?.link !== link) cursor.held = { link, pushes: [] };
    return since || token ? { channel, since, token } : channel;
  };
  const sendWithToken = async (link, subscription) => {
    const { channel, token } = subscription;
    const asked = asking(link, channel);
    const isStill = () => stands(link, asked) && subscription.token === token;
    try {
      const shown = typeof token.source === 'function' ? await takeToken(subscription) : token.source;
      if (isStill()) sendItems(link, [itemOf(link, channel, shown)]);
    } catch (error) {
      if (!isStill()) return;
      if (error.code === 'UNAUTHORIZED') return void refuse(link, [asked], error);
      emit('error', error);
      link.later(RETRY_TOKEN, () => isStill() && send(link, [channel]));
    }
  };
  const takeToken = async (subscription) => {
    const { channel, token } = subscription;
    // Most pages never need it.
    const { createChannelToken } = await import('./channel_token.js');
    const askFor = () => askForToken(token.source, { channel }, line.later, connectTimeout);
    return (token.grant ??= createChannelToken(line, askFor, claimsOf)).take();
  };
  /**
   * Where it failed for now: tries again on the same link, after the time that the server asked for or a second or two.
   * Returns whether it does.
   */
  const later = (link, error, again) => {
    if (!error || !isTemporary(error)) return false;
    link.later(Math.max(error.retryAfter ?? 0, 1000) * (1 + line.random()), again);
    return true;
  };

  /** Takes the results for what was asked. */
  const subscribed = (link, asked, { results = {}, rejected = {} }) => {
    for (const each of asked) {
      const { channel, cursor, since } = each;
      if (!stands(link, each)) continue;
      if (rejected[channel]) {
        refuse(link, [each], errorOf(rejected[channel]));
        continue;
      }
      const subscription = channels.get(channel);
      const result = results[channel] ?? {};
      const { output } = result;
      const pushes = take(link, cursor);
      if (result.task) applyTasks([result.task]);
      // Of the inbox `inbox_overflow` and the epoch tell.
      const placed = result.epoch !== undefined && !isInbox(channel);
      if (since && placed) {
        if (result.recovered) emit('recovered', { channel });
        else emit('gap', { channel, cause: 'not_recovered' });
      }
      receiveAll(link, result.messages);
      // The inbox's own messages come as pushes after this: its position moves with them alone.
      if (output?.reset) cursor.lose();
      if (placed || output) cursor.moveTo(output ?? result);
      if (subscription) {
        subscription.ready.resolve(result);
        turn(subscription, 'subscribed');
        emit('subscribed', { channel, result });
      }
      receiveAll(link, pushes);
    }
  };
  const refuse = (link, asked, error) => {
    const standing = () => asked.filter((each) => stands(link, each));
    // What is held back stays so: the position from which to resume must not move on.
    if (later(link, error, () => send(link, standing().map(({ channel }) => channel)))) return;
    for (const { channel, cursor } of standing()) {
      receiveAll(link, take(link, cursor));
      const subscription = channels.get(channel);
      if (!subscription || link !== line.link) continue;
      if (/TOKEN/.test(error.code) && subscription.token?.grant?.refused()) {
        send(link, [channel]);
        continue;
      }
      turn(subscription, 'rejected', error);
      emit('rejected', { channel, code: error.code, message: error.message });
    }
  };

  /** What waited at a cursor for what lies before it. */
  const take = (link, cursor) => {
    const pushes = cursor.held?.link === link ? cursor.held.pushes : [];
    cursor.held = null;
    return pushes;
  };
  const receiveAll = (link, pushes = []) => {
    for (const push of pushes) subscriptions.receive(link, push);
  };

  const ended = (link, channel, { code = 'CLOSED', reason } = {}) => {
    const subscription = channels.get(channel);
    link.asked.delete(channel);
    line.user.cursors.delete(channel);
    if (code === 'TOKEN_EXPIRED' && subscription?.token?.grant) {
      subscription.token.grant.refused();
      turn(subscription, 'subscribing');
      flush();
    } else if (subscription) {
      leave(subscription, new PushError(code, reason));
    }
  };
  const resync = (link, channel) => {
    const cursor = cursorOf(link, channel);
    cursor.held = null;
    const inbox = channel === own();
    // What a position in the inbox is worth in a later epoch, the server knows.
    if (inbox) line.forgetTasks();
    else cursor.lose();
    emit('gap', { channel, cause: 'resync' });
    if (link !== line.link) return;
    link.asked.delete(channel);
    if (inbox) {
      reread(link, asking(link, channel));
      line.inboxList.refresh();
    } else {
      sync([channel]);
    }
  };
  /** After a `resync` of the inbox: what it still holds, less what was shown already; then what came meanwhile. */
  const reread = (link, asked) => {
    const { channel, cursor, since } = asked;
    cursor.held ??= { link, pushes: [] };
    const read = ({ messages, offset, epoch, more }) => {
      if (!stands(link, asked)) return;
      const pushes = take(link, cursor);
      if (!since) line.user.inbox.open({ epoch, acked: 0 });
      receiveAll(link, messages);
      cursor.moveTo({ offset, epoch });
      if (!more) return receiveAll(link, pushes);
      cursor.held = { link, pushes };
      reread(link, { ...asked, since: { offset, epoch } });
    };
    const failed = (error) => later(link, error, () => reread(link, asked)) || receiveAll(link, take(link, cursor));
    ask('history', { channel, limit: 1000, since }, read, failed);
  };

  const subscriptions = {
    // --- for the application -----------------------------------------------------------------------------------------

    add(channel, handler, since, source) {
      const subscriber = { handler: callable(handler, channel) };
      let subscription = channels.get(channel);
      if (!subscription) {
        const cursor = known(channel) ?? createCursor();
        if (since && !cursor.position) cursor.moveTo(since);
        subscription = { channel, handlers: new Set(), ready: deferred(), cursor, state: 'subscribing', error: null };
        channels.set(channel, subscription);
      } else if (subscription.state === 'rejected') {
        subscription.ready = deferred();
        turn(subscription, 'subscribing');
        line.link?.asked.delete(channel);
      }
      // The one that was given last counts.
      if (source && source !== subscription.token?.source) {
        subscription.token = { source };
        line.link?.asked.delete(channel);
      }
      const { handlers, ready } = subscription;
      handlers.add(subscriber);
      flush();
      return {
        channel,
        ready: ready.promise,
        get state() {
          return handlers.has(subscriber) ? subscription.state : 'closed';
        },
        get error() {
          return subscription.error;
        },
        get position() {
          return subscription.cursor.position;
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

    position: (channel) => known(channel)?.position,

    // --- for the connection ------------------------------------------------------------------------------------------

    /**
     * The positions to sign in with, of the channels that the server subscribes; or `all` that are worth to be kept over
     * a reload: of the inbox what was dealt with, since what a handler still had in hand has to come again.
     */
    positions(all) {
      const positions = all ? { ...line.user.kept } : {};
      const add = ({ position }, channel) => {
        // What there is of an output is gone with the page.
        if (position && !channel.startsWith('output:')) positions[channel] = position;
      };
      line.user?.cursors.forEach(add);
      if (all) {
        channels.forEach(({ cursor }, channel) => add(cursor, channel));
        add(line.user.inbox, own());
      }
      return positions;
    },

    /** Channels that an event stream opens with: those without a position, as far as a url should be long. */
    toOpen(link) {
      let room = MAX_QUERY_CHARS;
      for (const [channel, subscription] of channels) {
        if (subscription.cursor.position || subscription.token) continue;
        room -= channel.length;
        if (room < 0) break;
        link.asked.set(channel, subscription);
      }
      return [...link.asked.keys()];
    },

    /** Signed in: the server subscribes these channels, and the inbox is in this state. */
    open(names, inbox) {
      const cursors = new Map(names.map((name) => [name, known(name) ?? createCursor()]));
      line.user.cursors = cursors;
      for (const each of channels.values()) each.cursor = cursors.get(each.channel) ?? each.cursor;
      const channel = own();
      const cursor = cursors.get(channel);
      if (!inbox || !cursor) return;
      const { kept } = line.user;
      const earlier = kept[channel];
      const since = earlier?.epoch === inbox.epoch ? earlier : undefined;
      delete kept[channel];
      if (line.user.inbox.open(inbox, since?.offset)) {
        line.forgetTasks();
        emit('gap', { channel, cause: 'not_recovered' });
      }
      if (since) {
        cursor.moveTo(since);
        // What was acknowledged elsewhere while the page was loaded anew is not sent by itself.
        if (since.offset < inbox.acked) reread(line.link, asking(line.link, channel, since));
      }
      // Lost again before the first push: resume from the cursor, as the server would. A position of an earlier epoch is
      // kept: the server knows what it is worth.
      unsent = !cursor.position && earlier ? channel : null;
      if (!cursor.position) cursor.moveTo(earlier ?? { offset: inbox.acked, epoch: inbox.epoch });
    },

    /** After sign-in: takes what was resumed with it, or what the event stream was opened with; asks for the rest. */
    begin(link, data) {
      const sse = link.kind === 'sse';
      const names = sse ? [...link.asked.keys()] : Object.keys(data.results ?? {});
      for (const channel of names) if (channels.has(channel)) link.asked.set(channel, channels.get(channel));
      subscribed(link, names.map((channel) => asking(link, channel, !sse)), data);
      if (link !== line.link) return;
      // Of a channel that the server subscribes the position is known by subscribing again: without it, what is published
      // during the next interruption could not be asked for. An event stream had no way to resume these at sign-in, nor had
      // a page that was loaded anew, and kept a position in an inbox whose epoch moved on since.
      const missing = (channel) => channel === unsent || !(isInbox(channel) || known(channel).position);
      sync([...line.user.cursors.keys()].filter((channel) => sse || missing(channel)));
    },

    /** Renews the tokens that are due. */
    tick() {
      const due = [...channels.values()].filter(({ token }) => token?.grant?.isDue());
      if (line.link) send(line.link, due.map(({ channel }) => channel));
    },

    /** The link is gone: what was subscribed waits to be so again. */
    lost() {
      for (const each of channels.values()) if (each.state === 'subscribed') turn(each, 'subscribing');
    },

    /** The permissions changed: what was refused may be allowed now. */
    renewed(link) {
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
      // Final task events come through the inbox.
      const inbox = offset !== undefined && (channel === own() || channel?.startsWith?.('task:'));
      const cursor = cursorOf(link, inbox ? own() : channel);
      if (offset !== undefined && cursor.held?.link === link) {
        // What lies between is still on its way: this one waits for its turn.
        cursor.held.pushes.push(push);
        return;
      }
      const isNew = cursor.accept(push);
      if (isNew === undefined) return;
      const task = typeof data?.taskId === 'string' && typeof data.version === 'number' && type.startsWith('task_');
      if (isNew && inbox) line.inboxList.add(push);
      if (type === 'inbox_changed') line.inboxList.changed(data);
      const stale = task && isNew && applyTasks([data]).length === 0;
      // A final event from the inbox is a message of its own: it is told even where its state was known by other ways.
      const results = isNew && !(stale && offset === undefined) ? line.dispatch(push) : [null];
      if (inbox) line.user?.inbox.take(push, results);
      const about = data?.channel ?? channel;
      if (type === 'unsubscribed') ended(link, about, data);
      else if (type === 'resync' && typeof about === 'string') resync(link, about);
      else if (type === 'inbox_overflow') emit('gap', { channel, cause: 'overflow', lost: data?.lost });
    },
  };
  return subscriptions;
}
