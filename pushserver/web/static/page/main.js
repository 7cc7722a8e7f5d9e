/** The page: one client, and each panel's view of it. */

import { createClient } from '/pushclient.js';
import { chatPanel } from './chat.js';
import { connectionPanel } from './connection.js';
import { byId, h, stamp } from './dom.js';
import { inboxPanel } from './inbox.js';
import { messagesPanel } from './messages.js';
import { serverPanel } from './server.js';
import { hasToken, isDevelopment, socketPath, token } from './session.js';
import { statisticsPanel } from './statistics.js';
import { tasksPanel } from './tasks.js';

const client = createClient({
  url: socketPath,
  token,
  // What was not read comes to every new tab, so that its panels know of it: tasks that ended, say.
  autoAck: false,
  // A page for a few operators: no herd comes back with it, so it may be quicker than an application's client.
  reconnectInterval: 500,
  maxReconnectInterval: 3000,
  lossWindow: 1000,
});

const MAX_NOTICES = 4;

/** What the operators tell everyone: on top until it is put away. */
function notices() {
  const place = byId('notices');
  const show = (level, title, message, at) => {
    const close = h('button', { type: 'button', onclick: () => notice.remove(), 'aria-label': 'Put this notice away' }, 'Close');
    const text = h('p', {}, title ? h('strong', {}, `${title} `) : null, message);
    const notice = h('div', { class: 'notice', data: { level } }, text, stamp(at), close);
    place.prepend(notice);
    while (place.children.length > MAX_NOTICES) place.lastElementChild.remove();
  };
  client.on('system_notification', ({ data, timestamp }) => {
    show(String(data?.level ?? 'info'), String(data?.title ?? ''), String(data?.message ?? ''), timestamp);
  });
  client.on('maintenance_alert', ({ data, timestamp }) => {
    show('warning', 'Maintenance', String(data?.message ?? ''), timestamp);
  });
}

messagesPanel(client);
connectionPanel(client);
statisticsPanel(client);
tasksPanel(client);
inboxPanel(client);
chatPanel(client);
serverPanel();
notices();

for (const element of document.querySelectorAll('.dev-only')) element.hidden = !isDevelopment;
client.on('connect', ({ userId }) => {
  for (const element of document.querySelectorAll('.me')) element.textContent = userId ?? '42';
});
if (hasToken()) client.connect().catch(() => {});
