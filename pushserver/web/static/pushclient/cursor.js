/** So long an id means the same message: as long as the server knows it. */
const SAME_ID = 300000;
const MAX_SEEN = 4096;

/** How far a channel was read: its position, and the ids of what came lately. */
export function createCursor() {
  const seen = new Map();
  let position;
  /** Rises where offsets begin anew: what was seen in an earlier era may come again under another offset. */
  let era = 0;

  const place = ({ offset, epoch }) => {
    if (position && position.epoch !== epoch) era += 1;
    position = { offset, epoch };
  };
  // The end of an output takes no position.
  const isBehind = ({ offset, epoch, type }) => position?.epoch === epoch && offset + (type === 'output') <= position.offset;

  return {
    /** The link that resumes here and what came on it meanwhile, `{link, pushes}`: these wait for what lies between. */
    held: null,

    get position() {
      return position;
    },

    /**
     * Takes a push. Returns true for a new one, false for a repeat, and undefined for one that lies before the position.
     * A later offset is new, whatever its id; without an offset, or in a later era, the id tells while it means the same.
     */
    accept(push) {
      const { channel, from, messageId, offset, timestamp = 0 } = push;
      if (offset !== undefined) {
        if (isBehind(push)) return undefined;
        place(push);
      }
      if (messageId === undefined) return true;
      const key = JSON.stringify([channel, from, messageId]);
      const known = seen.get(key);
      if (known && timestamp - known.timestamp < SAME_ID && (offset === undefined || known.era < era)) return false;
      seen.delete(key);
      seen.set(key, { timestamp, era });
      if (seen.size > MAX_SEEN) seen.delete(seen.keys().next().value);
      return true;
    },

    /** Moves to a position, in the same epoch forward only. */
    moveTo(to) {
      if (!isBehind(to)) place(to);
    },

    /** Where it stood means nothing any more. What was seen was seen. */
    lose() {
      position = undefined;
      era += 1;
    },
  };
}
