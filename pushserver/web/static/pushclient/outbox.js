import { errorOf, PushError } from './errors.js';
import { deferred } from './promises.js';

/** Requests that wait for their reply at one time: well below the server's burst of 100. */
const MAX_IN_FLIGHT = 32;

/**
 * The requests: those of the application wait in a queue while there is no link, and go again where one broke; those of
 * the client itself (`ask`) concern one link and end with it.
 *
 * Of the line it needs `env`, `link` and `watch()`, which sees to it that `expire` is called.
 */
export class Outbox {
  #line;
  #options;
  #sequence = 0;
  #queue = [];
  #inFlight = new Map();
  #pausedUntil = 0;

  constructor(line, options) {
    this.#line = line;
    this.#options = options;
  }

  get isEmpty() {
    return this.#queue.length === 0;
  }

  /** Sends one protocol message of the application, now or when there is a link. Resolves with its reply's data. */
  request(type, data, timeout = this.#options.requestTimeout) {
    const handle = deferred();
    const { maxQueue, queueTimeout } = this.#options;
    if (this.#queue.length + this.#inFlight.size >= maxQueue) {
      handle.reject(new PushError('QUEUE_FULL', `${maxQueue} requests are waiting`));
    } else {
      const deadline = this.#line.env.now() + queueTimeout;
      this.#enqueue({ ...this.#next(type, data, timeout), deadline, succeed: handle.resolve, fail: handle.reject });
    }
    return handle.promise;
  }

  /** Sends a message of the client itself on the present link. `failed(null)` tells that there is none, or no more. */
  ask(type, data, succeed, fail) {
    this.#transmit({ ...this.#next(type, data, this.#options.requestTimeout), succeed, fail, internal: true });
  }

  /** Takes the reply to a request made here; false where there is none with its id. */
  settle({ id, type, data }) {
    const entry = id === undefined ? undefined : this.#inFlight.get(id);
    if (!entry) return false;
    data ??= {};
    this.#inFlight.delete(id);
    const { env } = this.#line;
    if (type === 'error' && data.code === 'RATE_LIMITED' && !entry.internal && env.now() < entry.deadline) {
      // It was not carried out: it waits and goes again, before those that came after it.
      const pause = Math.max(100, data.retryAfter ?? 1000);
      this.#pausedUntil = env.now() + pause;
      env.setTimeout(() => this.pump(), pause);
      this.#enqueue(entry);
      return true;
    }
    if (type === 'error' || type === 'auth_failed') entry.fail(errorOf(data));
    else entry.succeed(data);
    this.pump();
    return true;
  }

  /** Sends what waits, as far as the link allows. */
  pump() {
    while (this.#queue.length > 0 && this.#line.link && this.#inFlight.size < MAX_IN_FLIGHT) {
      if (this.#line.env.now() < this.#pausedUntil) return;
      this.#transmit(this.#queue.shift());
    }
  }

  /** The link broke: what was sent and not answered waits for the next one. */
  requeue() {
    for (const entry of [...this.#inFlight.values()]) {
      this.#inFlight.delete(entry.id);
      if (entry.internal) entry.fail(null);
      else this.#enqueue(entry);
    }
  }

  /** Ends what has waited too long. */
  expire() {
    const now = this.#line.env.now();
    for (const entry of [...this.#inFlight.values()]) {
      if (now - entry.sentAt < entry.timeout) continue;
      this.#inFlight.delete(entry.id);
      entry.fail(new PushError('TIMEOUT', `no reply to ${entry.type} within ${entry.timeout} ms`));
    }
    const late = this.#queue.filter((entry) => now >= entry.deadline);
    if (late.length > 0) this.#queue = this.#queue.filter((entry) => now < entry.deadline);
    for (const entry of late) entry.fail(new PushError('TIMEOUT', `${entry.type} waited too long for a connection`));
    this.pump();
  }

  /** Ends all: there is no connection and none will come. */
  fail(error) {
    const waiting = [...this.#inFlight.values(), ...this.#queue];
    this.#inFlight.clear();
    this.#queue = [];
    for (const entry of waiting) entry.fail(entry.internal ? null : error);
  }

  /** The wall clock was set back: what was noted on it would hold things up for as long. */
  setBack() {
    this.#pausedUntil = 0;
    for (const entry of this.#inFlight.values()) entry.sentAt = this.#line.env.now();
  }

  #next(type, data, timeout) {
    return { id: ++this.#sequence, type, data, timeout };
  }

  #enqueue(entry) {
    let at = this.#queue.length;
    while (at > 0 && this.#queue[at - 1].id > entry.id) at -= 1;
    this.#queue.splice(at, 0, entry);
    this.#line.watch();
    this.pump();
  }

  #transmit(entry) {
    const { link, env } = this.#line;
    if (!link) {
      if (entry.internal) entry.fail(null);
      return;
    }
    entry.sentAt = env.now();
    this.#inFlight.set(entry.id, entry);
    link.transport.send(JSON.stringify({ type: entry.type, id: entry.id, data: entry.data }));
  }
}
