// Two hundred random actions on one inbox, by clients over both ways and, where there are two, on both servers, while messages
// come and connections are made anew. Ends well once every client shows what the server has; argv: a seed, the servers'
// urls, the address of the API, its key, a token.
import { createRequire } from 'node:module';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');
const [seed, urls, api, key, token] = process.argv.slice(2);
const PATIENCE = 30_000;

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
const clients = ['websocket', 'sse', 'websocket'].map((transport, index) => createClient({
  url: places[index % places.length], token, transports: [transport], reconnectInterval: 50, lossWindow: 200, environment: { WebSocket },
}));
await Promise.all(clients.map((client) => client.connect()));
await Promise.all(clients.map((client) => client.inbox()));

const act = (client) => {
  const { messages } = client.getState().inbox;
  const chance = random();
  if (chance < 0.4 || messages.length === 0) return notify('news');
  const { offset } = pick(messages);
  if (chance < 0.6) return client.markRead([offset]);
  if (chance < 0.7) return client.markRead([offset], { read: false });
  if (chance < 0.85) return client.deleteFromInbox([offset]);
  if (chance < 0.9) return client.markAllRead();
  return client.reconnect();
};
const under = [];
for (let n = 0; n < 200; n += 1) {
  under.push(act(pick(clients)));
  if (random() < 0.3) await pause(10);
}
await Promise.all(under);

const said = ({ unread, messages }) => JSON.stringify([unread, messages.map(({ offset, readAt }) => [offset, readAt !== null])]);
const kept = async () => said(await (await fetch(`${api}/api/inbox?userId=42&limit=200`, { headers })).json());
const began = Date.now();
for (;;) {
  const wanted = await kept();
  const shown = clients.map((client) => said(client.getState().inbox));
  if (shown.every((each) => each === wanted)) break;
  if (Date.now() - began > PATIENCE) throw new Error([`seed ${seed}`, wanted, ...shown].join('\n'));
  await pause(50);
}
console.log(`agreed after ${Date.now() - began} ms`);
process.exit(0);
