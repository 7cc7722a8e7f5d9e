// npm's ws: signs in, subscribes, publishes, and hears what it published. … WS-URL TOKEN
import { createRequire } from 'node:module';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');
const [url, token] = process.argv.slice(2);
const timer = setTimeout(() => { throw new Error('not within 20 s'); }, 20_000);

const socket = new WebSocket(url, 'pushserver.v1.json');
const send = (type, id, data) => socket.send(JSON.stringify({ type, id, data }));
socket.on('open', () => send('auth', 1, { token }));
socket.on('message', (text) => {
  const message = JSON.parse(text);
  if (message.type === 'auth_success') send('subscribe', 2, { channels: ['live:ws'] });
  else if (message.id === 2) send('publish', 3, { channel: 'live:ws', data: 'by ws' });
  else if (message.type === 'message' && message.data === 'by ws') {
    clearTimeout(timer);
    socket.close(1000);
  } else if (message.type === 'error' || message.type === 'auth_failed') throw new Error(text);
});
