import assert from 'node:assert/strict';
import { cp, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { rig } from './fakes.js';

const SOURCES = fileURLToPath(new URL('../../pushserver/web/static/pushclient/', import.meta.url));

/** Resolves once the client's state is such. */
const until = (client, isSo) => new Promise((resolve) => {
  const look = (state) => isSo(state) && (end(), resolve(state));
  const end = client.subscribe(look);
  look(client.getState());
});

/** A client over event streams, and its module, which the test may take away. `asked` is what was fetched. */
async function streaming(context, options) {
  const folder = await mkdtemp(join(tmpdir(), 'pushclient-'));
  context.after(() => rm(folder, { recursive: true }));
  await cp(SOURCES, folder, { recursive: true });
  const { createClient } = await import(pathToFileURL(join(folder, 'index.js')).href);
  const asked = [];
  const fetch = (url) => {
    asked.push(url);
    return Promise.resolve(new Response('{"error": {"code": "UNAVAILABLE", "message": "full"}}', { status: 503 }));
  };
  const made = rig(createClient, { transports: ['sse'], ...options, environment: { fetch } });
  context.after(() => made.client.disconnect());
  return { ...made, asked, module: join(folder, 'links', 'eventstream.js') };
}

test('where the event stream does not load, that attempt has failed, and the next one loads it', async (context) => {
  const { client, clock, asked, module } = await streaming(context);
  await rename(module, `${module}.away`);
  client.connect();
  const { lastError } = await until(client, (state) => state.connectionState === 'waiting');
  assert.equal(lastError.code, 'CLOSED');
  assert.equal(lastError.closeCode, 1006);
  assert.match(lastError.message, /eventstream/);
  assert.deepEqual(asked, []);

  await rename(`${module}.away`, module);
  await clock.advance(12000);
  const { lastError: second } = await until(client, (state) => state.lastError?.code === 'UNAVAILABLE');
  assert.equal(second.message, 'full');
  assert.deepEqual(asked, ['http://push.test/sse']);
});

test('what ends before the event stream is loaded opens none', async (context) => {
  const { client, asked, module } = await streaming(context);
  const connected = client.connect();
  client.disconnect();
  await assert.rejects(connected, { code: 'CLOSED' });
  await import(pathToFileURL(module).href);
  assert.deepEqual(asked, []);
});

for (const [name, urls, address] of [
  ['beside the WebSocket', { url: 'wss://push.test/live/ws?a=1#b' }, 'https://push.test/live/sse?a=1'],
  ['where it is said to be', { url: 'ws://push.test/ws', sseUrl: 'ws://other.test/stream' }, 'http://other.test/stream'],
]) {
  test(`the event stream is ${name}`, async (context) => {
    const { client, asked } = await streaming(context, urls);
    client.connect();
    await until(client, (state) => state.connectionState === 'waiting');
    assert.deepEqual(asked, [address]);
  });
}

test('an address that cannot be opened ends it for good', async (context) => {
  const { client } = await streaming(context, { url: 'http://' });
  await assert.rejects(client.connect(), { code: 'CLOSED' });
  assert.equal(client.getState().connectionState, 'closed');
});
