/** Resolves once `probe()` is truthy, which is looked at after each `turn()`; fails with `what` after `limit` ms. */
export async function until(probe, what = String(probe), limit = 60000, turn = () => new Promise((resolve) => setTimeout(resolve, 5))) {
  const end = Date.now() + limit;
  for (;;) {
    const value = probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`never came: ${what}`);
    await turn();
  }
}

/** Resolves with the first state of `client` for which `probe(state)` is true: also one that passes between two looks. */
export function becomes(client, probe) {
  return new Promise((resolve) => {
    const unheard = client.subscribe((state) => {
      if (!probe(state)) return;
      unheard();
      resolve(state);
    });
  });
}
