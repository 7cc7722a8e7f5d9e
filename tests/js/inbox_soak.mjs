// Two hundred random actions on one inbox, by clients over both ways and Python's for asyncio, where there are two on both
// servers, while messages come and connections are made anew. After each action that changes what is read or kept, all that are
// connected must come to the server's counts; in the end every client shows what the server has. argv: a seed, the servers' urls,
// the address of the API, its key, a token, the interpreter of Python. Half-way it says so, and goes on with the next line of
// standard input. Where it fails, it tells what was done and what each client was told.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');
const [seed, urls, api, key, token, python] = process.argv.slice(2);
const ACTIONS = 200;
/** ms after which something has gone wrong that has not come; a node that comes back on a busy machine is slow. */
const PATIENCE = 300_000;
/** So many of the last lines of what happened are told. */
const TOLD = 400;

let state = Number(seed);
const random = () => {
  state = (state * 1103515245 + 12345) % 2147483648;
  return state / 2147483648;
};
const pick = (values) => values[Math.floor(random() * values.length)];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const began = Date.now();
const happened = [];
const note = (...what) => happened.push(`${Date.now() - began} ${what.map((each) => JSON.stringify(each) ?? '').join(' ')}`);

const headers = { 'X-API-Key': key, 'Content-Type': 'application/json' };
const notify = async (data) => {
  const answer = await fetch(`${api}/api/notify`, { method: 'POST', headers, body: JSON.stringify({ userId: '42', data }) });
  note('notify', answer.status, await answer.json());
};
const places = urls.split(',');
const clients = ['websocket', 'websocket', 'sse', 'sse'].map((transport, index) => {
  const client = createClient({
    url: places[index % places.length], token, transports: [transport], reconnectInterval: 50, lossWindow: 200,
    maxReconnectInterval: 200, requestTimeout: PATIENCE, environment: { WebSocket },
  });
  for (const event of ['connect', 'disconnect', 'error', 'gap', 'inbox_changed', 'user_notification']) {
    client.on(event, (value) => note(index, event, value.data ?? value, value.offset));
  }
  client.select(({ inbox }) => inbox.unread, (unread) => note(index, 'shows', unread));
  return client;
});
await Promise.all(clients.map((client) => client.connect()));
await Promise.all(clients.map((client) => client.inbox()));

/** tests/clients/inbox_asyncio.py, which does what it is told, one thing after the other. */
const asyncio = {
  program: spawn(python, ['-m', 'tests.clients.inbox_asyncio', places.at(-1), token], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)), stdio: ['pipe', 'pipe', 'inherit'],
  }),
  waiting: [],
  ask(command) {
    this.program.stdin.write(`${JSON.stringify(command)}\n`);
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  },
  // It keeps counts and no list: it acts on what a client beside it shows.
  getState: () => clients[0].getState(),
  markRead: (offsets, { read = true } = {}) => asyncio.ask({ do: 'mark', offsets, read }),
  deleteFromInbox: (offsets) => asyncio.ask({ do: 'delete', offsets }),
  markAllRead: () => asyncio.ask({ do: 'mark', upTo: clients[0].getState().inbox.offset }),
};
createInterface({ input: asyncio.program.stdout }).on('line', (line) => {
  const { resolve, reject } = asyncio.waiting.shift();
  const { error, ...answer } = JSON.parse(line);
  if (error) reject(new Error(error));
  else resolve(answer);
});
asyncio.program.on('exit', (code) => asyncio.waiting.forEach(({ reject }) => reject(new Error(`the asyncio client ended with ${code}`))));
while (!(await asyncio.ask({ do: 'show' })).connected) await pause(5);

const isConnected = (client) => client.getState().isConnected;
const countsOf = ({ unread }) => JSON.stringify(unread);
const wholeOf = ({ unread, messages }) => JSON.stringify([unread, messages.map(({ offset, readAt }) => [offset, readAt !== null])]);

/** Until those that are connected show the same of the inbox as the server has; how long that took, in ms. */
async function agree(shownOf, limit) {
  const start = Date.now();
  for (;;) {
    const wanted = shownOf(await (await fetch(`${api}/api/inbox?userId=42&limit=${limit}`, { headers })).json());
    const shown = clients.filter(isConnected).map((client) => shownOf(client.getState().inbox));
    const told = await asyncio.ask({ do: 'show' });
    if (told.connected) shown.push(shownOf(shownOf === countsOf ? told : await asyncio.ask({ do: 'list' })));
    if (shown.every((each) => each === wanted)) return Date.now() - start;
    if (Date.now() - start > PATIENCE) throw new Error(['the server, and those that are connected:', wanted, ...shown].join('\n'));
    await pause(5);
  }
}

/** Reads a message while there is no connection: it waits for the next one. */
const readOffline = async (client, offset) => {
  const back = client.reconnect();
  if (isConnected(client)) throw new Error('still connected');
  const read = client.markRead([offset]);
  await back;
  return read;
};

/** Something that a user or a backend does: its name, whether it changes what is read or kept, and the promise of it. */
const act = (client) => {
  const { messages } = client.getState().inbox;
  const chance = random();
  if (chance < 0.35 || messages.length === 0) return ['notify', false, notify('news')];
  if (chance < 0.4 && client.reconnect) return ['reconnect', false, client.reconnect()];
  const { offset } = pick(messages);
  if (chance < 0.55) return [`read ${offset}`, true, client.markRead([offset])];
  if (chance < 0.65) return [`unread ${offset}`, true, client.markRead([offset], { read: false })];
  if (chance < 0.8) return [`delete ${offset}`, true, client.deleteFromInbox([offset])];
  if (chance < 0.85) return ['read all', true, client.markAllRead()];
  return client.reconnect
    ? [`read ${offset} offline`, true, readOffline(client, offset)]
    : [`read ${offset}`, true, client.markRead([offset])];
};

async function play() {
  const under = [];
  let longest = 0;
  for (let n = 0; n < ACTIONS; n += 1) {
    if (n === ACTIONS / 2) {
      console.log('half-way');
      await once(process.stdin, 'data');
      note('half-way');
    }
    const client = pick([...clients, asyncio]);
    const wasConnected = isConnected(client);
    const [name, changes, done] = act(client);
    const who = clients.indexOf(client);
    note(who, 'does', name);
    const noted = done.then((answer) => note(who, 'did', name, answer));
    if (changes && wasConnected) {
      await noted;
      longest = Math.max(longest, await agree(countsOf, 1));
    } else {
      under.push(noted);
      if (random() < 0.3) await pause(10);
    }
  }
  await Promise.all(under);
  await Promise.all(clients.map((client) => client.connect()));
  while (!(await asyncio.ask({ do: 'show' })).connected) await pause(5);
  const whole = await agree(wholeOf, 200);
  console.log(`counts agreed after ${longest} ms at most, all of it after ${whole} ms`);
}

try {
  await play();
} catch (error) {
  const explained = await fetch(`${api}/api/explain?userId=42`, { headers }).then((answer) => answer.text(), String);
  console.error([`seed ${seed}`, error.stack, ...happened.slice(-TOLD), explained].join('\n'));
  process.exitCode = 1;
}
asyncio.program.stdin.end();
process.exit();
