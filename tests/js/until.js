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
