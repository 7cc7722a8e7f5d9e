// What a task writes, over a fake server.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { PushError } from '../../pushserver/web/static/pushclient/errors.js';
import { selectOutput } from '../../pushserver/web/static/pushclient/index.js';
import { NO_OUTPUT, outputOf } from '../../pushserver/web/static/pushclient/output.js';
import { createSharedClient } from '../../pushserver/web/static/pushclient/shared.js';
import { FakeServer } from '../../pushserver/web/static/pushclient/testing.js';
import { Exchange } from '../../pushserver/web/static/pushclient/worker.js';
import { nextTurn, tokenOf } from './fakes.js';
import { until } from './until.js';

const channel = 'output:main/t';
const frames = [];
globalThis.requestAnimationFrame = (act) => frames.push(act);
const draw = () => {
  for (const act of frames.splice(0)) act();
};

async function stage(context) {
  const fake = new FakeServer();
  const client = fake.create();
  context.after(() => {
    fake.close();
    draw();
  });
  await client.connect();
  await nextTurn();
  return { fake, client, output: client.task('t').output() };
}

/** Waits until the client is signed in again, and what it asked for is answered. */
async function back(client) {
  while (client.getState().isConnected) await nextTurn();
  while (!client.getState().isConnected) await nextTurn();
  await nextTurn();
}

test('it is read from the beginning to the end, in UTF-8 positions', async (context) => {
  const { fake, output } = await stage(context);
  fake.output('t', { text: 'Grüße' });
  const chunks = [];
  const reading = (async () => {
    for await (const chunk of output) {
      chunks.push(chunk);
      if (chunks.length === 1) fake.output('t', { text: ' 🎉' });
      if (chunks.length === 2) fake.output('t', { closed: true });
    }
  })();
  await reading;
  const place = { epoch: 'output', trimmed: false, reset: false };
  assert.deepEqual(chunks, [
    { text: 'Grüße', offset: 7, closed: false, ...place },
    { text: ' 🎉', offset: 12, closed: false, ...place },
    { text: '', offset: 12, closed: true, ...place },
  ]);
  assert.deepEqual([output.position, output.closed], [{ offset: 12, epoch: 'output' }, true]);
});

test('text() has all of it, and stream() its parts', async (context) => {
  const { fake, client, output } = await stage(context);
  fake.output('t', { text: 'one ' });
  const text = output.text();
  const items = client.task('t').output('rows').stream().getReader();
  fake.output('t', { text: 'two', closed: true });
  assert.equal(await text, 'one two');
  fake.output('t', { name: 'rows', items: [{ n: 1 }, { n: 2 }], closed: true });
  assert.deepEqual([await items.read(), await items.read()].map(({ value }) => value), [{ n: 1 }, { n: 2 }]);
  assert.equal((await items.read()).done, true);
});

test('who stops reading ends the subscription, also while waiting', async (context) => {
  const { fake, output } = await stage(context);
  const reader = output.stream().getReader();
  const waiting = reader.read();
  while (!fake.channels.has(channel)) await nextTurn();
  await reader.cancel();
  assert.equal((await waiting).done, true);
  await until(() => !fake.channels.has(channel));
});

test('after a cut it goes on at its own position', async (context) => {
  const { fake, client, output } = await stage(context);
  fake.output('t', { text: 'abc' });
  const iterator = output[Symbol.asyncIterator]();
  assert.equal((await iterator.next()).value.text, 'abc');
  fake.drop();
  fake.output('t', { text: 'ü' });
  assert.equal((await iterator.next()).value.text, 'ü');
  assert.deepEqual(fake.sentOf('subscribe').at(-1).channels, [{ channel, since: { offset: 3, epoch: 'output' } }]);
  // The end takes no position.
  fake.drop();
  fake.output('t', { closed: true });
  assert.deepEqual((await iterator.next()).value, {
    text: '', offset: 5, epoch: 'output', closed: true, trimmed: false, reset: false,
  });
  assert.equal((await iterator.next()).done, true);
  assert.equal(client.getState().isConnected, true);
});

test('it is shown once a frame, by everybody who looks', async (context) => {
  const { fake, client } = await stage(context);
  const output = outputOf(client, channel);
  assert.deepEqual(output.getState(), NO_OUTPUT);
  const looks = [];
  const ends = [output.subscribe((state) => looks.push(state.text)), output.subscribe(() => {})];
  while (!fake.channels.has(channel)) await nextTurn();
  await nextTurn();
  draw();
  looks.length = 0;
  for (const text of ['a', 'b', 'c']) fake.output('t', { text });
  assert.deepEqual([looks, frames.length], [[], 1]);
  draw();
  fake.output('t', { text: 'd', closed: true });
  draw();
  draw();
  assert.deepEqual(looks, ['abc', 'abcd']);
  const shown = { text: 'abcd', closed: true, trimmed: false, error: null };
  assert.deepEqual(output.getState(), shown);
  assert.deepEqual(selectOutput('t')(client.getState()), shown);
  for (const end of ends) end();
  await until(() => client.getState().outputs.size === 0);
  assert.deepEqual([client.getState().outputs.size, output.getState()], [0, NO_OUTPUT]);
});

test('one that comes later has it all without asking', async (context) => {
  const { fake, client, output } = await stage(context);
  fake.output('t', { text: 'abc' });
  const first = output[Symbol.asyncIterator]();
  await first.next();
  fake.output('t', { text: 'def' });
  const second = client.task('t').output()[Symbol.asyncIterator]();
  assert.deepEqual([(await first.next()).value.text, (await second.next()).value.text], ['def', 'abcdef']);
  assert.equal(fake.sentOf('subscribe').length, 1);
});

