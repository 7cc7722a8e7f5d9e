import { errorOf, PushError, TEMPORARY } from './errors.js';
import { deferred } from './promises.js';

const MAX_SEEN = 4096;
const MAX_SUBSCRIBE_CHARS = 30000;
const MAX_QUERY_CHARS = 1500;

/**
 * The channels: which are wanted, how far each was read, and what comes on them.
 *
 * Of the line it needs `env`, `link`, `userId`, `ask`, `emit`, `dispatch` and `applyTasks`; beside it, the inbox.
 */
export class Subscriptions {
  #line;
  #inbox;
  #channels = new Map();
  #server = new Set();
  #flushing = false;
  #positions = new Map();
  #seen = new Set();

  constructor(line, inbox) {
    this.#line = line;
    this.#inbox = inbox;
  }

  // --- for the application -------------------------------------------------------------------------------------------

  add(channel, handler, since) {
    let entry = this.#channels.get(channel);
    if (!entry) {
      entry = { channel, handlers: new Set(), ready: deferred() };
      this.#channels.set(channel, entry);
      if (since) this.#positions.set(channel, { offset: since.offset, epoch: since.epoch });
    } else if (entry.rejected) {
      Object.assign(entry, { rejected: false, ready: deferred() });
      this.#line.link?.channels.delete(channel);
    }
    const subscriber = { handler };
    entry.handlers.add(subscriber);
    this.#flush();
    return {
      channel,
      ready: entry.ready.promise,
      unsubscribe: () => {
        if (entry.handlers.delete(subscriber) && entry.handlers.size === 0) this.#leave(entry);
      },
    };
  }

  /** Ends one handler's subscription, or the whole channel's. */
  remove(channel, handler) {
    const entry = this.#channels.get(channel);
    if (!entry) return;
    for (const subscriber of [...entry.handlers]) {
      if (handler === undefined || subscriber.handler === handler) entry.handlers.delete(subscriber);
    }
    if (entry.handlers.size === 0) this.#leave(entry);
  }

  position(channel) {
    const position = this.#positions.get(channel);
    return position && { ...position };
  }

  // --- for the connection --------------------------------------------------------------------------------------------

