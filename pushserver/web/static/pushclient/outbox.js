import { errorOf, PushError } from './errors.js';
import { deferred, onAbort } from './promises.js';

/** Requests that wait for their reply at one time: well below the server's burst of 100. */
const MAX_IN_FLIGHT = 32;
/**
 * How many times as long the client's own requests wait: the reply may be long and the way slow, and asked again it would
 * only be sent again. Whether the link is alive is seen elsewhere.
 */
const PATIENCE = 20;

/**
 * The requests: those of the application wait in a queue while there is no link, and go again where one broke; those of
 * the client itself (`ask`) concern one link and end with it.
 *
 * Of the line it needs `now`, `since`, `link` and `watch()`, which sees to it that `tick` is called.
 */
export function createOutbox(line, { maxQueue, queueTimeout, requestTimeout }) {
  let sequence = 0;
  let queue = [];
  let paused = false;
  const inFlight = new Map();

  const transmit = (entry) => {
    const { link } = line;
    if (!link) return void entry.fail(null);
    entry.sentAt = line.now();
    inFlight.set(entry.id, entry);
    link.send({ type: entry.type, id: entry.id, data: entry.data });
  };
  const enqueue = (entry) => {
    let at = queue.length;
    while (at > 0 && queue[at - 1].id > entry.id) at -= 1;
    queue.splice(at, 0, entry);
    line.watch();
    outbox.pump();
  };
  const drop = (entry) => {
    inFlight.delete(entry.id);
    queue = queue.filter((each) => each !== entry);
  };

  const outbox = {
    /** Whether nothing waits that time could end. */
    get isEmpty() {
      return queue.length + inFlight.size === 0;
    },

    /** Whether a request of the client itself has no reply yet. */
    get isAsking() {
      return [...inFlight.values()].some(({ deadline }) => !deadline);
    },

    /** Sends one protocol message of the application, now or when there is a link. Resolves with its reply's data. */
    request(type, data, { timeout = requestTimeout, signal } = {}) {
      const { promise, resolve, reject } = deferred();
      const aborted = () => reject(signal.reason ?? new PushError('CLOSED', 'aborted'));
      if (signal?.aborted) {
        aborted();
      } else if (queue.length + inFlight.size >= maxQueue) {
        reject(new PushError('QUEUE_FULL', `${maxQueue} requests are waiting`));
      } else {
        const deadline = line.now() + queueTimeout;
        const entry = { id: ++sequence, type, data, timeout, deadline, succeed: resolve, fail: reject };
        onAbort(signal, promise, () => (drop(entry), aborted()));
        enqueue(entry);
      }
      return promise;
    },

    /** Sends a message of the client itself on the present link. `fail(null)` tells that there is none, or no more. */
    ask(type, data, succeed, fail) {
      transmit({ id: ++sequence, type, data, timeout: PATIENCE * requestTimeout, deadline: 0, succeed, fail });
    },

    /** Takes the reply to a request made here; false where there is none with its id. */
    finish({ id, type, data }) {
      const entry = inFlight.get(id);
      if (!entry) return false;
      data ??= {};
      inFlight.delete(id);
      if (type === 'error' && data.code === 'RATE_LIMITED' && line.now() < entry.deadline) {
        // It was not carried out: it waits and goes again, before those that came after it.
        const pause = Math.max(100, data.retryAfter ?? 1000);
        paused = true;
        line.link.later(pause, () => ((paused = false), outbox.pump()));
        enqueue(entry);
        return true;
      }
      if (type === 'error' || type === 'auth_failed') entry.fail(errorOf(data));
      else entry.succeed(data);
      outbox.pump();
      return true;
    },

    /** Sends what waits, as far as the link allows. */
    pump() {
      while (queue.length > 0 && line.link && inFlight.size < MAX_IN_FLIGHT && !paused) {
        transmit(queue.shift());
      }
    },

    /** The link broke: what was sent and not answered waits for the next one. */
    lost() {
      paused = false;
      for (const entry of [...inFlight.values()]) {
        inFlight.delete(entry.id);
        if (entry.deadline) enqueue(entry);
        else entry.fail(null);
      }
    },

    /** Ends what has waited too long. */
    tick() {
      for (const entry of [...inFlight.values(), ...queue]) {
        const sent = inFlight.has(entry.id);
        if (sent ? line.since(entry.sentAt) < entry.timeout : line.now() < entry.deadline) continue;
        drop(entry);
        const what = sent ? 'reply to' : 'connection for';
        entry.fail(new PushError('TIMEOUT', `no ${what} ${entry.type} in time`));
      }
      outbox.pump();
    },

    /** Ends all: there is no connection and none will come, or it is another's. */
    fail(error) {
      const waiting = [...inFlight.values(), ...queue];
      inFlight.clear();
      queue = [];
      for (const entry of waiting) entry.fail(entry.deadline ? error : null);
    },
  };
  return outbox;
}
