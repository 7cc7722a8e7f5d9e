// With the API key: who is connected, and the buttons that end a connection or all tokens of a user.
import assert from 'node:assert/strict';
import { PHONE, api, connected, picture, scenario, seen, state, told, until } from './chromium.mjs';

await scenario(async (stage) => {
  // The key comes in the address's fragment, and does not stay there.
  const operator = await stage.open(`/#key=${told.key}`);
  assert.ok(!operator.url().includes(told.key));
  const bob = await stage.open('/?user=bob');

  // A tab behind another is drawn rarely, and clicks wait for that.
  await operator.bringToFront();
  const row = '#connections tr:has(th:text-is("bob"))';
  await seen(operator, row);
  await seen(operator, '#channel-table tr', 'chat:lobby');
  await picture(operator, 'server-desktop');
  await operator.click(`${row} button`);
  await state(bob, 'closed');
  await seen(bob, '#trouble', 'disconnected by the server');
  await operator.locator(row).waitFor({ state: 'detached' });
  await seen(operator, '#server-said', '1 connection closed');
  // Whoever was sent away may come back by hand.
  await bob.bringToFront();
  await bob.click('#connect');
  await connected(bob);

  await operator.bringToFront();
  const revoke = operator.locator('#users tr[data-user="bob"] .danger');
  await revoke.click();
  await seen(operator, '#users tr[data-user="bob"] .danger', 'Really?');
  assert.equal((await api('GET', 'connections?userId=bob')).connections.length, 1);
  await revoke.click();
  await state(bob, 'closed');
  await seen(operator, '#server-said', 'Tokens of bob revoked');

  await operator.click('#channel-table tr[data-channel="chat:lobby"] button');
  assert.equal(await operator.inputValue('#filter'), 'chat:lobby');
  await seen(operator, '#channels li', 'chat:lobby');

  await operator.click('#try-task');
  await seen(operator, '#task-list li', 'Sample: twelve frames');
  await until(async () => Number(await operator.getAttribute('#task-list [role="progressbar"]', 'aria-valuenow')) > 0, 'the sample moves');

  await operator.setViewportSize(PHONE);
  await picture(operator, 'server-phone');
  await operator.click('#forget-key');
  await operator.fill('#api-key', 'not the key');
  assert.deepEqual(stage.complaints, []);
  await operator.press('#api-key', 'Enter');
  await seen(operator, '#key-said', 'NOT_AUTHENTICATED');
  assert.ok(await operator.locator('#server-panels').isHidden());
});
