// What the watchdog notices, on a clock and a page that the test moves.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createWatchdog } from '../../pushserver/web/static/pushclient/watchdog.js';
import { Clock, fakePage } from './fakes.js';

function stage() {
  const clock = new Clock();
  const page = fakePage();
  const seen = [];
  const note = (name) => () => void seen.push(name);
  const on = Object.fromEntries(['tick', 'hidden'].map((name) => [name, note(name)]));
  on.woke = (isReachable) => void seen.push(isReachable ? 'free' : 'woke');
  const watchdog = createWatchdog({ ...clock.environment, ...page }, on);
  return { clock, watchdog, seen, ...page };
}

test('a tick in time is a tick', async () => {
  const { clock, watchdog, seen } = stage();
  watchdog.arm();
  assert.ok(watchdog.isArmed);
  await clock.advance(2500);
  assert.deepEqual(seen, ['tick']);
  assert.ok(!watchdog.isArmed, 'whoever wants another arms it again');
});

test('ticks are as frequent as the heartbeat needs', async () => {
  const { clock, watchdog, seen } = stage();
  watchdog.arm({ interval: 400, timeout: 200 });
  await clock.advance(50);
  assert.deepEqual(seen, ['tick']);
});

test('a tick that is late was a sleep, one that is early a clock set back; in a hidden tab timers are late by rule', async () => {
  const { clock, watchdog, seen, document } = stage();
  watchdog.arm();
  await clock.sleep(60_000);
  assert.deepEqual(seen.splice(0), ['free', 'tick']);
  document.visibilityState = 'hidden';
  watchdog.arm();
  clock.time -= 3_600_000;
  for (const timer of clock.timers.values()) timer.at -= 3_600_000;
  await clock.advance(2500);
  assert.deepEqual(seen, ['woke', 'tick']);
});

test('the page\'s events are received until it is stopped', () => {
  const { watchdog, seen, window, document } = stage();
  watchdog.listen();
  const fire = () => {
    for (const type of ['online', 'offline', 'pagehide']) window.dispatchEvent(new Event(type));
    window.dispatchEvent(Object.assign(new Event('pageshow'), { persisted: true }));
    for (const state of ['hidden', 'visible']) {
      document.visibilityState = state;
      document.dispatchEvent(new Event('visibilitychange'));
    }
  };
  fire();
  assert.deepEqual(seen.splice(0), ['free', 'woke', 'hidden', 'free', 'free']);
  watchdog.stop();
  fire();
  assert.deepEqual(seen, []);
});
