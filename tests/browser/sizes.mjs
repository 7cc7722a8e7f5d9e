// Desktop and phone, light and dark: figures move, a message with markup in it stays text, nothing is cut off.
import assert from 'node:assert/strict';
import { DESKTOP, PHONE, api, picture, scenario, seen, until } from './chromium.mjs';

const MARKUP = '<script>window.harmed = true</script><img src=x onerror="window.harmed = true">';
const readings = async (tab, tile) => Number(await tab.getAttribute(`#tile-${tile}`, 'data-points'));

await scenario(async (stage) => {
  const tabs = [];
  for (const [name, size] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    tabs.push({ name, tab: await stage.open('/', { size, scheme: 'light' }) });
  }
  for (const { name, tab } of tabs) {
    await tab.fill('#chat-text', `${MARKUP} from ${name}`);
    await tab.press('#chat-text', 'Enter');
    await seen(tab, '#lines .mine', `${MARKUP} from ${name}`);
  }

  await api('POST', 'publish', { channel: 'demo:news', data: { html: MARKUP, [MARKUP]: 1 } });
  await api('POST', 'publish', { channel: 'system', type: 'system_notification', data: { level: 'warning', title: MARKUP, message: 'The disk is nearly full' } });
  await api('POST', 'notify', { userId: 'demo', data: { level: 'success', title: MARKUP, message: 'Your export is ready' } });
  await api('POST', 'notify', { userId: 'demo', data: { level: 'error', title: 'Payment failed', message: 'The card was refused. '.repeat(6) } });
  await api('POST', 'tasks', { taskId: 'a', userId: 'demo', title: MARKUP });
  await api('POST', 'tasks/a/progress', { percentage: 37.5, currentStep: 3, totalSteps: 8, message: MARKUP, eta: 42_000 });
  await api('POST', 'tasks', { taskId: 'b', userId: 'demo', title: 'Nightly import' });
  await api('POST', 'tasks/b/fail', { error: 'line 7: not a number' });
  for (const { tab } of tabs) {
    await seen(tab, '#traffic li', 'onerror');
    await seen(tab, '#notices .notice', MARKUP);
    await seen(tab, '#inbox-list li', MARKUP);
    await seen(tab, '#task-list h3', MARKUP);
    for (const tile of ['latency', 'received']) {
      await until(async () => (await readings(tab, tile)) >= 2, `the plot of ${tile} moves`);
    }
    await until(async () => Number(await tab.textContent('#tile-connections strong')) === tabs.length, 'the connections are counted');
  }
  for (const tile of ['connections', 'messagesOut']) {
    await until(async () => (await readings(tabs[0].tab, tile)) >= 2, `the plot of ${tile} moves`);
  }
  for (const { name, tab } of tabs) {
    assert.equal(await tab.evaluate(() => window.harmed), undefined);
    assert.equal(await tab.locator('main script, main img').count(), 0);
    const grounds = new Set();
    for (const scheme of ['light', 'dark']) {
      await tab.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
      grounds.add(await tab.evaluate(() => getComputedStyle(document.body).backgroundColor));
      await picture(tab, `${name}-${scheme}`);
    }
    assert.equal(grounds.size, 2);
  }
  assert.deepEqual(stage.complaints, []);
});
