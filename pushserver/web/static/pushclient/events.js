/** `on(type)` of these hears the client itself; a push of the same type reaches channel handlers and `*` only. */
export const OWN_EVENTS = new Set(['connect', 'disconnect', 'error', 'gap', 'recovered', 'rejected', 'subscribed']);

function report(error) {
  if (typeof globalThis.reportError === 'function') globalThis.reportError(error);
  else console.error(error);
}

/** Runs one application function; its failure is reported and concerns nobody else. Returns its promise, if any. */
export function run(handler, ...values) {
  try {
    const result = handler(...values);
    if (typeof result?.then !== 'function') return undefined;
    return Promise.resolve(result).catch(report);
  } catch (error) {
    report(error);
    return undefined;
  }
}

/** Who listens to what. */
export class Events {
  #handlers = new Map();

  /** Calls `handler` for each push of `type` (`*`: every push), or for one of the client's own events. */
  on(type, handler) {
    const entry = { handler };
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(entry);
    return () => {
      const set = this.#handlers.get(type);
      if (set?.delete(entry) && set.size === 0) this.#handlers.delete(type);
    };
  }

  emit(type, value) {
    return [...(this.#handlers.get(type) ?? [])].map(({ handler }) => run(handler, value));
  }

  /** Hands a push to everyone who listens. Returns the promises of asynchronous handlers. */
  dispatch(push, channelHandlers = []) {
    const own = OWN_EVENTS.has(push.type) ? [] : this.emit(push.type, push);
    const channel = [...channelHandlers].map(({ handler }) => run(handler, push));
    return [...own, ...channel, ...this.emit('*', push)].filter(Boolean);
  }
}
