// What stands between tabs and their connection, with tabs that say what the test wants, when it wants.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { Exchange } from '../../pushserver/web/static/pushclient/worker.js';
import { rig, nextTurn, tokenOf, WELCOME } from './fakes.js';

/** One tab, as the worker sees it: `pushes` is what it was handed, one after the other. */
class FakeTab {
  said = [];
  #port = { start: () => {}, postMessage: (message) => this.said.push(message) };

  constructor(exchange, visit) {
    exchange.accept(this.#port);
    this.send({ do: 'attach', connect: true, lock: null, options: {}, user: '42', token: tokenOf('42'), visit });
  }

  send(message) {
    this.#port.onmessage({ data: message });
  }

  get pushes() {
    return this.said.filter(({ is }) => is === 'push').map(({ push }) => push.data);
  }

  /** Says something about the push that it was handed last. */
  async word(what, more) {
    this.send({ do: what, n: this.said.findLast(({ is }) => is === 'push').n, ...more });
    await nextTurn();
  }
}

/** Some tabs on one connection, and a message in their user's inbox. One clock is everybody's. */
async function handed(context, count) {
  let r;
  const exchange = new Exchange((options) => (r = rig(createClient, { token: options.token, ackDelay: 10 })).client);
  const tabs = Array.from({ length: count }, (_, index) => new FakeTab(exchange, index));
  const { setTimeout, clearTimeout } = globalThis;
  Object.assign(globalThis, { setTimeout: r.clock.environment.setTimeout, clearTimeout: r.clock.environment.clearTimeout });
  context.after(() => {
    r.client.disconnect();
    Object.assign(globalThis, { setTimeout, clearTimeout });
  });
  await nextTurn();
  await r.welcome({ heartbeat: { interval: 3_600_000, timeout: 10_000 } });
  r.socket().receive('user_notification', 'precious', { channel: 'user:42', messageId: 'm', offset: 1, epoch: 'i1' });
  await nextTurn();
  assert.deepEqual(tabs.map(({ pushes }) => pushes), tabs.map(() => ['precious']));
  const acked = async () => {
    await r.clock.advance(20);
    return r.socket().of('ack').map(({ data }) => data.offset);
  };
  return { r, tabs, tick: (ms) => r.clock.advance(ms), acked };
}

test('a silent tab stands for no handler: the message waits, and goes to the first that comes', async (context) => {
  const { r, tabs: [live, silent], tick, acked } = await handed(context, 2);
  await live.word('done', { taken: false });
  await tick(1000);
  await tick(40_000);
  assert.deepEqual(await acked(), []);
  assert.deepEqual(r.received('error'), []);
  live.send({ do: 'offer' });
  await nextTurn();
  assert.deepEqual(live.pushes, ['precious', 'precious']);
  assert.deepEqual(silent.pushes, ['precious'], 'what it has not looked at is not sent again');
  await live.word('begun');
  await live.word('done', { taken: true });
  assert.deepEqual(await acked(), [1]);
});

test('what silent tabs hold is let go, unread, after holdUnhandled, and is no fault of a handler', async (context) => {
  const { r, tick, acked } = await handed(context, 2);
  await tick(1000);
  await tick(59_000);
  assert.deepEqual(await acked(), []);
  await tick(2_000);
  assert.deepEqual(await acked(), [1]);
  assert.deepEqual(r.received('error'), []);
});

test('a handler that came while a silent tab was still waited for gets it right after', async (context) => {
  const { tabs: [live], tick, acked } = await handed(context, 2);
  await live.word('done', { taken: false });
  live.send({ do: 'offer' });
  await nextTurn();
  assert.deepEqual(live.pushes, ['precious']);
  await tick(1000);
  assert.deepEqual(live.pushes, ['precious', 'precious']);
  await live.word('done', { taken: true });
  assert.deepEqual(await acked(), [1]);
});

test('a tab that has begun has it in hand: others are not asked, and a handler without end is reported', async (context) => {
  const { r, tabs: [live, busy], tick, acked } = await handed(context, 2);
  await live.word('done', { taken: false });
  await busy.word('begun');
  await tick(1000);
  live.send({ do: 'offer' });
  await nextTurn();
  assert.deepEqual(live.pushes, ['precious']);
  assert.deepEqual(await acked(), []);
  await tick(30_000);
  assert.deepEqual(r.received('error').map(({ code }) => code), ['HANDLER']);
  assert.deepEqual(await acked(), [1]);
});

test('a tab that begins late has it in hand from then on', async (context) => {
  const { r, tabs: [live, late], tick, acked } = await handed(context, 2);
  await live.word('done', { taken: false });
  await tick(1000);
  await late.word('begun');
  assert.deepEqual(late.pushes, ['precious']);
  await live.word('done', { taken: false });
  await tick(20_000);
  assert.deepEqual(await acked(), []);
  await late.word('done', { taken: true });
  assert.deepEqual(await acked(), [1]);
  assert.deepEqual(r.received('error'), []);
});

test('a tab that only says late that it took it, as one of an earlier build, is asked again and believed', async (context) => {
  const { tabs: [tab], tick, acked } = await handed(context, 1);
  await tick(1000);
  await tab.word('done', { taken: true });
  assert.deepEqual(tab.pushes, ['precious', 'precious']);
  await tab.word('done', { taken: true });
  assert.deepEqual(await acked(), [1]);
});

test('where the tab that had it in hand is gone, those that live get it, whoever is silent', async (context) => {
  const { tabs: [live, busy, silent], tick, acked } = await handed(context, 3);
  await live.word('done', { taken: false });
  await busy.word('begun');
  await tick(1000);
  busy.send({ do: 'leave' });
  await nextTurn();
  assert.deepEqual(live.pushes, ['precious', 'precious']);
  assert.deepEqual(silent.pushes, ['precious']);
  await live.word('done', { taken: true });
  assert.deepEqual(await acked(), [1]);
});
