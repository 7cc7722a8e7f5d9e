/** `on(type)` of these hears the client itself; a push of such a type is heard by `onPush`, `*` and its channel. */
const OWN_EVENTS = /^(connect|disconnect|error|gap|recovered|rejected|subscribed|user_changed)$/;

/** What a handler returns, or resolves with, that did not take its push: nobody was there to see it. */
export const UNTAKEN = Symbol('untaken');

const report = (error) => (globalThis.reportError ?? console.error)(error);

/** Runs one application function; its failure is reported and concerns nobody else. Returns what it returns. */
export function run(handler, ...values) {
  try {
    const result = handler(...values);
    return result?.then ? Promise.resolve(result).catch(report) : result;
  } catch (error) {
    report(error);
    return undefined;
  }
}

/** Refuses at once what each push would stumble over. */
export function callable(handler, what) {
  if (typeof handler !== 'function') throw new TypeError(`the handler of ${what} is not a function`);
  return handler;
}

/** Who listens to what. */
export function createEvents() {
  const own = new Map();
  const pushes = new Map();

  const add = (map, type, handler) => {
    const entry = { handler: callable(handler, type) };
    const set = map.get(type) ?? new Set();
    map.set(type, set.add(entry));
    return () => void set.delete(entry);
  };
  const call = (handlers, value) => [...(handlers ?? [])].map(({ handler }) => run(handler, value));

  return {
    /** Calls `handler` for each push of `type` (`*`: every push), or for one of the client's own events. */
    on: (type, handler) => add(OWN_EVENTS.test(type) ? own : pushes, type, handler),

    /** Calls `handler` for each push of `type`, whatever its name. */
    onPush: (type, handler) => add(pushes, type, handler),

    emit: (type, value) => void call(own.get(type), value),

    /** Whether somebody listens to such a push. */
    has: ({ type }, channelHandlers) => [pushes.get(type), channelHandlers, pushes.get('*')].some((set) => set?.size > 0),

    /** Hands a push to everyone who listens. Returns what they returned: nothing where nobody does. */
    dispatch: (push, channelHandlers) =>
      [...call(pushes.get(push.type), push), ...call(channelHandlers, push), ...call(pushes.get('*'), push)],
  };
}
