// Many clients of centrifuge-js in one process: they say when each of them is told to go, and when all are back.
//
//   node crowd.mjs ADDRESS TOKEN COUNT     on each line {"what", "code"?, "at"?}: ms since the beginning
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const [address, token, count] = process.argv.slice(2);
const report = said => console.log(JSON.stringify(said));
let connected = 0;
const clients = Array.from({ length: Number(count) }, () => {
  // What is waited for are the clients, not a machine that is busy with other tests.
  const client = new Centrifuge(address, { token, websocket: WebSocket, timeout: 60000, maxReconnectDelay: 5000 });
  client.on('connected', () => { if (++connected === clients.length) report({ what: 'all' }); });
  // 0: it was told to connect by this program.
  client.on('connecting', ({ code }) => { if (code) { connected--; report({ what: 'gone', code, at: performance.now() }); } });
  client.on('disconnected', ({ code }) => report({ what: 'ended', code }));
  return client;
});
for (const client of clients) client.connect();
