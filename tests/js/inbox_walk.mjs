// Two clients of one user, the first over the way in argv[3], against the server at argv[2]; the tokens in argv: to sign in, for
// doc:17, and one for another channel. Prints as JSON what both saw in the end.
import { createRequire } from 'node:module';
import { createClient } from '../../pushserver/web/static/pushclient/index.js';
import { until } from './until.js';

const { WebSocket } = createRequire(new URL('../node/package.json', import.meta.url))('ws');
const [url, transport, token, forDoc, forOther] = process.argv.slice(2);
const clients = [[transport], ['websocket']].map((transports) => createClient({ url, token, transports, environment: { WebSocket } }));
const [one, two] = clients;
const shownIn = (client) => client.getState().inbox.messages.map(({ data, readAt }) => (readAt ? `(${data})` : data)).join(' ');
const agree = (shown) => until(() => clients.every((client) => shownIn(client) === shown), shown, 20000);

await Promise.all(clients.map((client) => client.connect()));
await Promise.all(clients.map((client) => client.inbox()));
await agree('c b a');
await one.markRead([3]);
await agree('(c) b a');
await two.deleteFromInbox([2]);
await agree('(c) a');
await until(() => clients.every((client) => client.getState().inbox.unread.notification === 1), 'the counts', 20000);
const doc = one.subscribeChannel('doc:17', () => {}, { token: () => forDoc });
await doc.ready;
const codeOf = (channel, options) => one.subscribeChannel(channel, () => {}, options).ready.then(() => 'ok', ({ code }) => code);
console.log(JSON.stringify({
  unread: clients.map((client) => client.getState().inbox.unread.notification),
  shown: clients.map(shownIn),
  doc: doc.state,
  wrong: await codeOf('doc:19', { token: forOther }),
  without: await codeOf('doc:20'),
}));
process.exit(0);