  /** The positions to sign in with: of the channels that the server subscribes. */
  get signInPositions() {
    const positions = {};
    for (const channel of this.#server) {
      if (this.#positions.has(channel)) positions[channel] = this.#positions.get(channel);
    }
    return positions;
  }

  /** Channels that an event stream opens with: those without a position, as far as a url should be long. */
  channelsToOpen(link) {
    let length = 0;
    for (const channel of this.#channels.keys()) {
      if (this.#positions.has(channel)) continue;
      length += channel.length;
      if (length > MAX_QUERY_CHARS) break;
      link.channels.add(channel);
    }
    return [...link.channels];
  }

  /** Signed in: the server subscribes these channels, and the inbox is in this state. */
  open(channels, inbox) {
    this.#server = new Set(channels);
    if (!inbox) return;
    const own = this.#own;
    if (this.#inbox.open(inbox)) this.#line.emit('gap', { channel: own, cause: 'not_recovered' });
    // Lost again before the first push: resume from the cursor, as the server would.
    if (this.#positions.get(own)?.epoch !== inbox.epoch) {
      this.#positions.set(own, { offset: inbox.acked, epoch: inbox.epoch });
    }
  }

  /** After sign-in: takes what was resumed with it, and asks for all that is wanted. */
  begin(link, data) {
    const resumed = Object.keys(data.results ?? {});
    for (const channel of resumed) if (this.#channels.has(channel)) link.channels.add(channel);
    this.subscribed(link, resumed, this.#positions, data);
    // Of a channel that the server subscribes the position is known by subscribing again: without it, what is published
    // during the next interruption could not be asked for. An event stream had no way to resume these at sign-in.
    const placed = (channel) => channel.startsWith('user:') || this.#positions.has(channel);
    this.#sync([...this.#server].filter((channel) => link.kind === 'sse' || !placed(channel)));
  }

  /** The permissions changed: what was refused may be allowed now. */
  askRefusedAgain(link) {
    for (const entry of this.#channels.values()) if (entry.rejected) link.channels.delete(entry.channel);
    this.#flush();
  }

  /** Another user: how far anything was read concerns nobody any more. */
  forget() {
    this.#positions.clear();
    this.#server.clear();
    this.#seen.clear();
    this.#inbox.forget();
  }

  /** Ends every subscription. */
  clear() {
    for (const entry of this.#channels.values()) entry.ready.reject(new PushError('CLOSED', 'the state was reset'));
    this.#channels.clear();
  }

  /** A push came on `link`. */
  receive(link, push) {
    const { type, channel, offset, epoch, messageId, data } = push;
    const inbox = this.#inboxChannel(channel);
    const place = inbox ?? channel;
    if (offset !== undefined) {
      if (link.resuming.has(place)) {
        // What lies between is still on its way: this one waits for its turn.
        link.resuming.get(place).push(push);
        return;
      }
      const position = this.#positions.get(place);
      if (position?.epoch === epoch && offset <= position.offset) return;
      this.#positions.set(place, { offset, epoch });
    }
    const repeated = messageId !== undefined && this.#wasSeen(`${channel} ${messageId}`);
    const task = typeof data?.taskId === 'string' && typeof data.version === 'number' && type.startsWith('task_');
    const stale = task && !repeated && this.#line.applyTasks([data]).length === 0;
    let running = [];
    // A final event from the inbox is a message of its own: it is told even where its state was known by other ways.
    const told = repeated || (stale && offset === undefined);
    if (!told) running = this.#line.dispatch(push, this.#channels.get(channel)?.handlers);
    if (inbox && offset !== undefined) this.#inbox.handledAfter(running, push);
    const about = data?.channel ?? channel;
    if (type === 'unsubscribed') this.#ended(link, about);
    else if (type === 'resync' && typeof about === 'string') this.#resync(link, about);
    else if (type === 'inbox_overflow') this.#line.emit('gap', { channel, cause: 'overflow', lost: data?.lost });
  }

  /** Takes the results for `asked`, of which those in `since` wanted to resume. */
  subscribed(link, asked, since, { results = {}, rejected = {} }) {
    for (const channel of asked) {
      if (link !== this.#line.link) return;
      const refusal = rejected[channel];
      if (refusal) {
        this.#notSubscribed(link, [channel], errorOf(refusal));
        continue;
      }
      const held = link.resuming.get(channel) ?? [];
      link.resuming.delete(channel);
      const entry = this.#channels.get(channel);
      const result = results[channel] ?? {};
      if (result.task) this.#line.applyTasks([result.task]);
      // Of the inbox `inbox_overflow` and the epoch tell.
      if (since.has(channel) && result.recovered !== undefined && !channel.startsWith('user:')) {
        if (result.recovered) this.#line.emit('recovered', { channel });
        else this.#line.emit('gap', { channel, cause: 'not_recovered' });
      }
      for (const push of result.messages ?? []) this.receive(link, push);
      // The inbox's own messages come as pushes after this: its position moves with them alone.
      if (result.epoch !== undefined && !channel.startsWith('user:')) this.#moveTo(channel, result);
      if (entry) entry.rejected = false;
      entry?.ready.resolve(result);
      if (entry) this.#line.emit('subscribed', { channel, result });
      for (const push of held) this.receive(link, push);
    }
  }

  // --- positions -----------------------------------------------------------------------------------------------------

  get #own() {
    return `user:${this.#line.userId}`;
  }

  /** The channel whose positions a push counts on, where that is the inbox (final task events come through it, too). */
  #inboxChannel(channel) {
    return channel === this.#own || (typeof channel === 'string' && channel.startsWith('task:')) ? this.#own : null;
  }

  /** Moves a channel's position to `offset`, in the same epoch forward only. */
  #moveTo(channel, { offset, epoch }) {
    const position = this.#positions.get(channel);
    if (position?.epoch !== epoch || position.offset < offset) this.#positions.set(channel, { offset, epoch });
  }

  #wasSeen(key) {
    if (this.#seen.has(key)) return true;
    this.#seen.add(key);
    if (this.#seen.size > MAX_SEEN) this.#seen.delete(this.#seen.values().next().value);
    return false;
  }

  #ended(link, channel) {
    link.channels.delete(channel);
    this.#positions.delete(channel);
    const entry = this.#channels.get(channel);
    this.#channels.delete(channel);
    entry?.ready.reject(new PushError('CLOSED', 'the subscription was ended by the server'));
  }

  #resync(link, channel) {
    this.#positions.delete(channel);
    this.#line.emit('gap', { channel, cause: 'resync' });
    if (link !== this.#line.link) return;
    if (channel === this.#own) this.#rereadInbox(link, channel);
    else if (this.#channels.has(channel) && link.channels.delete(channel)) this.#sync();
    else this.#sync([channel]);
  }

  /** After a `resync` of the inbox: what it still holds, less what was shown already. */
  #rereadInbox(link, channel) {
    const reply = ({ messages = [], offset, epoch }) => {
      if (link !== this.#line.link) return;
      this.#inbox.restart(epoch);
      for (const push of messages) this.receive(link, push);
      this.#moveTo(channel, { offset, epoch });
    };
    this.#line.ask('history', { channel, limit: 1000 }, reply, () => {});
  }

  // --- asking --------------------------------------------------------------------------------------------------------

  #leave(entry) {
    if (this.#channels.get(entry.channel) !== entry) return;
    this.#channels.delete(entry.channel);
    entry.ready.reject(new PushError('CLOSED', 'unsubscribed'));
    this.#flush();
  }

  /** Once per turn of the event loop, so that many calls are one message. */
  #flush() {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.#sync();
    });
  }

  /** Brings what the server knows to what is wanted; `extra` is asked for beside it. */
  #sync(extra = []) {
    const { link } = this.#line;
    if (!link) return;
    const left = [...link.channels].filter((channel) => !this.#channels.has(channel));
    for (const channel of left) {
      link.channels.delete(channel);
      if (!this.#server.has(channel)) this.#positions.delete(channel);
    }
    const leave = left.filter((channel) => !this.#server.has(channel));
    const refused = (error) => {
      if (error === null || !TEMPORARY.has(error.code)) return;
      this.#later(link, error, () => {
        for (const channel of leave) link.channels.add(channel);
        this.#sync();
      });
    };
    if (leave.length > 0) this.#line.ask('unsubscribe', { channels: leave }, () => {}, refused);
    const wanted = [...this.#channels.keys()].filter((channel) => !link.channels.has(channel));
    for (const channel of wanted) link.channels.add(channel);
    this.#send(link, [...new Set([...wanted, ...extra])]);
  }

  #send(link, names) {
    let batch = [];
    let size = 0;
    const batches = [];
    for (const channel of names) {
      const since = this.#positions.get(channel);
      const item = since ? { channel, since } : channel;
      if (since) link.resuming.set(channel, link.resuming.get(channel) ?? []);
      size += JSON.stringify(item).length;
      if (size > MAX_SUBSCRIBE_CHARS) {
        batches.push(batch);
        batch = [];
        size = 0;
      }
      batch.push(item);
    }
    if (batch.length > 0) batches.push(batch);
    for (const channels of batches) {
      const since = new Map(channels.filter((item) => item.since).map((item) => [item.channel, item.since]));
      const asked = channels.map((item) => item.channel ?? item);
      const failed = (error) => this.#notSubscribed(link, asked, error);
      this.#line.ask('subscribe', { channels }, (data) => this.subscribed(link, asked, since, data), failed);
    }
  }

  #notSubscribed(link, channels, error) {
    if (error === null || link !== this.#line.link) return;
    if (TEMPORARY.has(error.code) || error.code === 'TIMEOUT') {
      // What is held back stays so: the position from which to resume must not move on.
      const wanted = (channel) => this.#channels.has(channel) || this.#server.has(channel);
      this.#later(link, error, () => this.#send(link, channels.filter(wanted)));
      return;
    }
    for (const channel of channels) {
      const held = link.resuming.get(channel) ?? [];
      link.resuming.delete(channel);
      for (const push of held) this.receive(link, push);
    }
    for (const channel of channels) {
      const entry = this.#channels.get(channel);
      if (!entry) continue;
      entry.rejected = true;
      entry.ready.reject(error);
      this.#line.emit('rejected', { channel, code: error.code, message: error.message });
    }
  }

  /** Tries again on the same link, after the time that the server asked for or a second or two. */
  #later(link, { retryAfter = 0 }, run) {
    const { env } = this.#line;
    const delay = Math.max(retryAfter, 1000) * (1 + env.random());
    env.setTimeout(() => link === this.#line.link && run(), delay);
  }
}
