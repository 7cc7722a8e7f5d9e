/** The server's inside, for who has the API key: connections, users, channels, and what ends them. */

import { byId, describe, h, keyed, momentOf, numberOf, onSubmit, put, say, twoStep } from './dom.js';
import { api, apiKey, forgetKey, keepKey } from './session.js';

const EVERY = 2000;
const SHOWN = 200;

const cell = (label, text, numeric) => h('td', { 'data-label': label, class: numeric ? 'num' : undefined }, text);

/** `Mozilla/5.0 (X11; Linux) … Chrome/140.0 …` as `Chrome 140 on Linux`: what tells tabs from workers at a glance. */
export function clientOf(agent) {
  const text = String(agent ?? '');
  const browser = /(Edg|OPR|Firefox|HeadlessChrome|Chrome|Version)\/(\d+)/.exec(text);
  if (!browser || !text.startsWith('Mozilla/')) return text.slice(0, 60) || '–';
  const name = { Edg: 'Edge', OPR: 'Opera', HeadlessChrome: 'Chrome', Version: 'Safari' }[browser[1]] ?? browser[1];
  const system = /Android|iPhone|iPad|Windows|Mac OS|Linux/.exec(text);
  return `${name} ${browser[2]}${system ? ` on ${system[0].replace('Mac OS', 'macOS')}` : ''}`;
}

export function serverPanel(client, messages) {
  const said = byId('server-said');
  let timer = null;
  let running = false;

  const act = async (work, words) => {
    try {
      const { closed } = await work();
      say(said, words(closed));
    } catch (error) {
      say(said, describe(error), 'error');
    }
    look();
  };
  const count = (number, one) => `${number} ${one}${number === 1 ? '' : 's'}`;

  const table = (id, items, keyOf, create, update) => {
    const place = byId(id);
    put(place.querySelector('.number'), items.length > SHOWN ? `${SHOWN} of ${numberOf(items.length)}` : items.length);
    keyed(place.tBodies[0], items.slice(0, SHOWN), keyOf, create, update);
  };

  const drawConnections = (connections) => table('connections', connections, (c) => c.connectionId, (c) => h('tr', { data: { connection: c.connectionId } },
    h('th', { scope: 'row', 'data-label': 'User' }),
    cell('Address', c.address), h('td', { 'data-label': 'Client', title: c.userAgent }, clientOf(c.userAgent)),
    cell('Since', momentOf(c.connectedAt)), cell('Channels', '', true), cell('Waiting', '', true),
    h('td', { class: 'actions' }, h('button', {
      type: 'button', 'aria-label': `Disconnect ${c.userId ?? 'anonymous'} (${c.connectionId})`,
      onclick: () => act(() => api('POST', 'disconnect', { connectionId: c.connectionId }), (n) => `${count(n, 'connection')} closed`),
    }, 'Disconnect'))), (row, c) => {
    const mine = c.connectionId === client.getState().connectionId;
    put(row.cells[0], (c.userId ?? 'not signed in') + (mine ? ' (this page)' : ''));
    put(row.cells[4], c.channels.length);
    row.cells[4].title = c.channels.join('\n');
    put(row.cells[5], c.queued ? `${numberOf(c.queued)} B` : '0');
    row.classList.toggle('own', mine);
  });

  const drawUsers = (connections) => {
    const users = new Map();
    for (const { userId } of connections) if (userId !== null && userId !== undefined) users.set(userId, (users.get(userId) ?? 0) + 1);
    const sorted = [...users].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    table('users', sorted, ([userId]) => userId, ([userId]) => h('tr', { data: { user: userId } },
      h('th', { scope: 'row', 'data-label': 'User' }, userId), cell('Connections', '', true),
      h('td', { class: 'actions' },
        h('button', {
          type: 'button', 'aria-label': `Disconnect all of ${userId}`,
          onclick: () => act(() => api('POST', 'disconnect', { userId }), (n) => `${count(n, 'connection')} of ${userId} closed`),
        }, 'Disconnect'),
        twoStep('Revoke', 'Really?', `Revoke all tokens of ${userId}`,
          () => act(() => api('POST', 'revoke', { userId }), (n) => `Tokens of ${userId} revoked, ${count(n, 'connection')} closed`)))),
    (row, [, connected]) => put(row.cells[1], connected));
  };

  const drawChannels = (channels) => {
    const sorted = [...channels].sort((a, b) => b.connections - a.connections || (a.channel < b.channel ? -1 : 1));
    table('channel-table', sorted, (c) => c.channel, (c) => h('tr', { data: { channel: c.channel } },
      h('th', { scope: 'row', 'data-label': 'Channel' }, c.channel), cell('Connections', '', true), cell('Users', '', true),
      // Nobody follows another's `user:` channel, whatever the key.
      h('td', { class: 'actions' }, c.channel.startsWith('user:') ? null : h('button', {
        type: 'button', 'aria-label': `Watch ${c.channel}`, onclick: () => messages.watch(c.channel),
      }, 'Watch'))),
    (row, c) => {
      put(row.cells[1], numberOf(c.connections));
      put(row.cells[2], numberOf(c.users));
    });
  };

  const look = async () => {
    if (running || apiKey() === '' || !client.getState().isConnected || document.hidden) return;
    running = true;
    try {
      const [{ connections }, { channels }] = await Promise.all([api('GET', 'connections'), api('GET', 'channels')]);
      drawConnections(connections);
      drawUsers(connections);
      drawChannels(channels);
      put(byId('server-aside'), `looked at every ${EVERY / 1000} s`);
      byId('server-panels').hidden = false;
    } catch (error) {
      if (error.status === 401 || error.status === 403 || error.status === 404) {
        forget();
        say(byId('key-said'), describe(error), 'error');
      } else {
        put(byId('server-aside'), describe(error));
      }
    } finally {
      running = false;
    }
  };

  const show = () => {
    const known = apiKey() !== '';
    byId('key-form').hidden = known;
    byId('forget-key').hidden = !known;
    if (!known) {
      byId('server-panels').hidden = true;
      put(byId('server-aside'), '');
    }
    clearInterval(timer);
    timer = known ? setInterval(look, EVERY) : null;
    document.dispatchEvent(new Event('keychange'));
    look();
  };
  const forget = () => {
    forgetKey();
    show();
  };

  onSubmit(byId('key-form'), byId('key-said'), () => {
    keepKey(byId('api-key').value);
    byId('api-key').value = '';
    show();
    return '';
  });
  byId('forget-key').addEventListener('click', () => {
    forget();
    byId('api-key').focus();
  });
  document.addEventListener('keygiven', show);
  client.on('connect', look);
  document.addEventListener('visibilitychange', look);
  show();
}
