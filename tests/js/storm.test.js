// No reconnect storm: of 500 clients that lose their server at once, no second holds more than 15 % of the returns.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { Clock, FakeSocket, nextTurn, WELCOME } from './fakes.js';

const CLIENTS = 500;

/** A repeatable source of numbers in [0, 1) (mulberry32). */
function source(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let value = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 4294967296;
  };
}

/** The most returns in any second, aligned or not. */
function busiest(times) {
  const sorted = [...times].sort((a, b) => a - b);
  let from = 0;
  return sorted.reduce((most, time, index) => {
    while (sorted[from] <= time - 1000) from += 1;
    return Math.max(most, index - from + 1);
  }, 0);
}

async function outage(seconds, seed) {
  const clock = new Clock();
  const random = source(seed);
  let up = true;
  const returns = [];
  class Socket extends FakeSocket {
    static all = [];
    constructor(...values) {
      super(...values);
      if (up) returns.push(clock.time);
      // Refused, or signed in, as soon as the event loop turns.
      clock.environment.setTimeout(() => {
        if (!up) return this.drop(1006);
        this.open();
        setImmediate(() => this.receive('auth_success', WELCOME, { id: 'auth' }));
      }, 0);
    }

    send(text) {
      if (text.includes('"ping"')) this.receive('pong', { timestamp: clock.time });
    }
  }
  const clients = Array.from({ length: CLIENTS }, () =>
    createClient({ url: 'ws://push.test/ws', token: 'x', transports: ['websocket'], environment: { WebSocket: Socket, random, ...clock.environment } }));
  for (const client of clients) client.connect();
  await clock.advance(10);
  await nextTurn();
  assert.equal(clients.filter((client) => client.getState().isConnected).length, CLIENTS);
  const live = [...Socket.all];
  up = false;
  returns.length = 0;
  for (const socket of live) socket.drop(1006);
  const lostAt = clock.time;
  while (clock.time < lostAt + seconds * 1000) await clock.advance(Math.min(1000, lostAt + seconds * 1000 - clock.time));
  up = true;
  for (let second = 0; second < 90 && returns.length < CLIENTS; second += 1) await clock.advance(1000);
  await clock.advance(10);
  assert.equal(clients.filter((client) => client.getState().isConnected).length, CLIENTS);
  for (const client of clients) client.disconnect();
  return returns.map((time) => time - lostAt);
}

test('a server that loses its clients and stays: they come back within a second, evenly over it', async () => {
  const returns = await outage(0, 1);
  assert.equal(returns.length, CLIENTS);
  assert.ok(Math.max(...returns) <= 1000);
  for (let tenth = 0; tenth < 10; tenth += 1) {
    const count = returns.filter((time) => Math.floor(time / 100) === tenth).length;
    assert.ok(count >= CLIENTS * 0.05 && count <= CLIENTS * 0.15, `${count} in tenth ${tenth}`);
  }
});

for (const seconds of [2, 5, 11, 20, 60]) {
  test(`a server that is gone for ${seconds} s`, async () => {
    const returns = await outage(seconds, seconds);
    assert.equal(returns.length, CLIENTS);
    const most = busiest(returns);
    assert.ok(most <= CLIENTS * 0.15, `${most} of ${CLIENTS} in one second`);
  });
}
