/**
 * The operators' page: five views of all nodes. It has no connection of its own, so that who looks is in no presence; it
 * calls the HTTP API with the operator's key, and asks for the one view that is open, a page of it at a time.
 */

import { byId, describe, h, keyed, momentOf, numberOf, onSubmit, put, showOutcome, timeOf, twoStep } from './dom.js';
import { fill, listView } from './operator_tables.js';
import { api, apiKey, forgetKey, keepKey } from './session.js';

/** ms between two looks, and rows of a page. */
const EVERY = 2000;
const ROWS = 50;

const count = (number, one) => `${number} ${one}${number === 1 ? '' : 's'}`;

/** Does something that the operator asked for, and says how it went. */
async function act(work, words) {
  try {
    showOutcome(byId('said'), words(await work()));
  } catch (error) {
    showOutcome(byId('said'), describe(error), 'error');
  }
  failed = false;
  look();
}

const disconnect = (whose, title) =>
  twoStep('Disconnect', 'Really?', title, () => act(() => api('POST', 'disconnect', whose), ({ closed }) => `${count(closed, 'connection')} closed`));

const userLink = (userId) => (userId === null || userId === undefined ? 'not signed in' : h('a', { href: `#user=${encodeURIComponent(userId)}` }, userId));

// -- overview ---------------------------------------------------------------------------------------------------------

const NODES = [
  { name: 'Node', of: (n) => n.node },
  { name: 'State', of: (n) => n.state },
  { name: 'Since', of: (n) => momentOf(n.startedAt) },
  { name: 'Last heard', of: (n) => timeOf(n.lastHeardAt) },
  { name: 'Connections', of: (n) => n.connections, number: true },
  { name: 'Other settings', of: (n) => n.differs.join(', ') },
];
const COUNTS = [
  { name: 'What', of: ([what]) => what },
  { name: 'Code', of: ([, code]) => code },
  { name: 'Times', of: ([, , times]) => numberOf(times), number: true },
];
const WRONG = { errors: 'answered with an error', closes: 'closed', refusals: 'refused' };
/** Codes of a connection that ends as it should: done, the page was left, closed without a code (RFC 6455, 7.4.1). */
const NORMAL = ['1000', '1001', '1005'];

async function overview() {
  const [stats, { nodes, unanswered }] = await Promise.all([api('GET', 'stats'), api('GET', 'nodes')]);
  const { total } = stats;
  const figures = {
    Connections: numberOf(total.connections.current),
    Users: numberOf(total.users.current),
    Channels: numberOf(total.channels.current),
    Nodes: nodes.length,
    'Messages in/s': numberOf(total.rates.messagesIn),
    'Messages out/s': numberOf(total.rates.messagesOut),
    'Left out': numberOf(total.messages.leftOut),
    'Too slow': numberOf(total.slowConsumers),
  };
  keyed(byId('numbers'), Object.entries(figures), ([name]) => name, ([name]) => h('div', {}, h('dt', {}, name), h('dd', {})), (place, [, value]) => put(place.lastChild, value));
  fill(byId('nodes'), NODES, nodes, (n) => n.node);
  const wrong = [
    ...Object.entries(total.authentications.failures).map(([code, times]) => ['sign-ins that failed', code, times]),
    ...Object.entries(WRONG).flatMap(([kind, what]) => Object.entries(total[kind]).map(([code, times]) => [what, code, times])),
  ].filter(([what, code]) => what !== WRONG.closes || !NORMAL.includes(code)).sort((a, b) => b[2] - a[2]).slice(0, ROWS);
  fill(byId('counts'), COUNTS, wrong, ([what, code]) => `${what} ${code}`);
  return unanswered ?? stats.unanswered;
}

// -- lists ------------------------------------------------------------------------------------------------------------

