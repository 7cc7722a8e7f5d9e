// Without a mouse: Tab reaches everything in the order in which it is read, and publishing and chatting need nothing else.
import assert from 'node:assert/strict';
import { scenario, seen } from './chromium.mjs';

/** Presses Tab until the element has the focus; answers the ids that were passed. */
async function tabTo(tab, id) {
  const passed = [];
  for (let presses = 0; presses < 60; presses += 1) {
    await tab.keyboard.press('Tab');
    const at = await tab.evaluate(() => {
      const { activeElement: here } = document;
      const { outlineStyle, outlineWidth } = getComputedStyle(here);
      return { id: here.id, tag: here.tagName, ring: outlineStyle !== 'none' && outlineWidth !== '0px', name: here.getAttribute('aria-label') ?? here.labels?.[0]?.textContent ?? here.textContent };
    });
    assert.ok(at.ring, `no focus ring on ${at.tag} ${at.id}`);
    assert.ok(at.name.trim(), `no name on ${at.tag} ${at.id}`);
    passed.push(at.id);
    if (at.id === id) return passed;
  }
  throw new Error(`Tab never came to ${id}: ${passed}`);
}

await scenario(async (stage) => {
  const tab = await stage.open('/');
  await seen(tab, '#channels [data-state="on"]', 'demo:news');
  await tab.keyboard.press('Tab');
  assert.equal(await tab.evaluate(() => document.activeElement.className), 'skip');
  await tab.keyboard.press('Enter');
  assert.equal(await tab.evaluate(() => document.activeElement.id), 'main');

  await tabTo(tab, 'chat-text');
  await tab.keyboard.type('By keyboard');
  await tab.keyboard.press('Enter');
  await seen(tab, '#lines .mine', 'By keyboard');
  assert.equal(await tab.evaluate(() => document.activeElement.id), 'chat-text');

  await tabTo(tab, 'publish-data');
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
