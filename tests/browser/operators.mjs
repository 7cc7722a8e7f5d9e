// The operators' page: five views by the API key, searched and sorted by the server, without a connection of its own.
import assert from 'node:assert/strict';
import { DESKTOP, PHONE, api, picture, scenario, seen, tabTo, told, until } from './chromium.mjs';

const HOSTILE = '<script>document.title="owned"</script>';
/** Bytes of one look, at most. */
const LOOK = 50 * 1024;

await scenario(async (stage) => {
  const before = (await api('GET', 'connections')).connections.length;
  const tab = await stage.open(`/operators#key=${told.key}`, { signedIn: false });
  let bytes = 0;
  let sockets = 0;
  tab.on('response', async (response) => {
    if (response.url().includes('/api/')) bytes += (await response.body().catch(() => '')).length;
  });
  tab.on('websocket', () => (sockets += 1));
  tab.on('dialog', () => stage.complaints.push('a dialog'));
  const where = (view) => tab.locator(`#view-${view} .pages [role="status"]`);

  // The key does not stay in the address.
  await seen(tab, '#numbers dd', String(before));
  assert.ok(!tab.url().includes(told.key));
  await seen(tab, '#nodes td', 'ok');
  await picture(tab, 'operators-overview');

  // A page at a time; what one look takes does not grow with how many there are.
  await tab.click('nav >> text=Connections');
  await until(async () => (await where('connections').textContent()) === `1 to 50 of ${before}`, 'the first page');
  bytes = 0;
  await tab.click('#view-connections >> text=Next');
  await until(async () => (await where('connections').textContent()) === `51 to 100 of ${before}`, 'the second page');
  // The page may have shown an answer before this was told of its length.
  await until(async () => bytes > 0, 'the length of the answer');
  assert.ok(bytes <= LOOK, `${bytes} bytes`);
  assert.equal(await tab.locator('#connections tbody tr').count(), 50);
  await tab.click('#connections >> text=User');
  await until(async () => (await tab.locator('#connections th[aria-sort="ascending"]').count()) === 1, 'the order is told');
  await until(async () => (await tab.locator('#connections tbody td').first().textContent()) === HOSTILE, 'the first by name');
  await picture(tab, 'operators-connections');
  await tab.fill('#view-connections input', 'SCRIPT');
  await until(async () => (await where('connections').textContent()) === '1 to 1 of 1', 'the one that is searched');
  assert.equal(await tab.title(), 'pushserver: operators');

  // One user, as `pushctl explain` has it; harm asks once more.
  await tab.click(`#connections >> text=${HOSTILE}`);
  await seen(tab, '#findings li');
  await seen(tab, '#user-connections td', HOSTILE);
  await picture(tab, 'operators-user');
  const disconnect = tab.locator('#user-actions .danger').first();
  await disconnect.click();
  await seen(tab, '#user-actions .danger', 'Really?');
  assert.equal((await api('GET', 'connections')).connections.length, before);
  await disconnect.click();
  await seen(tab, '#said', '1 connection closed');
  await seen(tab, '#recent td', 'connection closed');

  await tab.click('nav >> text=Channels');
  await tab.fill('#view-channels input', 'chat:');
  await seen(tab, '#channels td', 'chat:lobby');
  await until(async () => (await where('channels').textContent()) === '1 to 1 of 1', 'the channel that is searched');
  await tab.click('nav >> text=Events');
  await until(async () => (await where('events').textContent()) === 'none', 'no dead event');
  assert.equal(sockets, 0);
  assert.equal((await api('GET', 'presence?channel=chat:lobby')).users.length, before - 1);

  // By keyboard, on a phone, in the dark.
  await tab.setViewportSize(PHONE);
  await tab.emulateMedia({ colorScheme: 'dark', reducedMotion: 'reduce' });
  await tab.focus('.brand');
  await tabTo(tab, 'nav a[href="#connections"]');
  await tab.keyboard.press('Enter');
  await tabTo(tab, '#view-connections input');
  await tab.keyboard.press('Control+A');
  await tab.keyboard.press('Delete');
  await until(async () => (await where('connections').textContent()).endsWith(`of ${before - 1}`), 'all of them');
  // What does harm is asked once more here, too.
  await tabTo(tab, '#connections .danger');
  await tab.keyboard.press('Enter');
  await seen(tab, '#connections .danger', 'Really?');
  await picture(tab, 'operators-phone-dark');
  await tab.setViewportSize(DESKTOP);
  await picture(tab, 'operators-dark');
  assert.deepEqual(stage.complaints, []);

  // Who was sent away counts as what went wrong; who closed the connection as one does, or left the page, does not.
  await tab.click('nav >> text=Overview');
  await seen(tab, '#counts tr', '3503');
  const { closes } = (await api('GET', 'stats')).total;
  assert.ok(closes['1000'] > 0 && closes['3503'] > 0, JSON.stringify(closes));
  assert.deepEqual(await tab.locator('#counts td:nth-child(2)').allTextContents().then((codes) => codes.filter((code) => code === '1000')), []);

  await tab.click('#forget-key');
  await tab.fill('#api-key', 'not the key of anybody');
  await tab.press('#api-key', 'Enter');
  await seen(tab, '#key-said', 'NOT_AUTHENTICATED');
  assert.ok(await tab.locator('#view-overview').isHidden());
});
