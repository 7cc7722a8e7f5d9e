import { quiet } from './promises.js';

/** Whether a task in this state has ended. */
export const isFinal = (state) => /^(completed|failed|cancelled)$/.test(state?.status);

/** Whether a push tells the end of a task. */
export const isTaskEnd = ({ type, data }) => type.startsWith('task_') && isFinal(data);

const MAX_TASKS = 1000;

/** Selectors for `select` and for hooks. */
export const selectProgress = (taskId) => (state) => state.taskProgress.get(taskId) ?? 0;
export const selectStatus = (taskId) => (state) => state.taskStatus.get(taskId);
export const selectTask = (taskId) => (state) => state.tasks.get(taskId);
export const selectOutput = (taskId, name = 'main') => (state) => state.outputs.get(`${name}/${taskId}`);

export const NO_TASKS = Object.freeze({ tasks: new Map(), taskProgress: new Map(), taskStatus: new Map() });

function isNewer(state, known) {
  if (!known) return true;
  // A task that was forgotten and made anew starts over with version 1.
  if (state.createdAt !== known.createdAt) return state.createdAt > known.createdAt;
  return state.version > known.version;
}

function percentageOf(value) {
  return typeof value === 'number' && Number.isFinite(value) ? Math.min(100, Math.max(0, value)) : null;
}

function bounded(map) {
  for (const key of map.keys()) {
    if (map.size <= MAX_TASKS) break;
    map.delete(key);
  }
  return map;
}

/**
 * Of some task states those that are newer than what the snapshot knows: `[taken, patch]`, where `patch` changes the
 * snapshot accordingly (none: nothing to change). A thousand tasks are kept; finished ones go first.
 */
export function takeTasks(snapshot, states) {
  const tasks = new Map(snapshot.tasks);
  const taskProgress = new Map(snapshot.taskProgress);
  const taskStatus = new Map(snapshot.taskStatus);
  const taken = [];
  for (const state of states) {
    if (typeof state?.taskId !== 'string' || !isNewer(state, tasks.get(state.taskId))) continue;
    tasks.set(state.taskId, Object.freeze({ ...state }));
    const percentage = percentageOf(state.percentage);
    if (percentage !== null) taskProgress.set(state.taskId, percentage);
    if (state.status !== undefined) taskStatus.set(state.taskId, state.status);
    taken.push(state);
  }
  if (taken.length === 0) return [taken];
  if (tasks.size > MAX_TASKS) {
    for (const [taskId, state] of tasks) {
      if (tasks.size > MAX_TASKS && isFinal(state)) {
        for (const map of [tasks, taskProgress, taskStatus]) map.delete(taskId);
      }
    }
  }
  const patch = { tasks: bounded(tasks), taskProgress: bounded(taskProgress), taskStatus: bounded(taskStatus) };
  return [taken, patch];
}

/** What changes the snapshot to show this percentage. */
export function setProgress({ taskProgress }, taskId, progress, force) {
  const value = percentageOf(progress);
  const shown = taskProgress.get(taskId);
  if (value === null || value === shown || (!force && shown !== undefined && value < shown)) return {};
  return { taskProgress: bounded(new Map(taskProgress).set(taskId, value)) };
}

export function setStatus({ taskStatus }, taskId, status) {
  if (taskStatus.get(taskId) === status) return {};
  return { taskStatus: bounded(new Map(taskStatus).set(taskId, status)) };
}

/** One output of a task, as it comes. What reads it is loaded when somebody does. */
function outputHandle(client, channel) {
  const handle = {
    /** Behind what was read, and whether that was all. */
    position: undefined,
    closed: false,
    [Symbol.asyncIterator]() {
      const reading = import('./output.js').then(({ outputOf }) => outputOf(client, channel).read());
      return {
        async next() {
          const result = await (await reading).next();
          if (!result.done) {
            const { offset, epoch, closed } = result.value;
            Object.assign(handle, { position: { offset, epoch }, closed });
          }
          return result;
        },
        return: async () => (await reading).return(),
      };
    },
    /** All of it, once it has ended. */
    async text() {
      let all = '';
      for await (const { text = '', reset } of handle) all = reset ? text : all + text;
      return all;
    },
    /** Its text, or its items, as a `ReadableStream`. */
    stream() {
      const reader = handle[Symbol.asyncIterator]();
      return new ReadableStream({
        async pull(stream) {
          const { done, value } = await reader.next();
          if (done) return stream.close();
          const parts = value.items ?? (value.text ? [value.text] : []);
          for (const part of parts) stream.enqueue(part);
          return parts.length > 0 ? undefined : this.pull(stream);
        },
        cancel: () => reader.return(),
      });
    },
  };
  return handle;
}

/** One task of a client: its state as known here, its news, and its calls. The owner's tasks need no `follow`. */
export function taskHandle(client, taskId) {
  const known = selectTask(taskId);
  const fetch = (type) => {
    const promise = client.request(type, { taskId }).then((reply) => {
      client._applyTasks([reply]);
      return known(client.getState()) ?? reply;
    });
    return quiet(promise);
  };
  return {
    id: taskId,
    getState: () => known(client.getState()),
    subscribe: (listener) => client.select(known, (state) => state && listener(state)),
    get: () => fetch('task_get'),
    cancel: () => fetch('task_cancel'),
    output: (name = 'main') => outputHandle(client, `output:${name}/${taskId}`),
    follow: (handler) => client.subscribeChannel(`task:${taskId}`, handler ?? (() => {})),
  };
}
