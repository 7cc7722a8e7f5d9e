// It imports nothing: what a page loads that never needs it must not be cut for its sake.
const MIN_LIFE = 5000;
const MAX_LEAD = 60000;

/**
 * The token for one channel, of a function that is asked for it: `ask()` does so. What it gave is kept until it is due for
 * renewal or was refused, as a session's is. `claimsOf(token)` reads one; `serverNow()` is the time by which it ends.
 */
export function createChannelToken({ serverNow }, ask, claimsOf) {
  let kept;
  let reused;
  let due = Infinity;

  const token = {
    /** Whether it is time to ask for another. */
    isDue: () => serverNow() >= due,

    /** The token to subscribe with. */
    async take() {
      reused = kept && !token.isDue();
      if (reused) return kept;
      // While it is asked for it is not due again; where that fails, the next time asks as well.
      token.refused();
      kept = await ask();
      const left = Math.max(MIN_LIFE, claimsOf(kept).exp * 1000 - serverNow());
      // Without an end it lasts.
      due = serverNow() + left - Math.min(MAX_LEAD, left * 0.2) || Infinity;
      return kept;
    },

    /** The server refused it. Returns whether there may be a better one: where this was an old one. */
    refused() {
      kept = undefined;
      due = Infinity;
      return reused;
    },
  };
  return token;
}