const CONNECTIONS = [
  { name: 'User', sort: 'user', of: (c) => userLink(c.userId), key: (c) => c.userId },
  { name: 'Node', sort: 'node', of: (c) => c.node },
  { name: 'Address', sort: 'address', of: (c) => c.address },
  { name: 'Over', of: (c) => c.protocol, title: (c) => (c.client ? `${c.client.name} ${c.client.version}, ${c.userAgent}` : c.userAgent) },
  { name: 'Since', sort: 'since', of: (c) => momentOf(c.connectedAt) },
  { name: 'Last heard', sort: 'heard', of: (c) => timeOf(c.lastHeardAt) },
  { name: 'Channels', sort: 'channels', of: (c) => c.channelCount, number: true },
  { name: 'Waiting', sort: 'queued', of: (c) => (c.queued ? `${numberOf(c.queued)} B` : '0'), number: true },
  { name: 'Errors', sort: 'errors', of: (c) => c.errors, number: true },
  { name: 'Actions', action: (c) => disconnect({ connectionId: c.connectionId }, `Disconnect ${c.userId ?? 'anonymous'} (${c.connectionId})`) },
];
const CHANNELS = [
  { name: 'Channel', sort: 'channel', of: (c) => c.channel },
  { name: 'Connections', sort: 'connections', of: (c) => numberOf(c.connections), number: true },
  { name: 'Users', sort: 'users', of: (c) => numberOf(c.users), number: true },
];

const again = () => look();
const connections = listView(byId('view-connections'), CONNECTIONS, ROWS, again, async (query) => {
  const answer = await api('GET', `operators/connections?${query}`);
  return { ...answer, rows: answer.connections, key: (c) => c.connectionId };
});
const channels = listView(byId('view-channels'), CHANNELS, ROWS, again, async (query) => {
  const answer = await api('GET', `operators/channels?${query}`);
  return { ...answer, rows: answer.channels, key: (c) => c.channel };
});

// -- one user ---------------------------------------------------------------------------------------------------------

const RECENT = [
  { name: 'Time', of: (e) => timeOf(e.at) },
  { name: 'Times', of: (e) => e.times, number: true },
  { name: 'Event', of: (e) => e.event.replaceAll('_', ' ') },
  { name: 'Code', of: (e) => e.code },
  { name: 'Reason', of: (e) => e.reason },
  { name: 'Address', of: (e) => e.address },
  { name: 'Node', of: (e) => e.node },
  { name: 'Verified', of: (e) => (e.verified ? 'yes' : 'no') },
];
const TASKS = [
  { name: 'Task', of: (t) => t.taskId },
  { name: 'Title', of: (t) => t.title ?? '' },
  { name: 'Status', of: (t) => t.status },
  { name: '%', of: (t) => t.percentage, number: true },
  { name: 'Updated', of: (t) => timeOf(t.updatedAt) },
];

let shownUser = null;

async function user() {
  const userId = decodeURIComponent(location.hash.slice('#user='.length));
  byId('explained').hidden = userId === '';
  if (userId === '') return undefined;
  const answer = await api('GET', `operators/user?limit=${ROWS}&userId=${encodeURIComponent(userId)}`);
  if (shownUser !== userId) {
    shownUser = userId;
    byId('user-name').value = userId;
    byId('user-actions').replaceChildren(
      disconnect({ userId }, `Disconnect all of ${userId}`),
      twoStep('Revoke', 'Really?', `Revoke all tokens of ${userId}`, () => act(() => api('POST', 'revoke', { userId }), ({ closed }) => `Tokens of ${userId} revoked, ${count(closed, 'connection')} closed`)),
    );
  }
  const found = answer.findings.length ? answer.findings : ['Nothing is wrong that can be seen from here.'];
  keyed(byId('findings'), found, (sentence) => sentence, (sentence) => h('li', {}, sentence));
  byId('findings').classList.toggle('well', !answer.findings.length);
  const { inbox } = answer;
  put(byId('inbox'), inbox ? `Inbox: ${count(inbox.unread, 'message')} unread, ${inbox.pending} that no device took, ${inbox.evicted} fell out, newest ${inbox.offset}, acknowledged ${inbox.acked}` : 'The inbox cannot be read now');
  put(byId('user-connections').querySelector('.number'), answer.connectionCount > ROWS ? `${ROWS} of ${answer.connectionCount}` : answer.connectionCount);
  fill(byId('user-connections'), CONNECTIONS, answer.connections, (c) => c.connectionId);
  fill(byId('recent'), RECENT, answer.recent, (e) => `${e.at} ${e.event} ${e.code} ${e.node} ${e.connectionId} ${e.reason}`);
  fill(byId('user-tasks'), TASKS, answer.tasks, (t) => t.taskId);
  return answer.unanswered;
}

