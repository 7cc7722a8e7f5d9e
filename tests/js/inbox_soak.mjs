// Two hundred random actions on one inbox, by clients over both ways and, where there are two, on both servers, while messages
// come and connections are made anew. After each action that changes what is read or kept, all that are connected must come
// to the server's counts; in the end every client shows what the server has. argv: a seed, the servers' urls, the address of
// the API, its key, a token. Half-way it says so, and goes on with the next line of standard input.
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');
const [seed, urls, api, key, token] = process.argv.slice(2);
const ACTIONS = 200;
const PATIENCE = 60_000;

let state = Number(seed);
const random = () => {
  state = (state * 1103515245 + 12345) % 2147483648;
  return state / 2147483648;
};
const pick = (values) => values[Math.floor(random() * values.length)];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const headers = { 'X-API-Key': key, 'Content-Type': 'application/json' };
const notify = (data) => fetch(`${api}/api/notify`, { method: 'POST', headers, body: JSON.stringify({ userId: '42', data }) });
const places = urls.split(',');
const clients = ['websocket', 'websocket', 'sse', 'sse'].map((transport, index) => createClient({
  url: places[index % places.length], token, transports: [transport], reconnectInterval: 50, lossWindow: 200,
  requestTimeout: 60_000, environment: { WebSocket },
}));
await Promise.all(clients.map((client) => client.connect()));
await Promise.all(clients.map((client) => client.inbox()));

const isConnected = (client) => client.getState().isConnected;
const countsOf = ({ unread }) => JSON.stringify(unread);
const wholeOf = ({ unread, messages }) => JSON.stringify([unread, messages.map(({ offset, readAt }) => [offset, readAt !== null])]);

/** Until those that are connected show the same of the inbox as the server has; how long that took, in ms. */
async function agree(shownOf, limit) {
  const began = Date.now();
  for (;;) {
    const wanted = shownOf(await (await fetch(`${api}/api/inbox?userId=42&limit=${limit}`, { headers })).json());
    const shown = clients.filter(isConnected).map((client) => shownOf(client.getState().inbox));
    if (shown.every((each) => each === wanted)) return Date.now() - began;
    if (Date.now() - began > PATIENCE) throw new Error([`seed ${seed}`, wanted, ...shown].join('\n'));
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

/** Something that a user or a backend does: whether it changes what is read or kept, and the promise of it. */
const act = (client) => {
  const { messages } = client.getState().inbox;
  const chance = random();
  if (chance < 0.35 || messages.length === 0) return [false, notify('news')];
  if (chance < 0.4) return [false, client.reconnect()];
  const { offset } = pick(messages);
  if (chance < 0.55) return [true, client.markRead([offset])];
  if (chance < 0.65) return [true, client.markRead([offset], { read: false })];
  if (chance < 0.8) return [true, client.deleteFromInbox([offset])];
  if (chance < 0.85) return [true, client.markAllRead()];
  return [true, readOffline(client, offset)];
};

const under = [];
let longest = 0;
for (let n = 0; n < ACTIONS; n += 1) {
  if (n === ACTIONS / 2) {
    console.log('half-way');
    await once(process.stdin, 'data');
  }
  const client = pick(clients);
  const wasConnected = isConnected(client);
  const [changes, done] = act(client);
  if (changes && wasConnected) {
    await done;
    longest = Math.max(longest, await agree(countsOf, 1));
  } else {
    under.push(done);
    if (random() < 0.3) await pause(10);
  }
}
await Promise.all(under);
await Promise.all(clients.map((client) => client.connect()));
const whole = await agree(wholeOf, 200);
console.log(`counts agreed after ${longest} ms at most, all of it after ${whole} ms`);
process.exit(0);
