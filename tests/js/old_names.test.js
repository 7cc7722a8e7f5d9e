// What programs of the first version import, call and read is there under the same names.
import './react_hooks.js';
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as index from '../../pushserver/web/static/pushclient/index.js';
import * as shared from '../../pushserver/web/static/pushclient/shared.js';
import * as worker from '../../pushserver/web/static/pushclient/worker.js';
import { rig, WELCOME } from './fakes.js';

const react = await import('../../pushserver/web/static/pushclient/react.js');

const EXPORTS = [
  [index, 'ClientBase DEFAULTS PushClient PushError SUBPROTOCOL createClient default mayReconnect reconnectWindow selectProgress selectStatus selectTask'],
  [shared, 'SharedClient createSharedClient default'],
  [worker, 'Exchange'],
  [react, 'configure useChannel usePushClient useSelector useTask useWebSocket'],
];
const CALLS = 'ack chat connect disconnect getPosition getState getTaskProgress getTaskStatus history on presence publish reconnect request resetState '
  + 'select send setToken subscribe subscribeChannel task unsubscribeChannel updateTaskProgress updateTaskStatus';
const STATE = 'connect connectionId connectionState disconnect error getTaskProgress getTaskStatus isConnected maxReconnectAttempts permissions reconnect '
  + 'reconnectAttempts reconnectInterval resetState send socket taskProgress taskStatus tasks transport updateTaskProgress updateTaskStatus userId';
const OPTIONS = 'ackDelay autoAck connectTimeout lossWindow maxQueue maxReconnectAttempts maxReconnectInterval queueTimeout reconnectInterval requestTimeout '
  + 'sseAfter sseUrl token transports url';

const missing = (names, has) => names.split(' ').filter((name) => !has(name));

test('imports', () => {
  for (const [module, names] of EXPORTS) assert.deepEqual(missing(names, (name) => module[name] !== undefined), []);
  assert.equal(index.default, index.createClient);
  assert.equal(shared.default, shared.createSharedClient);
});

test('options, calls and the state, of a client and of a shared one', () => {
  assert.deepEqual(missing(OPTIONS, (name) => name in index.DEFAULTS), []);
  const made = [index.createClient({ url: 'ws://push.test/ws' }), shared.createSharedClient({ url: 'ws://push.test/ws', open: () => ({}) })];
  for (const client of made) {
    assert.deepEqual(missing(CALLS, (name) => typeof client[name] === 'function'), [], client.constructor.name);
    assert.deepEqual(missing(STATE, (name) => name in client.getState()), []);
  }
});

test('events and what a subscription is', async () => {
  const r = rig(index.createClient);
  const socket = await r.connect();
  const [connect] = r.received('connect');
  assert.deepEqual(missing('connectionId userId transport node inbox', (name) => name in connect), []);
  const subscription = r.client.subscribeChannel('news', () => {});
  assert.deepEqual(missing('channel ready unsubscribe', (name) => name in subscription), []);
  const task = r.client.task('t');
  assert.deepEqual(missing('getState subscribe get cancel follow', (name) => typeof task[name] === 'function'), []);
  socket.drop(1006);
  assert.deepEqual(Object.keys(r.received('disconnect')[0]), ['code', 'reason', 'willReconnect']);
  r.client.disconnect();
  assert.equal(connect.userId, WELCOME.userId);
});
