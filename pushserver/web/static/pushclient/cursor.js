/** So long an id means the same message: as long as the server knows it. */
const SAME_ID = 300000;
const MAX_SEEN = 4096;

/** How far a channel was read: its position, and the ids of what came lately. */
export function createCursor() {
  const seen = new Map();
  let position;
  return {
    /** The link that resumes here and what came on it meanwhile, `{link, pushes}`: these wait for what lies between. */
    held: null,

    get position() {
      return position;
    },

    /**
     * Takes a push. Returns true for a new one, false for a repeat, and undefined for one that lies before the position.
     * Within an epoch the offset tells; without one, or from another epoch, the id does while it means the same.
     */
    accept({ channel, from, messageId, offset, epoch, timestamp = 0 }) {
      const placed = offset !== undefined && position?.epoch === epoch;
      if (placed && offset <= position.offset) return undefined;
      if (offset !== undefined) position = { offset, epoch };
      if (messageId === undefined) return true;
      const key = JSON.stringify([channel, from, messageId]);
      const repeated = !placed && timestamp - seen.get(key) < SAME_ID;
      if (!repeated) {
        seen.delete(key);
        seen.set(key, timestamp);
        if (seen.size > MAX_SEEN) seen.delete(seen.keys().next().value);
      }
      return !repeated;
    },

    /** Moves to a position, in the same epoch forward only. */
    moveTo({ offset, epoch }) {
      if (position?.epoch !== epoch || position.offset < offset) position = { offset, epoch };
    },

    /** Where it stood means nothing any more. What was seen was seen. */
    lose() {
      position = undefined;
    },
  };
}
