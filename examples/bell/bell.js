/** A bell for any page: `bell(document.querySelector('#bell'), client)`. The styles are in bell.css. */
const h = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const textOf = ({ type, data }) => data?.title ?? data?.content ?? data?.message ?? type;

export function bell(place, client) {
  const badge = h('span', { className: 'badge', ariaHidden: true });
  const button = h('button', { type: 'button', ariaExpanded: false, onclick: () => open(panel.hidden) }, badge);
  const list = h('ul', {});
  const all = h('button', { type: 'button', onclick: () => client.markAllRead() }, 'Mark all read');
  const older = h('button', { type: 'button', onclick: () => loadOlder() }, 'Load older');
  const panel = h('div', { className: 'panel', hidden: true, tabIndex: -1 }, h('h2', {}, 'Notifications'), all, list, older);
  const rows = new Map();

  const open = (isOpen) => {
    [panel.hidden, button.ariaExpanded] = [!isOpen, isOpen];
    button.focus();
  };
  const loadOlder = () => {
    const { messages, epoch } = client.getState().inbox;
    return client.inbox({ before: { offset: messages.at(-1).offset, epoch } });
  };
  const rowOf = ({ offset, ...message }) => h('li', {},
    h('button', { type: 'button', className: 'text', onclick: () => client.markRead([offset]) }, textOf(message)),
    h('button', { type: 'button', ariaLabel: `Remove: ${textOf(message)}`, onclick: () => (panel.focus(), client.deleteFromInbox([offset])) }, '×'));
  const draw = ({ inbox: { messages, unread, more, epoch } }) => {
    const count = unread.notification + unread.chat + unread.task;
    Object.assign(badge, { textContent: count, hidden: count === 0 });
    Object.assign(button, { ariaLabel: `Notifications, ${count} not read` });
    [all.disabled, older.hidden] = [count === 0, !more];
    const shown = messages.map((message) => {
      const key = `${epoch} ${message.offset}`;
      if (!rows.has(key)) rows.set(key, rowOf(message));
      rows.get(key).classList.toggle('unread', !message.readAt);
      return rows.get(key);
    });
    for (const [key, row] of rows) if (!shown.includes(row)) (rows.delete(key), row.remove());
    shown.forEach((row, at) => list.children[at] === row || list.insertBefore(row, list.children[at] ?? null));
  };

  place.classList.add('bell');
  place.append(button, panel);
  place.addEventListener('keydown', ({ key }) => key === 'Escape' && !panel.hidden && open(false));
  draw(client.getState());
  client.subscribe(draw);
  client.inbox().catch(console.error);
}
