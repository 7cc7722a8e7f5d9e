// A task started through the API: its bar moves and ends; a tab opened in the middle, and one after the end, know it too.
import assert from 'node:assert/strict';
import { api, picture, scenario, seen, until } from './chromium.mjs';

const card = '[data-task="render"]';
const shown = async (tab) => Number(await tab.getAttribute(`${card} [role="progressbar"]`, 'aria-valuenow'));
const width = (tab) => tab.locator(`${card} .fill`).evaluate((fill) => fill.getBoundingClientRect().right - fill.parentElement.getBoundingClientRect().left);

await scenario(async (stage) => {
  let tab = await stage.open('/');
  await api('POST', 'tasks', { taskId: 'render', userId: 'demo', title: 'Render' });
  await seen(tab, card, 'Render');
  await api('POST', 'tasks/render/progress', { percentage: 20, currentStep: 1, totalSteps: 5, message: 'frame 1' });
  await until(async () => (await shown(tab)) === 20, 'the bar at 20');
  const before = await width(tab);
  await api('POST', 'tasks/render/progress', { percentage: 60, currentStep: 3, totalSteps: 5, message: '<b>frame 3</b>', eta: 90_000 });
  await until(async () => (await shown(tab)) === 60, 'the bar at 60');
  assert.ok((await width(tab)) > before * 2, 'the bar itself has moved');
  await seen(tab, `${card} .message`, '<b>frame 3</b>');
  // What it writes, from the beginning and as it comes; nothing of it is markup.
  await api('POST', 'tasks/render/output', { text: 'one <b>\0\x1b[2J\n' });
  await tab.click(`${card} summary`);
  await seen(tab, `${card} pre`, 'one <b>··[2J\n');
  await api('POST', 'tasks/render/output', { text: 'two\n' });
  await seen(tab, `${card} pre`, 'one <b>··[2J\ntwo\n');
  await picture(tab, 'task-running');

  // Closed and opened in the middle.
  await tab.close();
  tab = await stage.open('/');
  await until(async () => (await shown(tab)) === 60, 'the bar at 60 in a new tab');
  await tab.click(`${card} button`);
  await seen(tab, `${card} .status`, 'cancel asked for');

  await api('POST', 'tasks/render/complete', { result: { file: 'out.mp4' }, output: { text: 'end' } });
  await seen(tab, `${card} .status`, 'completed');
  assert.equal(await shown(tab), 100);
  await seen(tab, '#inbox-list .unread', 'Render: completed');
  await api('POST', 'tasks', { taskId: 'import', userId: 'demo', title: 'Import of a file with a rather long name, 2026-11-24.csv' });
  await api('POST', 'tasks/import/fail', { error: 'line 7: not a number' });
  await seen(tab, '[data-task="import"] .message', 'line 7: not a number');
  await picture(tab, 'task-completed');

  // And after the end: the inbox has it, not read until somebody says so.
  await tab.close();
  tab = await stage.open('/');
  await seen(tab, `${card} .status`, 'completed');
  await tab.click(`${card} summary`);
  await seen(tab, `${card} pre`, 'one <b>··[2J\ntwo\nend');
  await seen(tab, '#inbox-list .unread', 'Render: completed');
  await tab.click('#mark-read');
  await until(async () => (await tab.locator('#inbox-list .unread').count()) === 0, 'everything read');
  await until(async () => (await api('GET', 'inbox?userId=demo&limit=10')).unread.task === 0, 'the server knows it');
  await tab.close();
  tab = await stage.open('/');
  await seen(tab, '#inbox-list li', 'Render: completed');
  assert.equal(await tab.locator('#inbox-list .unread').count(), 0);

  // What one tab marks or removes is so in the other.
  const other = await stage.open('/');
  await seen(other, '#inbox-list li', 'Render: completed');
  await api('POST', 'notify', { userId: 'demo', data: { title: 'Lunch' } });
  for (const each of [tab, other]) await seen(each, '#unread-count', '1');
  await other.click('[aria-label="Mark as read: Lunch"]');
  await until(async () => (await tab.locator('#inbox-list .unread').count()) === 0, 'read in the other tab');
  await tab.click('[aria-label="Remove: Lunch"]');
  await until(async () => (await other.locator('[aria-label="Remove: Lunch"]').count()) === 0, 'gone in the other tab');
  assert.deepEqual(stage.complaints, []);
});
