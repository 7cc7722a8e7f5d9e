/** A promise whose rejection nobody has to look at. */
export const quiet = (promise) => (promise.catch(() => {}), promise);

/** A promise with its `resolve` and `reject` beside it; quiet. */
export function deferred() {
  const handle = {};
  handle.promise = quiet(new Promise((resolve, reject) => Object.assign(handle, { resolve, reject })));
  return handle;
}
