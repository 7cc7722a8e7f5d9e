import { isTemporary, PushError } from './errors.js';
import { UNTAKEN } from './events.js';
import { isTaskEnd } from './tasks.js';

/** With so many behind it (as many as an inbox keeps by default) a handler has no more than so many ms left. */
const CROWD = 100;
const CROWDED = 1000;

/**
 * One user's inbox: who took its messages, and what of it is acknowledged.
 *
 * The cursor moves over a message once somebody took it (a handler, the store, or a page that shows the whole inbox) and
 * over all before it. What nobody took is held, and offered to each handler that comes; after `holdUnhandled` it is let
 * go, unread.
 *
 * Of the line it needs `now`, `later`, `link`, `ask`, `emit`, `dispatch` and `inboxList`.
 */
export function createInbox(line, { autoAck, ackDelay, holdUnhandled, handlerTimeout }) {
  let epoch = null;
  let handled = 0;
  let acked = 0;
  let gathering = null;
  /** No connection is wanted: no timer runs. */
  let resting = false;
  /** Messages whose way is not yet clear, oldest first: `{push, done, held, end, late, limit}`; `end()` stops their timer. */
  let entries = [];

  const finish = (entry) => {
    entry.end();
    entry.done = true;
    while (entries[0]?.done) {
      const { push } = entries.shift();
      if (autoAck && push.epoch === epoch) handled = Math.max(handled, push.offset);
    }
    schedule();
  };
  const deal = (entry, results) => {
    entry.end();
    entry.held = false;
    if (results.some((result) => result?.then)) {
      entry.late = () => {
        finish(entry);
        line.emit('error', new PushError('HANDLER', `a handler of ${entry.push.type} has not ended in time`));
      };
      entry.limit = handlerTimeout;
      bound(entry);
    }
    Promise.all(results).then((values) => {
      if (entry.done) return;
      if (line.inboxList.isWanted || isTaskEnd(entry.push) || values.some((value) => value !== UNTAKEN)) return finish(entry);
      hold(entry);
    });
  };
  const arm = (entry, delay, act) => {
    entry.end();
    if (!resting) entry.end = line.later(delay, act);
  };
  /** From now on its handler has `entry.limit` ms. */
  const bound = (entry) => arm(entry, entry.limit, entry.late);
  const hold = (entry) => {
    entry.late = null;
    entry.held = true;
    entry.until ??= line.now() + holdUnhandled;
    arm(entry, entry.until - line.now(), () => finish(entry));
  };
  const stopGathering = () => {
    gathering?.();
    gathering = null;
  };
  const held = () => entries.filter((entry) => entry.held);
  const schedule = (pause = ackDelay) => {
    if (!gathering && line.link && handled > acked) gathering = line.later(pause, inbox.flush);
  };

  const inbox = {
    /** How far it was dealt with here, whatever other devices have acknowledged. */
    get position() {
      return epoch === null ? undefined : { offset: handled, epoch };
    },

    /**
     * Signed in: the inbox has this epoch and cursor, and was dealt with here up to `from`. Returns whether it was made anew
     * since the last time.
     */
    open({ epoch: now, acked: cursor }, from = cursor) {
      const anew = epoch !== null && epoch !== now;
      if (epoch !== now) handled = from;
      epoch = now;
      acked = cursor;
      const rested = resting;
      resting = false;
      held().forEach(hold);
      if (rested) entries.filter((entry) => entry.late).forEach(bound);
      return anew;
    },

    /** A push was handed over, and these are the results of its handlers. */
    take(push, results) {
      const entry = { push, done: false, held: false, end: () => {} };
      entries.push(entry);
      deal(entry, results);
      const [oldest] = entries;
      if (entries.length <= CROWD || !oldest.late || oldest.limit === CROWDED) return;
      oldest.limit = CROWDED;
      bound(oldest);
    },

    /** Somebody began to listen: hands over what nobody took. */
    offer() {
      for (const entry of held()) {
        const results = line.dispatch(entry.push);
        if (results.length > 0) deal(entry, results);
      }
    },

    /** The whole inbox is shown from now on: nothing of it needs a handler. */
    showWhole() {
      for (const entry of held()) finish(entry);
    },

    /** Everything up to `offset` was dealt with. */
    ack(offset) {
      handled = Math.max(handled, offset);
      schedule();
    },

    /** Tells the server at once. */
    flush() {
      stopGathering();
      if (!line.link || epoch === null || handled <= acked) return;
      const before = acked;
      acked = handled;
      const failed = (error) => {
        if (error === null || !isTemporary(error)) return;
        acked = Math.min(acked, before);
        // As for all that is asked again: ten errors in a row end a connection.
        schedule(1000 * (1 + line.random()));
      };
      line.ask('ack', { offset: handled, epoch }, () => {}, failed);
    },

    /** No connection is wanted: neither messages nor handlers are waited for. */
    rest() {
      stopGathering();
      for (const entry of entries) entry.end();
      resting = true;
    },

    /** Its user is gone. */
    end() {
      stopGathering();
      for (const entry of entries) {
        entry.end();
        entry.done = true;
      }
      entries = [];
      epoch = null;
    },
  };
  return inbox;
}
