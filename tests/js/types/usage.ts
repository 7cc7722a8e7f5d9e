// Compiled, never run: what the declarations must allow, and what they must refuse.
import createDefault, { createClient, PushError, selectProgress, Unauthorized, type Push, type TaskState } from 'pushclient';
import { createSharedClient } from 'pushclient/shared';
import { FakeServer } from 'pushclient/testing';
import { configure, useChannel, useInbox, usePresence, useRoom, useSelector, useTask, useTaskOutput, useWebSocket } from 'pushclient/react';

const client = createClient({
  url: 'wss://push.example.com/ws',
  token: async ({ reason }) => (reason === 'expired' ? 'new' : 'old'),
  maxReconnectAttempts: null,
});

interface Events {
  user_notification: { title: string };
  price: { symbol: string; value: number };
}
const typed = createClient<Events>({ token: () => { throw new Unauthorized('signed out'); }, recover: true, debug: (event) => event.length });
typed.on('price', (push) => push.data.value.toFixed(2));
typed.once('user_notification', (push) => push.data.title.length);
typed.onPush('task_progress', (push) => push.data.percentage.toFixed());
typed.on('user_changed', ({ from, to }) => `${from} ${to}`);
typed.on('something_else', (push) => push.data.whatever);
// @ts-expect-error A declared push has no such field.
typed.on('price', (push) => push.data.nonsense);
// @ts-expect-error Nor has one that the server makes.
typed.on('task_progress', (push) => push.data.nonsense);
typed.store.updateTaskProgress('t1', 5);

const other: ReturnType<typeof createDefault> = createDefault();
other.disconnect();

client.on('connect', ({ userId }) => userId?.length);
client.on('gap', ({ channel, cause }) => `${channel} ${cause}`);
client.on('user_notification', (push: Push<{ title: string }>) => push.data.title);
const ended: () => void = client.subscribe((state, previous) => state.isConnected !== previous.isConnected);
ended();
client.select(selectProgress('t1'), (percentage) => percentage.toFixed(1));

async function calls(): Promise<void> {
  await client.connect();
  const subscription = client.subscribeChannel('news', (push) => push.offset, { since: { offset: 1, epoch: 'e' } });
  await subscription.ready;
  const { offset } = await client.publish('news', { a: 1 });
  const later: number | undefined = offset;
  const { queued } = await client.chat('hello', { targetId: '42' });
  const { users } = await client.presence('chat:lobby');
  const state: TaskState = await client.task('t1').cancel();
  const { acked } = await client.request('task_get', { taskId: 't1' }).then(({ percentage }) => ({ acked: percentage }));
  const { timestamp } = await client.send({ type: 'ping', data: {} });
  const { total } = await client.presence('chat:lobby', { signal: AbortSignal.timeout(1000), timeout: 500 });
  console.log(acked.toFixed(), timestamp.toFixed(), total.toFixed(), subscription.state === 'rejected', subscription.error?.code);
  const { nextAttemptAt, lastError } = client.getState();
  console.log(nextAttemptAt?.toFixed(), lastError?.code);
  for await (const { text, closed } of client.task('t1').output()) console.log(text?.length, closed);
  const output = client.task('t1').output<{ row: number }>('rows');
  console.log((await output.text()).length, output.position?.offset.toFixed(), output.closed, output.stream().locked);
  client.ack(client.getPosition('user:42')?.offset ?? 0);
  void client.send({ type: 'of_tomorrow', data: { a: 1 } });
  await client.request('of_tomorrow');
  // @ts-expect-error A subscription names channels.
  await client.request('subscribe', { channel: 'a' });
  try {
    await client.request('history', { channel: 'news' });
  } catch (error) {
    if (error instanceof PushError) console.log(error.code, error.retryAfter, later, queued, users, state);
  }
  client.getState().taskProgress.get('t1')?.toFixed();
  const { messages, more, unread } = await client.inbox({ limit: 20, before: { offset: 7, epoch: 'e' }, unread: true });
  const readAt: number | null = messages[0]!.readAt;
  const { deleted } = await client.deleteFromInbox([messages[0]!.offset], { timeout: 500 });
  const left = (await client.markRead([1, 2], { read: false })).unread.task + (await client.markAllRead()).unread.chat;
  await client.request('inbox_read', { epoch: 'e', upTo: 4 });
  // @ts-expect-error Either some messages, or all up to one.
  await client.request('inbox_read', { epoch: 'e' });
  // @ts-expect-error Offsets are numbers.
  await client.markRead(['1']);
  typed.on('inbox_changed', (push) => push.data.unread.notification + (push.data.upTo ?? 0));
  client.subscribeChannel('doc:17', () => {}, { token: async ({ channel }) => channel });
  console.log(more, unread.chat, readAt, deleted, left, client.getState().inbox.messages[0]?.epoch);
  // @ts-expect-error The state is not written to.
  client.getState().inbox.unread.chat = 0;
  // @ts-expect-error A snapshot cannot be written to.
  client.getState().isConnected = true;
  // @ts-expect-error A channel has a name.
  client.subscribeChannel(1, () => {});
}

export function Component(): number {
  const { isConnected, taskProgress, reconnect, client: live } = useWebSocket({
    autoConnect: false,
    onConnect: ({ userId, inbox }) => console.log(userId, inbox?.pending),
    onTaskProgress: (taskId, progress) => console.log(taskId, progress.toFixed()),
    onError: (message, error) => console.log(message, error.code),
  });
  useChannel('news', (push) => console.log(push.data));
  const attempts: number = useSelector((state) => state.reconnectAttempts);
  const task = useTask('t1');
  const inbox = useInbox({ autoConnect: false });
  const { users } = usePresence('chat:lobby');
  const room = useRoom('chat:lobby');
  const log = useTaskOutput('t1');
  const rows = useTaskOutput<{ row: number }>('t1', { name: 'rows', autoConnect: false });
  console.log(log.text?.length, log.closed, log.trimmed, log.error?.code, rows.items?.[0]?.row.toFixed());
  useChannel('doc:17', () => {}, { channelToken: 'signed' });
  void inbox.markRead([inbox.messages[0]?.offset ?? 0]).then(inbox.markAllRead).then(() => inbox.remove([1])).then(inbox.loadOlder);
  void room.send(room.messages[0]?.data.content ?? '').then(({ messageId }) => messageId.length + users.length);
  void reconnect;
  void calls;
  void live.publish('news', null);
  return (isConnected ? 1 : 0) + attempts + (task?.percentage ?? 0) + (taskProgress.get('t1') ?? 0);
}

configure({ url: '/ws', create: createSharedClient });

const fake = new FakeServer({
  userId: '42',
  pushes: [{ type: 'user_notification', data: { title: 'Hello' } }],
  replies: { history: { messages: [] }, publish: ({ channel }) => ({ messageId: channel }) },
});
configure({ create: fake.create });
const percentage: number = fake.task({ taskId: 't1', percentage: 40 }).percentage;
const sent: { type: string }[] = fake.sent;
fake.markRead(fake.inbox.map(({ offset }) => offset));
void [percentage, sent, fake.create().getPosition('news')];
// @ts-expect-error A task has an id.
fake.task({ percentage: 40 });
