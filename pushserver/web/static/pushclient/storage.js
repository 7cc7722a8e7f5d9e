/** What is kept over a reload of the page. Where nothing can be kept, nothing is; the client works without. */
export function createStorage({ storage }, url) {
  const guarded = (run) => {
    try {
      return run();
    } catch {
      // Full, forbidden, or not ours.
      return undefined;
    }
  };
  const place = (key) => `pushclient ${url ?? ''} ${key}`;
  return {
    read: (key) => guarded(() => JSON.parse(storage.getItem(place(key)))) ?? undefined,
    write: (key, value) => guarded(() => storage.setItem(place(key), JSON.stringify(value))),
    remove: (key) => guarded(() => storage.removeItem(place(key))),
  };
}