byId('user-form').addEventListener('submit', (event) => {
  event.preventDefault();
  location.hash = `user=${encodeURIComponent(byId('user-name').value.trim())}`;
});

// -- events -----------------------------------------------------------------------------------------------------------

const retry = (webhook, ids) => act(() => api('POST', 'events/retry', { webhook, ids }), ({ retried }) => `${count(retried, 'event')} sent once more`);
const DEAD = [
  { name: 'Webhook', of: (d) => d.webhook },
  { name: 'Event', of: (d) => d.type },
  { name: 'Id', of: (d) => d.id },
  { name: 'Time', of: (d) => momentOf(d.timestamp) },
  { name: 'Attempts', of: (d) => d.attempts, number: true },
  { name: 'Error', of: (d) => d.error },
  { name: 'Actions', action: (d) => h('button', { type: 'button', 'aria-label': `Send ${d.id} to ${d.webhook} once more`, onclick: () => retry(d.webhook, [d.id]) }, 'Send again') },
];
const events = listView(byId('view-events'), DEAD, ROWS, again, async (query) => {
  const answer = await api('GET', `operators/dead?${query}`);
  put(byId('dead').querySelector('.number'), answer.total);
  return { ...answer, rows: answer.events, key: (d) => `${d.webhook} ${d.id}` };
});
byId('refresh-events').addEventListener('click', again);

// -- which view, and when ---------------------------------------------------------------------------------------------

const VIEWS = { overview, connections, channels, user, events };
let looking = null;
let timer = null;
/** Whether what is said is that a look failed. */
let failed = false;

const viewName = () => {
  const name = location.hash.slice(1).split('=')[0];
  return name in VIEWS ? name : 'overview';
};

function lamp(state, text) {
  byId('state').dataset.state = state;
  put(byId('state-text'), text);
}

/** Looks at the view that is open; what comes of an earlier look at another one is not shown. */
async function look() {
  clearTimeout(timer);
  const name = viewName();
  const known = apiKey() !== '';
  byId('key-card').hidden = known;
  for (const each of Object.keys(VIEWS)) byId(`view-${each}`).hidden = !known || each !== name;
  for (const link of document.querySelectorAll('.sections a')) {
    if (link.hash.slice(1) === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (!known) {
    lamp('idle', 'No key');
    return;
  }
  if (document.hidden) return;
  const mine = (looking = Symbol(name));
  try {
    const unanswered = await VIEWS[name]();
    if (looking !== mine) return;
    byId('unanswered').hidden = !unanswered?.length;
    put(byId('unanswered'), unanswered?.length ? `No answer from ${unanswered.join(', ')}: what is there is not shown.` : '');
    lamp('connected', `Looked at ${timeOf(Date.now())}`);
    if (failed) showOutcome(byId('said'), '');
    failed = false;
  } catch (error) {
    if (looking !== mine) return;
    lamp('waiting', 'No answer');
    if (error.status === 401) {
      forgetKey();
      showOutcome(byId('key-said'), describe(error), 'error');
      look();
      return;
    }
    showOutcome(byId('said'), describe(error), 'error');
    failed = true;
  }
  // Events that died some time ago wait for whoever looks again.
  if (name !== 'events' || failed) timer = setTimeout(look, EVERY);
}

onSubmit(byId('key-form'), byId('key-said'), () => {
  keepKey(byId('api-key').value);
  byId('api-key').value = '';
  showOutcome(byId('key-said'), '');
  look();
});
byId('forget-key').addEventListener('click', () => {
  forgetKey();
  look();
  byId('api-key').focus();
});
document.addEventListener('keygiven', look);
document.addEventListener('visibilitychange', look);
addEventListener('hashchange', () => {
  showOutcome(byId('said'), '');
  look();
});
look();
