/** The inbox: what was sent to this user, read or not. The cursor moves when the reader says so. */

import { byId, h, keyed, put, soon, stamp, textOf } from './dom.js';

const SHOWN = 50;

/** What a message says: title, text, and how serious it is. */
function tell({ type, data, from }) {
  const body = data && typeof data === 'object' ? data : { message: data };
  if (type === 'chat_message') return { title: `${body.from ?? from ?? 'somebody'} wrote to you`, text: textOf(body.content ?? ''), level: 'info' };
  if (type.startsWith('task_')) {
    const level = { completed: 'success', failed: 'error' }[body.status] ?? 'info';
    return { title: `${body.title ?? body.taskId}: ${body.status}`, text: textOf(body.error ?? body.message ?? ''), level };
  }
  const level = ['info', 'success', 'warning', 'error'].includes(body.level) ? body.level : 'info';
  if (body.title !== undefined || body.message !== undefined) {
    return { title: textOf(body.title ?? ''), text: textOf(body.message ?? ''), level };
  }
  return { title: type, text: textOf(data), level };
}

export function inboxPanel(client) {
  const list = byId('inbox-list');
  const items = new Map();
  let epoch = null;
  let acked = 0;

  const mine = (push) => push.offset !== undefined
    && (push.channel === `user:${client.getState().userId}` || push.channel?.startsWith('task:'));

  const draw = () => {
    const shown = [...items.values()].sort((a, b) => b.offset - a.offset);
    for (const old of shown.splice(SHOWN)) items.delete(old.offset);
    const unread = shown.filter((push) => push.offset > acked).length;
    keyed(list, shown, (push) => `${push.epoch} ${push.offset}`, (push) => {
      const { title, text, level } = tell(push);
      return h('li', { data: { level, offset: push.offset } },
        h('span', { class: 'mark', 'aria-hidden': 'true' }),
        h('div', {}, title ? h('h3', {}, title) : null, text ? h('p', {}, text) : null),
        stamp(push.timestamp), h('span', { class: 'unseen' }));
    }, (item, push) => {
      item.classList.toggle('unread', push.offset > acked);
      put(item.lastElementChild, push.offset > acked ? 'not read' : 'read');
    });
    byId('inbox-empty').hidden = shown.length > 0;
    byId('mark-read').disabled = unread === 0 || !client.getState().isConnected;
    put(byId('cursor'), shown.length === 0 ? '' : unread ? `${unread} not read` : 'all read');
    put(byId('unread-count'), unread);
    byId('unread-count').hidden = unread === 0;
    document.title = unread ? `(${unread}) pushserver` : 'pushserver';
  };
  const drawSoon = soon(draw);

  client.on('connect', async ({ userId, inbox }) => {
    if (!inbox) return;
    if (inbox.epoch !== epoch) items.clear();
    epoch = inbox.epoch;
    acked = Math.max(inbox.acked, 0);
    drawSoon();
    // What was read before is shown too; what was not comes by itself.
    const { messages = [] } = await client.history(`user:${userId}`, { limit: SHOWN, reverse: true });
    for (const push of messages) if (push.epoch === undefined || push.epoch === epoch) items.set(push.offset, { ...push, epoch });
    drawSoon();
  });
  client.on('*', (push) => {
    if (!mine(push)) return;
    if (push.epoch !== epoch) {
      items.clear();
      epoch = push.epoch;
      acked = 0;
    }
    items.set(push.offset, push);
    drawSoon();
    if (push.offset > acked && push.type === 'user_notification') put(byId('announce'), `New: ${tell(push).title || tell(push).text}`);
  });
  client.subscribe(drawSoon);

  byId('mark-read').addEventListener('click', async () => {
    const newest = Math.max(0, ...items.keys());
    // The client gathers acks and repeats them until they are through; what is read here is read at once.
    client.ack(newest);
    acked = newest;
    draw();
    byId('inbox-title').closest('section').focus();
  });
  byId('inbox').setAttribute('tabindex', '-1');
  draw();
}
