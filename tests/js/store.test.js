import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createClient, selectProgress, selectTask } from '../../pushserver/web/static/pushclient/index.js';
import { rig } from './fakes.js';

const state = (more) => ({
  taskId: 't1', userId: '42', status: 'running', percentage: 10, version: 1, createdAt: 100, updatedAt: 100, ...more,
});
const push = (data, type = 'task_progress', more = {}) => [type, data, { channel: `task:${data.taskId}`, ...more }];

test('the initial state holds what the described store holds', () => {
  const now = createClient().getState();
  assert.equal(now.socket, null);
  assert.equal(now.isConnected, false);
  assert.equal(now.reconnectAttempts, 0);
  assert.equal(now.maxReconnectAttempts, Infinity);
  assert.equal(now.reconnectInterval, 3000);
  assert.equal(now.error, null);
  assert.ok(now.taskProgress instanceof Map && now.taskStatus instanceof Map);
  for (const call of ['connect', 'disconnect', 'reconnect', 'send', 'updateTaskProgress', 'updateTaskStatus', 'getTaskProgress', 'getTaskStatus', 'resetState']) {
    assert.equal(typeof now[call], 'function', call);
  }
});

test('a snapshot is the same object until something changes, and never changes itself', () => {
  const client = createClient();
  const before = client.getState();
  assert.equal(client.getState(), before);
  const { updateTaskProgress, getTaskProgress } = before;
  updateTaskProgress('a', 40);
  assert.notEqual(client.getState(), before);
  assert.equal(before.taskProgress.size, 0);
  assert.equal(getTaskProgress('a'), 40);
  const after = client.getState();
  updateTaskProgress('a', 40);
  assert.equal(client.getState(), after);
  assert.throws(() => (after.isConnected = true), TypeError);
});

test('listeners hear each change with what was before, until they end', () => {
  const client = createClient();
  const received = [];
  const end = client.subscribe((now, before) => received.push([before.taskStatus.get('a'), now.taskStatus.get('a')]));
  client.updateTaskStatus('a', 'running');
  client.updateTaskStatus('a', 'running');
  client.updateTaskStatus('a', 'completed');
  end();
  client.updateTaskStatus('a', 'failed');
  assert.deepEqual(received, [[undefined, 'running'], ['running', 'completed']]);
  assert.equal(client.getTaskStatus('a'), 'failed');
  assert.equal(client.getTaskStatus('unknown'), undefined);
  assert.equal(client.getTaskProgress('unknown'), 0);
});

test('a selector is called for its own slice only', () => {
  const client = createClient();
  const received = [];
  client.select(selectProgress('a'), (next, previous) => received.push([previous, next]));
  client.updateTaskProgress('b', 5);
  client.updateTaskProgress('a', 7);
  client.updateTaskStatus('a', 'running');
  assert.deepEqual(received, [[0, 7]]);
});

test('progress by hand is a number from 0 to 100 that does not run backwards', () => {
  const client = createClient();
  for (const [given, shown] of [[30, 30], [NaN, 30], ['90', 30], [20, 30], [140, 100], [-5, 100]]) {
    client.updateTaskProgress('a', given);
    assert.equal(client.getTaskProgress('a'), shown, String(given));
  }
  client.updateTaskProgress('a', 0, { force: true });
  assert.equal(client.getTaskProgress('a'), 0);
});

test('one failing listener is reported and harms no other', (context) => {
  const report = context.mock.method(console, 'error', () => {});
  const client = createClient();
  let received = 0;
  client.subscribe(() => {
    throw new Error('mine');
  });
  client.subscribe(() => (received += 1));
  client.updateTaskStatus('a', 'running');
  assert.equal(received, 1);
  assert.equal(report.mock.callCount(), 1);
});

test('of a task only newer states count, whatever order they come in', async () => {
  const r = rig(createClient);
  const { client } = r;
  const received = [];
  client.on('task_progress', (each) => received.push(each.data.version));
  const socket = await r.connect();
  socket.receive(...push(state({ version: 3, percentage: 50 })));
  socket.receive(...push(state({ version: 2, percentage: 90 })));
  socket.receive(...push(state({ version: 3, percentage: 10 })));
  assert.equal(client.getTaskProgress('t1'), 50);
  socket.receive(...push(state({ version: 4, percentage: 60, status: 'completed' }), 'task_completed'));
  assert.deepEqual(received, [3]);
  assert.equal(client.getTaskStatus('t1'), 'completed');
  socket.receive(...push(state({ version: 1, createdAt: 200, percentage: 1 })));
  assert.equal(client.getTaskProgress('t1'), 1, 'a task made anew starts over');
});

test('the unfinished tasks of sign-in are one change of the state', async () => {
  const r = rig(createClient);
  let changes = 0;
  r.client.select((now) => now.tasks, () => (changes += 1));
  await r.connect({ tasks: [state(), state({ taskId: 't2', percentage: 20 })] });
  assert.equal(changes, 1);
  assert.equal(r.client.getTaskProgress('t2'), 20);
  assert.equal(selectTask('t2')(r.client.getState()).percentage, 20);
});

test('a task handle fetches, cancels and tells', async () => {
  const r = rig(createClient);
  const socket = await r.connect();
  const task = r.client.task('t1');
  const received = [];
  task.subscribe((now) => received.push(now.version));
  const fetched = task.get();
  socket.answer('task_get', 'task', state({ version: 2 }));
  assert.equal((await fetched).version, 2);
  const cancelled = task.cancel();
  socket.answer('task_cancel', 'task', state({ version: 3, cancelRequested: true }));
  assert.equal((await cancelled).cancelRequested, true);
  assert.deepEqual(received, [2, 3]);
  assert.equal(task.getState().version, 3);
});

test('a thousand tasks are kept, the oldest finished ones go first', async () => {
  const r = rig(createClient);
  const tasks = Array.from({ length: 1100 }, (_, index) =>
    state({ taskId: `t${index}`, status: index < 300 ? 'completed' : 'running' }));
  await r.connect({ tasks });
  const { size } = r.client.getState().tasks;
  assert.equal(size, 1000);
  assert.equal(r.client.getTaskStatus('t0'), undefined);
  assert.equal(r.client.getTaskStatus('t1099'), 'running');
  assert.equal(r.client.getTaskStatus('t300'), 'running');
});

test('resetState forgets the user and ends the connection', async () => {
  const r = rig(createClient);
  const socket = await r.connect({ tasks: [state()] });
  r.client.resetState();
  const now = r.client.getState();
  assert.equal(now.tasks.size + now.taskProgress.size + now.taskStatus.size, 0);
  assert.equal(now.connectionState, 'idle');
  assert.equal(now.userId, null);
  assert.equal(socket.closed.code, 1000);
});
