import { TEMPORARY } from './errors.js';

/**
 * What of the inbox was dealt with, and its acks.
 *
 * Of the line it needs `env`, `link`, `ask` and `userId`.
 */
export class Inbox {
  #line;
  #options;
  #epoch = null;
  #handled = 0;
  #acked = 0;
  #timer = null;
  #tail = Promise.resolve();

  constructor(line, options) {
    this.#line = line;
    this.#options = options;
  }

  /** Signed in: the inbox has this epoch and cursor. Returns whether it was made anew since the last time. */
  open({ epoch, acked }) {
    const anew = this.#epoch !== null && this.#epoch !== epoch;
    if (this.#epoch !== epoch) this.#handled = 0;
    this.#epoch = epoch;
    this.#acked = acked;
    return anew;
  }

  /** The inbox is read anew, in this epoch: nothing of it counts as dealt with. */
  restart(epoch) {
    this.#epoch = epoch;
    this.#handled = this.#acked = 0;
  }

  /** Counts a push as dealt with once its handlers, and those of all before it, have run. */
  handledAfter(running, { offset, epoch }) {
    const { userId } = this.#line;
    const done = () => {
      if (!this.#options.autoAck || userId !== this.#line.userId || epoch !== this.#epoch) return;
      this.ack(offset);
    };
    this.#tail = this.#tail.then(() => Promise.all(running)).then(done);
  }

  /** Everything up to `offset` was dealt with. */
  ack(offset) {
    this.#handled = Math.max(this.#handled, offset);
    this.#schedule();
  }

  /** Tells the server at once. */
  flush() {
    this.close();
    if (!this.#line.link || this.#epoch === null || this.#handled <= this.#acked) return;
    const before = this.#acked;
    this.#acked = this.#handled;
    const failed = (error) => {
      if (error === null || !TEMPORARY.has(error.code)) return;
      this.#acked = Math.min(this.#acked, before);
      this.#schedule();
    };
    this.#line.ask('ack', { offset: this.#handled, epoch: this.#epoch }, () => {}, failed);
  }

  /** Ends the wait for more to acknowledge together. */
  close() {
    this.#line.env.clearTimeout(this.#timer);
    this.#timer = null;
  }

  forget() {
    this.restart(null);
  }

  #schedule() {
    if (this.#timer !== null || !this.#line.link || this.#handled <= this.#acked) return;
    this.#timer = this.#line.env.setTimeout(() => this.flush(), this.#options.ackDelay);
  }
}
