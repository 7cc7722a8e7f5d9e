// Who is in a channel, over a fake server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PushError } from '../../pushserver/web/static/pushclient/errors.js';
import { NO_PRESENCE, presenceOf } from '../../pushserver/web/static/pushclient/presence.js';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';
import { nextTurn } from './fakes.js';

const channel = 'chat:lobby';
const user = (userId, connections = 1) => ({ userId, connections });

async function stage(context, script = {}) {
  const fake = new FakeServer(script);
  const client = fake.create();
  context.after(() => fake.close());
  await client.connect();
  let reply = () => ({ users: [user('42')], total: 1 });
  fake.reply('presence', () => reply());
  const presence = presenceOf(client, channel);
  return {
    fake,
    client,
    presence,
    answers: (users) => (reply = () => ({ users, total: users.length })),
    fails: (code) => (reply = () => {
      throw new PushError(code, code);
    }),
    move: (type, userId, more) => fake.push({ type: `presence_${type}`, channel, data: { userId, ...more } }),
    names: () => presence.getState().users.map(({ userId }) => userId),
  };
}

test('it is asked for once, and kept right by who comes and goes', async (context) => {
  const s = await stage(context);
  assert.deepEqual(s.presence.getState(), NO_PRESENCE);
  const changes = [];
  s.presence.subscribe(({ users }) => changes.push(users.length));
  s.presence.subscribe(() => {});
  await nextTurn();
  assert.deepEqual([s.names(), s.fake.sentOf('presence').length], [['42'], 1]);
  s.move('join', 'bob', { info: { name: 'Bob' } });
  s.move('join', 'bob');
  s.move('leave', '42');
  s.fake.push({ type: 'chat_message', channel, data: {} });
  assert.deepEqual(s.presence.getState(), { users: [{ userId: 'bob', connections: 1, info: { name: 'Bob' } }], error: null });
  assert.deepEqual(changes, [1, 2, 2, 1]);
});

test('those who share it share one subscription, which ends with the last', async (context) => {
  const s = await stage(context);
  const ends = [1, 2].map(() => presenceOf(s.client, channel).subscribe(() => {}));
  await nextTurn();
  assert.deepEqual([...s.fake.channels], [channel]);
  context.mock.timers.enable({ apis: ['setTimeout'] });
  ends[0]();
  ends[0]();
  context.mock.timers.runAll();
  await nextTurn();
  assert.deepEqual([...s.fake.channels], [channel]);
  ends[1]();
  context.mock.timers.runAll();
  await nextTurn();
  assert.deepEqual([[...s.fake.channels], s.presence.getState()], [[], NO_PRESENCE]);
  assert.notEqual(presenceOf(s.client, channel), s.presence);
});

test('who comes while it is asked for is in it, who goes is not', async (context) => {
  const s = await stage(context);
  s.answers([user('42'), user('gone')]);
  s.presence.subscribe(() => {});
  const asked = () => s.fake.sentOf('presence').length === 1;
  while (!asked()) await Promise.resolve();
  s.move('join', 'new');
  s.move('leave', 'gone');
  await nextTurn();
  assert.deepEqual(s.names().sort(), ['42', 'new']);
});

test('after an interruption it is asked for anew', async (context) => {
  const s = await stage(context);
  s.presence.subscribe(() => {});
  await nextTurn();
  const back = new Promise((resolve) => s.client.on('subscribed', resolve));
  s.answers([user('carol')]);
  s.fake.drop();
  await back;
  await nextTurn();
  assert.deepEqual(s.names(), ['carol']);
});

test('what it may not see it says, and so a channel that it may not join', async (context) => {
  const s = await stage(context, { rejected: { 'doc:17': 'PERMISSION_DENIED' } });
  s.fails('PERMISSION_DENIED');
  s.presence.subscribe(() => {});
  const refused = presenceOf(s.client, 'doc:17');
  refused.subscribe(() => {});
  await nextTurn();
  assert.deepEqual([s.presence, refused].map((each) => each.getState().error.code), ['PERMISSION_DENIED', 'PERMISSION_DENIED']);
});

test('what fails for now is asked for again', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const s = await stage(context);
  s.fails('UNAVAILABLE');
  s.presence.subscribe(() => {});
  await nextTurn();
  assert.equal(s.presence.getState().error.code, 'UNAVAILABLE');
  s.answers([user('42')]);
  context.mock.timers.tick(2000);
  await nextTurn();
  assert.deepEqual(s.presence.getState(), { users: [user('42')], error: null });
});

test('another user begins with nobody', async (context) => {
  const s = await stage(context);
  s.presence.subscribe(() => {});
  await nextTurn();
  const seen = [];
  s.presence.subscribe(({ users }) => seen.push(users.length));
  const changed = new Promise((resolve) => s.client.on('user_changed', resolve));
  s.fake.userId = 'bob';
  s.fake.drop();
  await changed;
  assert.equal(seen[0], 0);
});
