/** The inbox: what was sent to this user, as the server keeps it. What is read or removed here is so on every device. */

import { byId, h, keyed, put, soon, stamp, textOf } from './dom.js';

const PAGE = 50;

/** What a message says: title, text, and how serious it is. */
function summarize({ type, data, from }) {
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
  /** The newest message at the sign-in: what comes after it is announced. */
  let known = 0;

  const rowOf = (push) => {
    const { title, text, level } = summarize(push);
    const name = title || text;
    const read = h('button', { type: 'button', class: 'read', onclick: () => client.markRead([push.offset]), 'aria-label': `Mark as read: ${name}` }, 'Read');
    const remove = h('button', { type: 'button', onclick: () => client.deleteFromInbox([push.offset]), 'aria-label': `Remove: ${name}` }, '×');
    return h('li', { data: { level, offset: push.offset } },
      h('span', { class: 'mark', 'aria-hidden': 'true' }),
      h('div', {}, title ? h('h3', {}, title) : null, text ? h('p', {}, text) : null),
      h('div', { class: 'side' }, stamp(push.timestamp), read, remove), h('span', { class: 'unseen' }));
  };
  const draw = () => {
    const { inbox: { messages, unread, more }, isConnected } = client.getState();
    const count = unread.notification + unread.chat + unread.task;
    keyed(list, messages, (push) => `${push.epoch} ${push.offset}`, rowOf, (item, push) => {
      const isUnread = push.readAt === null;
      const button = item.querySelector('.read');
      // Who marks by keyboard goes on from the button beside it.
      if (!isUnread && button === document.activeElement) button.nextElementSibling.focus();
      button.hidden = !isUnread;
      item.classList.toggle('unread', isUnread);
      put(item.lastElementChild, isUnread ? 'not read' : 'read');
    });
    byId('inbox-empty').hidden = messages.length > 0;
    byId('older-inbox').hidden = !more;
    byId('mark-read').disabled = count === 0 || !isConnected;
    put(byId('cursor'), count ? `${count} not read` : messages.length > 0 ? 'all read' : '');
    put(byId('unread-count'), count);
    byId('unread-count').hidden = count === 0;
    document.title = count ? `(${count}) pushserver` : 'pushserver';
  };
  const drawSoon = soon(draw);

  client.on('connect', ({ inbox }) => (known = inbox?.offset ?? 0));
  client.on('user_notification', (push) => {
    if (push.offset > known) put(byId('announce'), `New: ${summarize(push).title || summarize(push).text}`);
  });
  client.subscribe(drawSoon);

  byId('mark-read').addEventListener('click', () => {
    client.markAllRead();
    client.ack(client.getState().inbox.offset);
    byId('inbox-title').closest('section').focus();
  });
  byId('older-inbox').addEventListener('click', () => {
    const { messages, epoch } = client.getState().inbox;
    client.inbox({ limit: PAGE, before: { offset: messages.at(-1).offset, epoch } });
  });
  byId('inbox').setAttribute('tabindex', '-1');
  // What fails here is made up for at the next sign-in.
  client.inbox({ limit: PAGE }).catch(() => {});
  draw();
}
