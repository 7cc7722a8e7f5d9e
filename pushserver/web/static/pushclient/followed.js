import { PushError } from './index.js';

/** So long (ms) until what failed for now is tried again. */
const RETRY = 2000;

/**
 * State that is kept right for as long as somebody listens: `begin(set)` starts that with the first listener, and returns
 * what ends it after the last. For `useSyncExternalStore` and its kin.
 */
export function createFollowed(initial, begin) {
  const listeners = new Set();
  let state = initial;
  let end = null;
  let closing;

  const set = (patch) => {
    state = Object.freeze({ ...state, ...patch });
    for (const { listener } of [...listeners]) listener(state);
  };
  return {
    getState: () => state,

    /** Calls `listener(state)` after each change. Returns the function that ends it. */
    subscribe(listener) {
      const entry = { listener };
      clearTimeout(closing);
      listeners.add(entry);
      end ??= begin(set);
      return () => {
        if (!listeners.delete(entry) || listeners.size > 0) return;
        // One turn later: who comes back in between (a component that moved) finds all as it was.
        closing = setTimeout(() => {
          end();
          end = null;
          state = initial;
        }, 0);
      };
    },
  };
}

/**
 * Makes one for each client and channel, by `create(client, channel, options, over)`: those who follow the same channel share
 * it until `over()`.
 */
export function createShelf(create) {
  const shelves = new WeakMap();
  return (client, channel, options) => {
    const shelf = shelves.get(client) ?? new Map();
    shelves.set(client, shelf);
    if (!shelf.has(channel)) {
      const made = create(client, channel, options, () => shelf.get(channel) === made && shelf.delete(channel));
      shelf.set(channel, made);
    }
    return shelf.get(channel);
  };
}

/**
 * Subscribes to a channel. `on` has `push(push)`, `begun()` for each beginning of the subscription, also anew (and again
 * where it failed for now), `failed(error)`, and `forget()` where another user is signed in. Returns what ends it.
 */
export function followChannel(client, channel, options, on) {
  let due = false;
  let timer;
  // The answer and the event that tells of it are one beginning.
  const begun = async () => {
    if (due) return;
    due = true;
    clearTimeout(timer);
    await null;
    due = false;
    try {
      await on.begun();
    } catch (error) {
      if (/^(UNAVAILABLE|RATE_LIMITED|INTERNAL_ERROR|TIMEOUT)$/.test(error.code)) timer = setTimeout(begun, RETRY);
    }
  };
  const about = (act) => (event) => {
    if (event.channel === channel) act(event);
  };
  const subscription = client.subscribeChannel(channel, on.push, options);
  const ended = [
    client.on('subscribed', about(begun)),
    client.on('rejected', about(({ code, message }) => on.failed(new PushError(code, message)))),
    client.on('user_changed', () => {
      on.forget();
      // Where tabs share a connection, the channel may be subscribed for that user already.
      begun();
    }),
    subscription.unsubscribe,
    () => {
      clearTimeout(timer);
      // Nothing that is still under way begins anything.
      due = true;
    },
  ];
  subscription.ready.then(begun, () => {});
  return () => ended.forEach((each) => each());
}
