/** Live statistics: a tile with its plot for each figure, from the `stats` channel, and this page's own latency. */

import { byId, h, lasting, numberOf, put, soon } from './dom.js';

const POINTS = 60;
const FEWEST = 12;
const WIDTH = 120;
const HEIGHT = 36;
const LOOK_EVERY = 2000;
const SVG = 'http://www.w3.org/2000/svg';

const svg = (tag, attributes) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

/** One figure: its value now and its course. */
class Tile {
  #points = [];
  #value;
  #line;
  #area;
  #plot;
  #name;
  #unit;

  constructor(id, name, unit) {
    this.#name = name;
    this.#unit = unit;
    this.#value = h('strong', {}, '–');
    this.#area = svg('path', { class: 'area' });
    this.#line = svg('path', { class: 'line', 'vector-effect': 'non-scaling-stroke' });
    this.#plot = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': name });
    const idle = svg('path', { class: 'idle', d: `M0 ${HEIGHT - 12} H${WIDTH}`, 'vector-effect': 'non-scaling-stroke' });
    this.#plot.append(idle, this.#area, this.#line);
    this.element = h('div', { class: 'tile', id: `tile-${id}` }, h('p', { class: 'eyebrow' }, name), h('p', { class: 'value' }, this.#value, h('span', {}, unit)), this.#plot);
  }

  add(value) {
    if (!Number.isFinite(value)) return;
    this.#points.push(value);
    if (this.#points.length > POINTS) this.#points.shift();
    this.#draw(value);
  }

  #draw(value) {
    put(this.#value, numberOf(value));
    const highest = Math.max(...this.#points);
    const ceiling = Math.max(highest, 1) * 1.15;
    // Young plots are drawn wider, so that one sees something in the first minute.
    const step = WIDTH / Math.max(this.#points.length - 1, FEWEST);
    const start = WIDTH - (this.#points.length - 1) * step;
    const spots = this.#points.map((point, index) => `${(start + index * step).toFixed(1)} ${(HEIGHT - 1.5 - (point / ceiling) * (HEIGHT - 3)).toFixed(1)}`);
    // One reading is a point; a line needs two.
    const line = `M${spots.join(' L')}`;
    this.#line.setAttribute('d', spots.length > 1 ? line : '');
    this.#area.setAttribute('d', spots.length > 1 ? `${line} V${HEIGHT} H${start.toFixed(1)} Z` : '');
    this.#plot.setAttribute('aria-label', `${this.#name}: ${numberOf(value)} ${this.#unit}, highest ${numberOf(highest)} of the last ${this.#points.length} readings`);
    this.element.dataset.points = this.#points.length;
  }
}

const number = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : undefined);

/** The figures of all nodes together, read from what `system_stats` carries. */
export function figuresOf(stats) {
  const total = stats?.total ?? {};
  return {
    connections: number(total.connections?.current),
    users: number(total.users?.current),
    messagesIn: number(total.rates?.messagesIn),
    messagesOut: number(total.rates?.messagesOut),
    highest: number(total.connections?.highest),
    total: number(total.connections?.total),
    success: number(total.authentications?.successRate),
    uptime: number(total.uptime),
    nodes: stats?.nodes ? Object.keys(stats.nodes).length : undefined,
  };
}

export function statisticsPanel(client) {
  const tiles = {
    connections: new Tile('connections', 'Connections', 'open'),
    users: new Tile('users', 'Users', 'online'),
    messagesIn: new Tile('messagesIn', 'Messages in', '/ s'),
    messagesOut: new Tile('messagesOut', 'Messages out', '/ s'),
    latency: new Tile('latency', 'Latency', 'ms'),
    received: new Tile('received', 'To this page', '/ s'),
  };
  byId('tiles').append(...Object.values(tiles).map((tile) => tile.element));

  let refused = null;
  let received = 0;
  let last = {};
  const facts = soon(() => {
    const parts = [];
    if (refused) parts.push(`No server statistics: ${refused}`);
    if (last.nodes > 1) parts.push(`${last.nodes} nodes`);
    if (last.uptime !== undefined) parts.push(`up ${lasting(last.uptime)}`);
    if (last.highest !== undefined) parts.push(`at most ${numberOf(last.highest)} connections at a time`);
    if (last.total !== undefined) parts.push(`${numberOf(last.total)} since the start`);
    if (last.success !== undefined) parts.push(`${(last.success * 100).toFixed(1)} % of sign-ins succeeded`);
    byId('figures').hidden = parts.length === 0;
    put(byId('figures'), parts.join(' · '));
  });

  client.on('system_stats', ({ data }) => {
    refused = null;
    last = figuresOf(data);
    for (const name of ['connections', 'users', 'messagesIn', 'messagesOut']) tiles[name].add(last[name]);
    facts();
  });
  client.on('*', () => { received += 1; });
  client.on('rejected', ({ channel, message }) => {
    if (channel !== 'stats') return;
    refused = message;
    facts();
  });
  client.subscribeChannel('stats', () => {}).ready.catch(() => {});

  const measure = async () => {
    if (!client.getState().isConnected || document.hidden) return;
    const sent = performance.now();
    await client.request('ping', {}).then(() => tiles.latency.add(Math.round((performance.now() - sent) * 10) / 10), () => {});
    tiles.received.add(received / (LOOK_EVERY / 1000));
    received = 0;
  };
  client.on('connect', measure);
  setInterval(measure, LOOK_EVERY);
}
