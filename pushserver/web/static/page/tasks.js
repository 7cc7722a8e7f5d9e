/** Tasks: one card each, its bar moving; unfinished ones first. */

import { byId, describe, h, keyed, lasting, put, soon, textOf } from './dom.js';
import { api, apiKey } from './session.js';

const SHOWN = 40;
const FINAL = new Set(['completed', 'failed', 'cancelled']);
const STATUS = { pending: 'pending', running: 'running', completed: 'completed', failed: 'failed', cancelled: 'cancelled' };

const order = (a, b) => FINAL.has(a.status) - FINAL.has(b.status) || b.createdAt - a.createdAt;
const percent = (task) => (Number.isFinite(task.percentage) ? Math.min(100, Math.max(0, task.percentage)) : 0);

function linesOf(task) {
  const parts = [];
  if (Number.isFinite(task.currentStep)) parts.push(`step ${task.currentStep}${Number.isFinite(task.totalSteps) ? ` of ${task.totalSteps}` : ''}`);
  if (!FINAL.has(task.status) && Number.isFinite(task.eta)) parts.push(`${lasting(task.eta)} left`);
  parts.push(FINAL.has(task.status) ? `took ${lasting(task.updatedAt - task.createdAt)}` : `for ${lasting(Date.now() - task.createdAt)}`);
  return parts.join(' · ');
}

export function tasksPanel(client) {
  const list = byId('task-list');
  /** What changes in a card, by its element. */
  const parts = new WeakMap();

  const create = ({ taskId }) => {
    const fill = h('span', { class: 'fill' });
    const part = {
      title: h('h3', {}),
      status: h('span', { class: 'status' }),
      percent: h('span', { class: 'percent' }),
      bar: h('div', { class: 'bar', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100' }, fill),
      message: h('p', { class: 'message' }),
      facts: h('p', { class: 'aside' }),
      cancel: h('button', {
        type: 'button',
        onclick: () => client.task(taskId).cancel().catch((error) => put(byId('announce'), describe(error))),
      }, 'Cancel'),
      fill,
    };
    const item = h('li', { class: 'task', data: { task: taskId } },
      h('div', { class: 'task-head' }, part.title, part.status, part.percent),
      part.bar, h('div', { class: 'task-foot' }, h('div', {}, part.message, part.facts), part.cancel),
      outputPane(client, taskId));
    parts.set(item, part);
    return item;
  };

  const update = (item, task) => {
    const part = parts.get(item);
    const final = FINAL.has(task.status);
    const name = task.title || task.taskId;
    item.dataset.status = task.status;
    put(part.title, name);
    part.title.title = task.taskId;
    put(part.status, task.cancelRequested && !final ? 'cancel asked for' : (STATUS[task.status] ?? task.status));
    put(part.percent, `${Math.round(percent(task))} %`);
    part.fill.style.setProperty('--done', percent(task) / 100);
    part.bar.setAttribute('aria-valuenow', Math.round(percent(task)));
    part.bar.setAttribute('aria-label', name);
    const outcome = task.error ?? (task.status === 'completed' && task.result !== undefined ? textOf(task.result) : undefined);
    put(part.message, outcome ?? task.message ?? '');
    put(part.facts, linesOf(task));
    part.cancel.hidden = final;
    part.cancel.disabled = Boolean(task.cancelRequested);
    part.cancel.setAttribute('aria-label', `Cancel ${name}`);
  };

  const draw = () => {
    const tasks = [...client.getState().tasks.values()].sort(order).slice(0, SHOWN);
    keyed(list, tasks, (task) => task.taskId, create, update);
    byId('tasks-empty').hidden = tasks.length > 0;
  };
  const drawSoon = soon(draw);
  client.select((state) => state.tasks, drawSoon);
  // How long they have been running goes on by itself.
  setInterval(() => [...client.getState().tasks.values()].some((task) => !FINAL.has(task.status)) && draw(), 1000);

  for (const [type, word] of [['task_completed', 'completed'], ['task_failed', 'failed']]) {
    client.on(type, ({ data }) => put(byId('announce'), `${data.title ?? data.taskId} ${word}`));
  }
  sampleTask(client);
  draw();
}

/** So many characters of an output are shown: the newest. */
const OUTPUT = 200_000;
const CONTROLS = /[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

/** What a task writes, for who opens it: text as it stands, items as lines of JSON, a dot for what would show nothing. */
function outputPane(client, taskId) {
  const text = document.createTextNode('');
  const pane = h('pre', { tabindex: '0', role: 'log', 'aria-label': 'Output' }, text);
  const add = (more) => {
    const isAtEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 24;
    text.appendData(more.replace(CONTROLS, '·'));
    if (text.length > OUTPUT) text.deleteData(0, text.length - OUTPUT);
    if (isAtEnd) pane.scrollTop = pane.scrollHeight;
  };
  let reading;
  const read = async (parts) => {
    try {
      for await (const { text: written, items, reset, trimmed, closed } of { [Symbol.asyncIterator]: () => parts }) {
        if (reset) text.data = '';
        if (trimmed) add('…\n');
        add(written ?? items.map((item) => `${JSON.stringify(item)}\n`).join(''));
        if (closed && text.length === 0) add('Nothing was written.');
      }
    } catch (error) {
      if (reading === parts) add(describe(error));
    }
  };
  return h('details', {
    class: 'output',
    ontoggle: ({ target }) => {
      reading?.return();
      reading = undefined;
      if (!target.open) return;
      text.data = '';
      reading = client.task(taskId).output()[Symbol.asyncIterator]();
      read(reading);
    },
  }, h('summary', {}, 'Output'), pane);
}

/** With the API key the page can play a worker: what a newcomer wants to see before writing one. */
function sampleTask(client) {
  const button = byId('try-task');
  const shown = () => { button.hidden = apiKey() === '' || !client.getState().isConnected; };
  client.subscribe(shown);
  document.addEventListener('keychange', shown);
  shown();
  button.addEventListener('click', async () => {
    button.disabled = true;
    // It ends as it began, also where the key is forgotten meanwhile.
    const key = apiKey();
    const call = (path, body) => api('POST', path, body, key);
    try {
      const { taskId } = await call('tasks', { userId: client.getState().userId, title: 'Sample: twelve frames' });
      for (let frame = 1; frame <= 12; frame += 1) {
        await new Promise((resolve) => setTimeout(resolve, 700));
        await call(`tasks/${taskId}/output`, { text: `frame ${frame} of 12: ${frame * 211} triangles\n` });
        const task = await call(`tasks/${taskId}/progress`, { percentage: (frame / 12) * 100, currentStep: frame, totalSteps: 12, message: `frame ${frame} rendered`, eta: (12 - frame) * 700 });
        if (task.cancelRequested) {
          await call(`tasks/${taskId}/status`, { status: 'cancelled', message: 'stopped as its owner wished' });
          return;
        }
      }
      await call(`tasks/${taskId}/complete`, { result: { frames: 12 } });
    } catch (error) {
      put(byId('announce'), describe(error));
    } finally {
      button.disabled = false;
    }
  });
}
