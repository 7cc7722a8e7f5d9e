// A clock that the matrix can set, in a page, a worker or a Node program: from the moment `at` on it is `by` ms ahead.
{
  const real = Date.now.bind(Date);
  let step = { at: Infinity, by: 0 };
  globalThis.realNow = real;
  globalThis.setClock = (given) => (step = given);
  Date.now = () => real() + (real() >= step.at ? step.by : 0);
}
