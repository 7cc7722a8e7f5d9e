/** A promise whose rejection nobody has to look at. */
export const quiet = (promise) => (promise.catch(() => {}), promise);

/** A promise with its `resolve` and `reject` beside it; quiet. */
export function deferred() {
  const handle = {};
  handle.promise = quiet(new Promise((resolve, reject) => Object.assign(handle, { resolve, reject })));
  return handle;
}

/** Calls `act` once the signal is aborted, if the promise has not settled by then; nothing stays on the signal. */
export function onAbort(signal, promise, act) {
  if (!signal) return;
  const forget = () => signal.removeEventListener('abort', act);
  signal.addEventListener('abort', act);
  promise.then(forget, forget);
}
