import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createEvents } from '../../pushserver/web/static/pushclient/events.js';

test('a push goes to those of its type, of its channel and of everything, in this order; what they return comes back', () => {
  const events = createEvents();
  events.on('*', () => 3);
  events.on('note', () => 1);
  assert.deepEqual(events.dispatch({ type: 'note' }, [{ handler: () => 2 }]), [1, 2, 3]);
  assert.deepEqual(createEvents().dispatch({ type: 'note' }), []);
});

test('the client\'s own events and pushes of their names are apart', () => {
  const events = createEvents();
  const received = [];
  events.on('connect', () => received.push('own'));
  events.onPush('connect', () => received.push('push'));
  events.emit('connect', {});
  events.dispatch({ type: 'connect' });
  assert.deepEqual(received, ['own', 'push']);
});

test('the same function may listen twice, and each ends for itself, also from inside', () => {
  const events = createEvents();
  let received = 0;
  const handler = () => (received += 1);
  events.on('a', handler);
  const end = events.on('a', () => (handler(), end()));
  events.dispatch({ type: 'a' });
  events.dispatch({ type: 'a' });
  assert.equal(received, 3);
});

test('one that fails is reported and keeps nobody from hearing', async (context) => {
  const report = context.mock.method(console, 'error', () => {});
  const events = createEvents();
  events.on('a', () => { throw new Error('now'); });
  events.on('a', async () => { throw new Error('later'); });
  events.on('a', () => 'received');
  assert.deepEqual(await Promise.all(events.dispatch({ type: 'a' })), [undefined, undefined, 'received']);
  assert.deepEqual(report.mock.calls.map((call) => call.arguments[0].message), ['now', 'later']);
});
