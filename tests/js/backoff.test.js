import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createBackoff, reconnectWindow } from '../../pushserver/web/static/pushclient/backoff.js';
import { DEFAULTS } from '../../pushserver/web/static/pushclient/options.js';

/** A backoff at time 0 whose random numbers are `point`; `at` moves its clock. */
function stage(point = 0.5) {
  let time = 0;
  const backoff = createBackoff(DEFAULTS, { now: () => time, random: () => point });
  return { backoff, at: (moment) => (time = moment, backoff) };
}

test('the width of a window', () => {
  const widths = (everybody) => [0, 1, 2, 3, 4, 99].map((round) => reconnectWindow(round, DEFAULTS, everybody));
  assert.deepEqual(widths(false), [3000, 6000, 12000, 24000, 30000, 30000]);
  assert.deepEqual(widths(true), [12000, 12000, 12000, 24000, 30000, 30000]);
});

test('windows lie end to end, with one attempt in each', () => {
  const { backoff, at } = stage();
  backoff.reset();
  assert.equal(backoff.next(), 1500);
  assert.equal(at(1500).next(), 6000);
  assert.equal(at(6000).next(), 15000);
});

test('the first attempt after a loss is quick, and wide windows follow', () => {
  const { backoff, at } = stage();
  backoff.reset(true, true);
  assert.equal(backoff.next(), 500);
  assert.equal(at(500).next(), 7000);
  assert.equal(at(7000).next(), 19000);
});

test('where the server can take no more, nobody is quick', () => {
  const { backoff } = stage();
  backoff.reset(true, false);
  backoff.widen();
  assert.equal(backoff.next(), 6000);
});

test('what the server has spread is taken as it is, and wide windows follow', () => {
  const { backoff, at } = stage(0);
  backoff.reset();
  assert.equal(backoff.next(7300), 7300);
  assert.equal(at(7400).next(), 7400);
  assert.equal(at(7500).next(), 19400);
});

test('a clock that was set back leaves no window in the future', () => {
  const { backoff, at } = stage(0);
  at(100_000).next();
  assert.equal(at(10).next(), 10);
});
