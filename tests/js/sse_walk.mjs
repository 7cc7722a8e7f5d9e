// The browser client over server-sent events alone, against the server at argv[2] with the token in argv[3]; prints what
// it saw as JSON when "end" has come on demo:sse, and why it was closed.
import { createClient } from '../../pushserver/web/static/pushclient/index.js';

const [url, token] = process.argv.slice(2);
const client = createClient({ url, token, transports: ['sse'], reconnectInterval: 50, lossWindow: 200 });
const seen = [];
const inbox = [];
client.on('user_notification', ({ data }) => inbox.push(data.n));
client.on('disconnect', (event) => { if (!event.willReconnect) finish(event); });
const { ready } = client.subscribeChannel('demo:sse', ({ type, data }) => type === 'message' && seen.push(data));
await client.connect();
await ready;
const pong = await client.request('ping', { x: 1 });
await client.publish('demo:sse', 'own');
console.log('ready');
function finish(event) {
  console.log(JSON.stringify({ seen, inbox, pong: pong.x, transport: client.getState().transport, code: event.code }));
  process.exit(0);
}
