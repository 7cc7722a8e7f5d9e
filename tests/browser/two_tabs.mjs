// Two tabs of two users sign in by themselves; chat goes from one to the other, a publication of the server side to both.
import assert from 'node:assert/strict';
import { api, picture, scenario, seen } from './chromium.mjs';

await scenario(async (stage) => {
  const ours = await stage.open('/');
  const theirs = await stage.open('/?user=bob');
  assert.equal(await ours.textContent('#user'), 'demo');
  assert.equal(await theirs.textContent('#user'), 'bob');
  await seen(ours, '#present .person', 'bob');

  await ours.fill('#chat-text', 'Can you see this?');
  await ours.press('#chat-text', 'Enter');
  await seen(theirs, '#lines .theirs', 'Can you see this?');
  await seen(ours, '#lines .mine', 'Can you see this?');
  await theirs.fill('#chat-text', 'Loud and clear.');
  await theirs.click('#chat-form button');
  await seen(ours, '#lines .theirs', 'Loud and clear.');

  // To one person: in that person's window, and in the sender's own.
  await theirs.fill('#talk-to', '@demo');
  await theirs.press('#talk-to', 'Enter');
  await theirs.fill('#chat-text', 'Between us');
  await theirs.press('#chat-text', 'Enter');
  await seen(theirs, '#lines .mine', 'Between us');
  await seen(ours, '#inbox-list .unread', 'Between us');
  await ours.click('#talks button:has-text("@bob")');
  await seen(ours, '#lines .theirs', 'Between us');

  for (const tab of [ours, theirs]) await seen(tab, '#channels [data-state="on"]', 'demo:news');
  await api('POST', 'publish', { channel: 'demo:news', data: { headline: 'It works' } });
  for (const tab of [ours, theirs]) await seen(tab, '#traffic li', '{"headline":"It works"}');
  await picture(ours, 'two-tabs-demo');
  await picture(theirs, 'two-tabs-bob');
  assert.deepEqual(stage.complaints, []);
});
