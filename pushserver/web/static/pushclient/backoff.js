/** The first attempt after a loss falls within so many ms, for those whom only their own connection left. */
const FIRST = 1000;

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
export function createBackoff(options, { now, random }) {
  let round = 0;
  let endsAt = 0;
  let everybody = false;
  const backoff = {
    /** Starts over. `first`: with the quick attempt that a lost connection gets; `all`: it may have hit everybody. */
    reset(first = false, all = false) {
      round = first ? -1 : 0;
      endsAt = 0;
      everybody = all;
    },

    /** The server cannot take what it has: from now on everybody is taken to wait, and nobody is quick. */
    widen() {
      everybody = true;
      round = Math.max(round, 0);
    },

    /** The moment of the next attempt. `after`: the ms that the server asked for, which has spread its clients itself. */
    next(after) {
      if (after !== undefined) {
        backoff.reset(false, true);
        endsAt = now() + after;
        return endsAt;
      }
      const wide = reconnectWindow(Math.max(round, 0), options, everybody);
      const width = round < 0 ? Math.min(FIRST, wide) : wide;
      round += 1;
      // An end that lies further ahead than a window is wide was noted before the wall clock was set back.
      const begins = Math.abs(endsAt - now() - width / 2) < width / 2 ? endsAt : now();
      endsAt = begins + width;
      return begins + random() * width;
    },
  };
  return backoff;
}
