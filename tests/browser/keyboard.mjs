// Without a mouse: Tab reaches everything in the order in which it is read, and publishing and chatting need nothing else.
import assert from 'node:assert/strict';
import { scenario, seen, tabTo } from './chromium.mjs';

await scenario(async (stage) => {
  const tab = await stage.open('/');
  await seen(tab, '#channels [data-state="on"]', 'demo:news');
  await tab.keyboard.press('Tab');
  assert.equal(await tab.evaluate(() => document.activeElement.className), 'skip');
  await tab.keyboard.press('Enter');
  assert.equal(await tab.evaluate(() => document.activeElement.id), 'main');

  await tabTo(tab, '#chat-text');
  await tab.keyboard.type('By keyboard');
  await tab.keyboard.press('Enter');
  await seen(tab, '#lines .mine', 'By keyboard');
  assert.equal(await tab.evaluate(() => document.activeElement.id), 'chat-text');

  await tabTo(tab, '#publish-data');
  await tab.keyboard.press('Control+A');
  await tab.keyboard.type('plain text');
  await tab.keyboard.press('Tab');
  await tab.keyboard.press('Enter');
  await seen(tab, '#publish-said', 'Published at 1');
  await seen(tab, '#traffic li', 'plain text');

  // A chip that goes with the focus on it hands the focus on.
  await tab.focus('#subscribe-channel');
  await tab.keyboard.type('demo:more');
  await tab.keyboard.press('Enter');
  await seen(tab, '#channels [data-state="on"]', 'demo:more');
  await tab.focus('#channels button');
  await tab.keyboard.press('Space');
  await seen(tab, '#subscribe-said', 'Left demo:news');
  assert.notEqual(await tab.evaluate(() => document.activeElement.tagName), 'BODY');
  assert.deepEqual(stage.complaints, []);
});
