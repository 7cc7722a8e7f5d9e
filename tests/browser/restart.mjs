// The server is stopped and started again on its port: the page says so, and comes back by itself. The test does that
// when it is told on standard output; it answers on standard input.
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';
import { api, connected, picture, scenario, seen, state } from './chromium.mjs';

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function ask(what) {
  process.stdout.write(`${what}\n`);
  assert.equal((await answers.next()).value, 'done');
}

await scenario(async (stage) => {
  const tab = await stage.open('/');
  await tab.fill('#chat-text', 'before');
  await tab.press('#chat-text', 'Enter');
  await seen(tab, '#lines .mine', 'before');
  assert.deepEqual(stage.complaints, []);
  await ask('stop');
  await state(tab, 'waiting');
  await seen(tab, '#state-text', 'Reconnecting');
  await picture(tab, 'reconnecting');
  // What is said meanwhile waits, and goes once there is somebody to hear it.
  await tab.fill('#chat-text', 'meanwhile');
  await tab.press('#chat-text', 'Enter');
  await ask('start');
  await connected(tab);
  await seen(tab, '#lines .mine', 'meanwhile');
  assert.equal(await tab.locator('#lines .bubble').count(), 2);
  await seen(tab, '#attempts', '0');
  await api('POST', 'publish', { channel: 'demo:news', data: 'after' });
  await seen(tab, '#traffic li', 'after');
});
process.exit(0);
