// A visit by centrifuge-js, unmodified: what it is told and what it is answered, one JSON object on each line. It speaks
// as visit.py does.
import { createInterface } from 'node:readline';

import { Centrifuge } from 'centrifuge';
import { Centrifuge as WithProtobuf } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const [address, codec, token, ...later] = process.argv.slice(2);
const protobuf = codec === 'protobuf';
// Each of the two brings its own classes.
const Sdk = protobuf ? WithProtobuf : Centrifuge;
const report = (what, more = {}) => console.log(JSON.stringify({ what, ...more }));
const pack = data => (protobuf ? new TextEncoder().encode(JSON.stringify(data)) : data);
const unpack = data => (protobuf && data?.length ? JSON.parse(new TextDecoder().decode(data)) : data);
// Tokens are given one after another, until there are none.
const tokens = (of, given) => async () => {
  report('token', { of, left: given.length });
  if (!given.length) throw new Sdk.UnauthorizedError('');
  return given.shift();
};
const pub = ctx => ({ offset: ctx.offset, data: unpack(ctx.data), tags: ctx.tags });

// An address of HTTP ends with the name of its transport.
const transport = address.startsWith('ws') ? 'websocket' : address.split('/').at(-1);
const client = new Sdk([{ transport, endpoint: address }], {
  token, getToken: tokens('', later), websocket: WebSocket, eventsource: EventSource, minReconnectDelay: 100,
  emulationEndpoint: new URL('/emulation', address.replace(/^ws/, 'http')).href,
});
client.on('connecting', ({ code, reason }) => report('connecting', { code, reason }));
client.on('connected', ctx => report('connected', { client: ctx.client, version: ctx.version }));
client.on('disconnected', ({ code, reason }) => report('disconnected', { code, reason }));
client.on('error', ({ error }) => report('error', { code: error.code, error: error.message }));
client.on('subscribed', ctx => report('subscribed', { channel: ctx.channel, recovered: ctx.recovered, server: true }));
client.on('unsubscribed', ctx => report('unsubscribed', { channel: ctx.channel, server: true }));
client.on('publication', ctx => report('publication', { channel: ctx.channel, ...pub(ctx) }));

const words = {
  connect: async () => { client.connect(); await client.ready(30000); },
  disconnect: async () => client.disconnect(),
  subscribe: async (channel, first, ...rest) => {
    const sub = client.newSubscription(channel, first ? { token: first, getToken: tokens(channel, rest) } : {});
    sub.on('subscribed', ctx => report('subscribed', { channel, recovered: ctx.recovered, server: false }));
    sub.on('unsubscribed', ({ code }) => report('unsubscribed', { channel, code, server: false }));
    sub.on('publication', ctx => report('publication', { channel, ...pub(ctx) }));
    sub.on('join', ({ info }) => report('join', { channel, user: info.user, client: info.client }));
    sub.on('leave', ({ info }) => report('leave', { channel, user: info.user, client: info.client }));
    sub.on('error', ({ error }) => report('error', { channel, code: error.code, error: error.message }));
    sub.subscribe();
  },
  unsubscribe: async channel => client.getSubscription(channel).unsubscribe(),
  publish: async (channel, data) => { await client.publish(channel, pack(data)); return {}; },
  history: async (channel, since) => {
    const found = await client.history(channel, { limit: -1, since });
    return { offset: found.offset, epoch: found.epoch, data: found.publications.map(one => unpack(one.data)) };
  },
  presence: async channel => ({
    users: Object.values((await client.presence(channel)).clients).map(info => info.user).sort(),
  }),
  presence_stats: async channel => {
    const stats = await client.presenceStats(channel);
    return { clients: stats.numClients, users: stats.numUsers };
  },
  rpc: async (method, data) => ({ data: unpack((await client.rpc(method, pack(data))).data) }),
};

report('ready', { sdk: 'centrifuge-js' });
for await (const line of createInterface({ input: process.stdin })) {
  const [word, ...args] = JSON.parse(line);
  try {
    const found = await words[word](...args);
    if (found) report('done', { word, ...found });
  } catch (problem) {
    report('failed', { word, error: `${problem.code ?? ''} ${problem.message ?? problem}` });
  }
}
process.exit(0);