test('what somebody else subscribed to is asked for from the beginning', async (context) => {
  const { fake, client, output } = await stage(context);
  fake.output('t', { text: 'abc' });
  await client.subscribeChannel(channel, () => {}).ready;
  fake.output('t', { text: 'def' });
  const reader = output[Symbol.asyncIterator]();
  let read = '';
  while (read.length < 6) read += (await reader.next()).value.text;
  assert.equal(read, 'abcdef');
});

test('what is gone is told, and a new attempt begins anew', async (context) => {
  const { fake, client, output } = await stage(context);
  const push = (data, offset, epoch = 'output') => fake.push({ type: 'output', channel, data, offset, epoch });
  fake.output('t', { text: 'abc' });
  const iterator = output[Symbol.asyncIterator]();
  const shown = outputOf(client, channel);
  await iterator.next();
  push({ text: 'xy', trimmed: true, start: 10 }, 12);
  assert.deepEqual((await iterator.next()).value, {
    text: 'xy', offset: 12, epoch: 'output', closed: false, trimmed: true, reset: false,
  });
  draw();
  assert.deepEqual([shown.getState().text, shown.getState().trimmed], ['xy', true]);
  push({ text: '', reset: true, start: 0 }, 0, 'second');
  push({ text: 'new' }, 3, 'second');
  assert.deepEqual((await iterator.next()).value, {
    text: 'new', offset: 3, epoch: 'second', closed: false, trimmed: false, reset: true,
  });
  // What is told again of the same attempt is a repeat.
  push({ text: 'ne', reset: true, start: 0 }, 2, 'second');
  push({ text: 'w!' }, 4, 'second');
  assert.equal((await iterator.next()).value.text, '!');
  draw();
  assert.deepEqual([shown.getState().text, shown.getState().trimmed], ['new!', false]);
});

test('what lies between is asked for, until there is no more', async (context) => {
  const { fake, output } = await stage(context);
  fake.output('t', { text: 'abc' });
  const iterator = output[Symbol.asyncIterator]();
  await iterator.next();
  const answers = [{ text: 'de', offset: 5 }, { text: 'fg', offset: 7 }, { text: '', offset: 7 }];
  fake.reply('subscribe', () => ({
    results: { [channel]: { output: { ...answers.shift(), epoch: 'output', start: 0, closed: false } } }, rejected: {},
  }));
  fake.push({ type: 'output', channel, data: { text: 'g' }, offset: 7, epoch: 'output' });
  let read = '';
  while (read.length < 4) read += (await iterator.next()).value.text;
  assert.equal(read, 'defg');
});

test('a page that shows 4 MiB forgets the oldest lines', async (context) => {
  const { fake, client, output } = await stage(context);
  const line = `${'x'.repeat(1023)}\n`;
  const push = (data, offset) => fake.push({ type: 'output', channel, data, offset, epoch: 'output' });
  const iterator = output[Symbol.asyncIterator]();
  const waiting = iterator.next();
  while (!fake.channels.has(channel)) await nextTurn();
  await nextTurn();
  push({ text: line.repeat(4096) }, 4 << 20);
  assert.equal((await waiting).value.text.length, 4 << 20);
  push({ text: line }, (4 << 20) + 1024);
  draw();
  const { text, trimmed } = outputOf(client, channel).getState();
  assert.equal(trimmed, true);
  assert.equal(text, line.repeat(text.length / 1024));
  assert.ok(text.length >= 2 << 20 && text.length < 3 << 20);
  // Who reads at the pace of the output misses nothing.
  const { value } = await iterator.next();
  assert.deepEqual([value.text, value.trimmed], [line, false]);
});

test('tabs that share a connection have all of it, whenever they come', async (context) => {
  const fake = new FakeServer();
  const exchange = new Exchange((options) => fake.create(options));
  const ports = [];
  const open = () => {
    const { port1, port2 } = new MessageChannel();
    ports.push(port1, port2);
    exchange.accept(port2);
    return { port: port1, lock: null, release: () => {} };
  };
  const tab = () => createSharedClient({ url: 'ws://fake.test/ws', token: () => tokenOf('42'), open });
  const tabs = [tab(), tab()];
  context.after(() => {
    for (const each of tabs) each.disconnect();
    fake.close();
    for (const port of ports) port.close();
  });
  await Promise.all(tabs.map((each) => each.connect()));
  fake.output('t', { text: 'abc' });
  const first = tabs[0].task('t').output()[Symbol.asyncIterator]();
  assert.equal((await first.next()).value.text, 'abc');
  fake.output('t', { text: 'def' });
  assert.equal((await first.next()).value.text, 'def');
  const late = tabs[1].task('t').output().text();
  fake.drop();
  fake.output('t', { text: 'ghi' });
  assert.equal((await first.next()).value.text, 'ghi');
  fake.output('t', { closed: true });
  assert.equal(await late, 'abcdefghi');
  assert.deepEqual([(await first.next()).value.closed, (await first.next()).done], [true, true]);
});

test('a task that is not there is an error', async () => {
  const fake = new FakeServer({ rejected: { [channel]: 'NOT_FOUND' } });
  const client = fake.create();
  await client.connect();
  await assert.rejects(client.task('t').output().text(), (error) => error instanceof PushError && error.code === 'NOT_FOUND');
  fake.close();
});

test('what another user reads is no longer here', async (context) => {
  const { fake, client, output } = await stage(context);
  fake.output('t', { text: 'secret' });
  const iterator = output[Symbol.asyncIterator]();
  await iterator.next();
  const waiting = assert.rejects(iterator.next(), /another user/);
  fake.userId = '43';
  fake.drop();
  await back(client);
  await waiting;
});
