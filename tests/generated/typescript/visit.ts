// A backend in TypeScript: what it asks and what it is answered are typed by the API's description. It publishes, notifies,
// runs a task and reads an inbox, and prints what it was told.
import createClient from 'openapi-fetch';

import type { components, paths } from './push';

declare const process: { argv: [string, string, string, string] };

type TaskState = components['schemas']['TaskState'];

const [, , baseUrl, key] = process.argv;
const push = createClient<paths>({ baseUrl, headers: { 'X-API-Key': key } });

/** The data of an answer; what the server refuses is thrown. */
async function told<Data, Problem>(asked: Promise<{ data?: Data; error?: Problem }>): Promise<Data> {
  const { data, error } = await asked;
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const published = await told(push.POST('/api/publish', { body: { channel: 'news:today', data: { headline: 'It works' } } }));
const offset: number | undefined = published.offset;

const { results } = await told(push.POST('/api/notify', {
  body: { userId: '42', data: { title: 'Report' }, messageId: 'report-1', unreadAfter: 0 },
}));
const online: boolean | null | undefined = results[0]?.online;

const created = await told(push.POST('/api/tasks', { body: { userId: 42, title: 'Render', details: { frames: 10 } } }));
const path = { id: created.taskId };
const running = await told(push.POST('/api/tasks/{id}/progress', {
  params: { path }, body: { currentStep: 3, totalSteps: 10, message: 'frame 3', attempt: created.attempt ?? 1 },
}));
const completed: TaskState = await told(push.POST('/api/tasks/{id}/complete', { params: { path }, body: { result: [1, null, 'x'] } }));

const inbox = await told(push.GET('/api/inbox', { params: { query: { userId: '42', limit: 1 } } }));
const { unread } = await told(push.POST('/api/inbox/read', { body: { userId: '42', epoch: inbox.epoch, upTo: inbox.offset } }));
const batch = await told(push.POST('/api/batch', {
  body: { commands: [{ method: 'publish', params: { channel: 'news:today', data: 2 } }, { method: 'nothing' }] },
}));

const again = await push.POST('/api/tasks/{id}/complete', { params: { path }, body: {} });
const nowhere = await push.POST('/api/publish', { body: { channel: 'nowhere:x', data: 1 } });

console.log(JSON.stringify({
  offset,
  online,
  running: running.percentage,
  completed,
  inbox: inbox.messages.map(({ type, readAt }) => [type, readAt ?? null]),
  more: inbox.more,
  unread,
  batch: batch.replies.map(({ error }) => error?.code ?? null),
  refused: [[again.response.status, again.error?.error.code], [nowhere.response.status, nowhere.error?.error.code]],
}));
