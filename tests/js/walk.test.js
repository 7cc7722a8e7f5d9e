// Nobody ever gets what came for another: walks of two users over tabs, tokens, subscriptions, workers and reloads.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { World } from './walk.js';

const WALKS = Number(process.env.WALKS ?? 200);
const STEPS = 25;

/** What may happen next; each takes the world and a tab. */
const MOVES = {
  notify: (world) => world.server.notify(world.pick(['alice', 'bob'])),
  chat: (world) => world.server.chat(world.pick(['alice', 'bob'])),
  visit: (world, tab) => tab.visit(world.pick(['alice', 'bob'])),
  leave: (_, tab) => tab.leave(),
  disconnect: (_, tab) => tab.disconnect(),
  crash: (world) => world.crash(),
  progress: (world) => world.server.progress(world.pick(['alice', 'bob'])),
  ask: (_, tab) => tab.ask(),
  /** The session of all tabs changes, as a cookie does: their clients find out when they ask. */
  cookie: (world) => (world.session = world.pick(['alice', 'bob'])),
  signIn: (world, tab) => tab.signIn(world.pick(['alice', 'bob']), world.random() < 0.5),
  signOutAndIn(world, tab) {
    tab.signOut();
    tab.signIn(world.pick(['alice', 'bob']), world.random() < 0.5);
  },
  cut: (world) => world.pick([...world.server.links])?.end(1006),
  reload(world, tab) {
    world.close(tab);
    world.open(tab.shared);
  },
  another(world, tab) {
    if (world.tabs.length > 3) world.close(tab);
    else world.open(world.random() < 0.7);
  },
};

/** Time goes on; whatever a tab shows is looked at. */
async function pass(world, ms) {
  for (const end = world.clock.time + ms; world.clock.time < end;) {
    await world.clock.advance(Math.min(40, end - world.clock.time));
    world.expire();
    for (const tab of world.tabs) tab.check();
  }
}

async function walk(seed) {
  const world = new World(seed);
  const all = new Set();
  const timers = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout };
  // What a tab and the worker wait for is of this world, too.
  Object.assign(globalThis, { setTimeout: world.clock.environment.setTimeout, clearTimeout: world.clock.environment.clearTimeout });
  try {
    for (const shared of [true, true, false]) world.open(shared);
    for (let step = 0; step < STEPS; step += 1) {
      const name = world.pick(Object.keys(MOVES));
      MOVES[name](world, world.pick(world.tabs));
      for (const tab of world.tabs) all.add(tab);
      await pass(world, world.random() < 0.5 ? world.random() * 100 : world.random() * 2000);
    }
    // In the end all sign in as somebody, and hear what comes to them.
    for (const tab of world.tabs) tab.signIn(world.pick(['alice', 'bob']), false);
    await pass(world, 5000);
    for (const tab of world.tabs) tab.visit(tab.user);
    await pass(world, 1000);
    const last = { alice: [], bob: [] };
    for (const [user, messages] of Object.entries(last)) messages.push(world.server.notify(user), world.server.chat(user));
    await pass(world, 1000);
    for (const tab of world.tabs) {
      const missing = last[tab.user].filter((each) => !tab.shown.includes(each));
      assert.deepEqual(missing, [], `seed ${seed}: a tab of ${tab.user} (${tab.shared ? 'shared' : 'alone'}) hears nothing any more`);
    }
    for (const tab of [...world.tabs]) world.close(tab);
  } finally {
    Object.assign(globalThis, timers);
  }
  const tabs = [...all];
  return { wrong: tabs.flatMap((tab) => tab.wrong), shown: tabs.reduce((sum, tab) => sum + tab.shown.length, 0) };
}

test(`${WALKS} walks of two users`, async () => {
  let shown = 0;
  for (const seed of Array(WALKS).keys()) {
    const { wrong, shown: here } = await walk(seed);
    assert.deepEqual(wrong, [], `seed ${seed}`);
    shown += here;
  }
  assert.ok(shown > WALKS * 10, `only ${shown} shown`);
});
