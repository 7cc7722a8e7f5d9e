// Outside development mode the page asks for a token, keeps it for its tab, and forgets it at sign-out.
import assert from 'node:assert/strict';
import { connected, picture, scenario, seen } from './chromium.mjs';

await scenario(async (stage) => {
  const tab = await stage.open('/', { signedIn: false });
  await seen(tab, '#signin');
  assert.ok(await tab.locator('#user-form').isHidden());
  await picture(tab, 'signin');
  await tab.fill('#signin-token', 'not a token');
  await tab.press('#signin-token', 'Enter');
  await seen(tab, '#signin-said', 'INVALID_TOKEN');
  await tab.fill('#signin-token', process.env.PAGE_TOKEN);
  await tab.press('#signin-token', 'Enter');
  await connected(tab);
  await seen(tab, '#user', '42');
  await seen(tab, '#figures', 'No server statistics');
  await tab.reload();
  await connected(tab);
  await tab.click('#sign-out');
  await seen(tab, '#signin');
  assert.equal(await tab.evaluate(() => sessionStorage.length), 0);
  assert.deepEqual(stage.complaints, []);
});
