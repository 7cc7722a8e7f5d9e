/** So many messages that nobody took hold back the place of those behind them. */
const MOST_OPEN = 1000;

/**
 * One tab's place in the inbox: what of it this tab has taken, whichever tab acknowledged it. It is what a reload goes on
 * from; what lies between is read then, while that which comes meanwhile waits.
 */
export function createTabInbox() {
  /** Everything up to here was taken: `{offset, epoch}`, or undefined where nothing is known. */
  let position;
  /** Offsets that were shown behind it, in order; which of these were taken; which are in their handlers' hands. */
  let open = [];
  const taken = new Set();
  const busy = new Map();
  /** What comes while the way to it is read. */
  let held = null;

  const isBehind = ({ offset, epoch }) => position?.epoch === epoch && offset <= position.offset;
  const begin = (from) => {
    position = from;
    open = [];
    taken.clear();
    busy.clear();
  };
  const take = (offset) => {
    taken.add(offset);
    while (taken.delete(open[0])) position = { ...position, offset: open.shift() };
  };

  return {
    get position() {
      return position;
    },

    /** All tabs together have dealt with what is up to here: this one begins behind it, where it knows no better. */
    begin(from) {
      // Where the way from before a reload is read, it is known what was not shown here.
      if (held === null && position?.epoch !== from?.epoch) begin(from);
    },

    /** Goes on from where the page was; from now on what comes is held. */
    resume(from) {
      begin(from);
      held = [];
    },

    /** What it resumes from is here in another epoch. */
    goOn(from) {
      begin(from);
    },

    /** Keeps a message for later, where something is held. */
    hold: (message) => held !== null && held.push(message) > 0,

    /** Returns what was held. */
    release() {
      const messages = held ?? [];
      held = null;
      return messages;
    },

    /**
     * Has a message shown by `run`, which resolves with whether somebody took it; not if that was done, or is under way
     * (then `begun` is called). Resolves with the same.
     */
    async show(push, run, begun) {
      const { offset, epoch } = push;
      if (isBehind(push)) return true;
      if (position?.epoch !== epoch) begin({ offset: offset - 1, epoch });
      if (taken.has(offset)) return true;
      if (busy.has(offset)) {
        begun?.();
      } else {
        if (!open.includes(offset)) open.push(offset);
        if (open.length > MOST_OPEN) take(open[0]);
        busy.set(offset, run());
      }
      const was = await busy.get(offset);
      if (position.epoch === epoch && busy.delete(offset) && was) take(offset);
      return was;
    },
  };
}
