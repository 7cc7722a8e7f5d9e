// A Node program with a client: a command a line, {"do": name, ...}; an answer a line.
import './clock.js';
import { createInterface } from 'node:readline';
import { createClient } from '../../../pushserver/web/static/pushclient/index.js';
import { begin } from './client.js';

const shown = [];
const gaps = [];
let played;
const commands = {
  begin: (options) => {
    played = begin(createClient, options, (line) => shown.push(line));
    played.client.on('gap', ({ channel }) => gaps.push(channel));
  },
  give: ({ token }) => played.give(token),
  become: ({ token }) => played.become(token),
  clock: ({ at, by }) => void setClock({ at, by }),
  ready: () => played.isReady(),
  shown: () => shown,
  gaps: () => gaps,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...options } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(commands[name](options) ?? null)}\n`);
}
played?.client.disconnect();
process.exit(0);
