import { run } from './events.js';
import { NO_INBOX } from './inbox_list.js';
import { DEFAULTS } from './options.js';
import { NO_TASKS, selectProgress, selectStatus, setProgress, setStatus, takeTasks } from './tasks.js';

export const NO_PERMISSIONS = Object.freeze([]);

const INITIAL = {
  socket: null,
  isConnected: false,
  connectionState: 'idle',
  transport: null,
  connectionId: null,
  userId: null,
  permissions: NO_PERMISSIONS,
  reconnectAttempts: 0,
  maxReconnectAttempts: Infinity,
  reconnectInterval: DEFAULTS.reconnectInterval,
  nextAttemptAt: null,
  error: null,
  lastError: null,
  inbox: NO_INBOX,
  outputs: new Map(),
  ...NO_TASKS,
};

/** The state as a snapshot: frozen, and the same object until something changes. Its Maps are replaced, never changed. */
export class Store {
  #snapshot;
  #initial;
  #listeners = new Set();

  constructor(values) {
    this.#initial = this.#snapshot = Object.freeze({ ...INITIAL, ...values });
  }

  /** The current snapshot. */
  getState = () => this.#snapshot;

  /** The first snapshot: what a server renders, and a page before it is hydrated. */
  getInitialState = () => this.#initial;

  /** Calls `listener(state, previous)` after each change. Returns the function that ends it. */
  subscribe = (listener) => {
    const entry = { listener };
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  };

  /** Calls `listener(slice, previous)` whenever what `selector` picks has changed. */
  select(selector, listener, equal = Object.is) {
    let slice = selector(this.#snapshot);
    return this.subscribe((state) => {
      const next = selector(state);
      if (equal(next, slice)) return;
      const previous = slice;
      slice = next;
      listener(next, previous);
    });
  }

  set(patch) {
    const previous = this.#snapshot;
    if (Object.keys(patch).every((key) => Object.is(previous[key], patch[key]))) return;
    this.#snapshot = Object.freeze({ ...previous, ...patch });
    for (const { listener } of [...this.#listeners]) run(listener, this.#snapshot, previous);
  }

  /** Takes those task states that are newer than what is known, in one change of the snapshot. Returns them. */
  applyTasks(states) {
    const [taken, patch] = takeTasks(this.#snapshot, states);
    if (patch) this.set(patch);
    return taken;
  }

  /** Shows a percentage that the application knows of itself: 0 to 100, and not lower than shown, unless `force`. */
  updateTaskProgress(taskId, progress, { force = false } = {}) {
    this.set(setProgress(this.#snapshot, taskId, progress, force));
  }

  updateTaskStatus(taskId, status) {
    this.set(setStatus(this.#snapshot, taskId, status));
  }

  getTaskProgress(taskId) {
    return selectProgress(taskId)(this.#snapshot);
  }

  getTaskStatus(taskId) {
    return selectStatus(taskId)(this.#snapshot);
  }
}
