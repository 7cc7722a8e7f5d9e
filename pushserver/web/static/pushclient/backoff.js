/**
 * Width in ms of the window in which attempt number `round` (from 0) falls, at a uniformly random point (full jitter).
 *
 * After a loss that may have hit everybody no window is narrower than `lossWindow`. Windows are laid end to end, one
 * attempt in each, so whenever the server comes back the share of clients per second is 1/window: 1/12 = 8.3 % by
 * default. Of 500 clients a second then sees 42 with a standard deviation of 6.2; 15 % (75) is 5.4 deviations away.
 * Without the windows' alignment the second attempts of early birds would add to the first ones of late birds.
 */
export function reconnectWindow(round, { reconnectInterval, maxReconnectInterval, lossWindow }, everybody) {
  const grown = Math.min(maxReconnectInterval, reconnectInterval * 2 ** Math.min(round, 20));
  return everybody ? Math.max(lossWindow, grown) : grown;
}

/** When the next attempt falls. */
export class Backoff {
  #options;
  #env;
  #round = 0;
  #endsAt = 0;
  #everybody = false;

  constructor(options, env) {
    this.#options = options;
    this.#env = env;
  }

  /** Starts over: with a sign-in, or with the loss of a connection, which may have hit everybody. */
  reset(everybody = false) {
    this.#round = this.#endsAt = 0;
    this.#everybody = everybody;
  }

  /** The server cannot take what it has: from now on everybody is taken to wait. */
  widen() {
    this.#everybody = true;
  }

  /** The moment of the next attempt. `after`: the ms that the server asked for, which has spread its clients itself. */
  next(after) {
    const { now, random } = this.#env;
    if (after !== undefined) {
      this.reset(true);
      this.#endsAt = now() + after;
      return this.#endsAt;
    }
    const begins = Math.max(now(), this.#endsAt);
    const width = reconnectWindow(this.#round, this.#options, this.#everybody);
    this.#round += 1;
    this.#endsAt = begins + width;
    return begins + random() * width;
  }

  /** The wall clock was set back: a window that was noted on it would hold things up for as long. */
  setBack() {
    this.#endsAt = 0;
  }
}
