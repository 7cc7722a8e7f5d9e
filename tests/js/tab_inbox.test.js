import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createTabInbox } from '../../pushserver/web/static/pushclient/tab_inbox.js';

const at = (offset, epoch = 'e') => ({ offset, epoch });
const taken = async () => true;
const left = async () => false;

test('its place moves over what was taken, and not over what is open', async () => {
  const inbox = createTabInbox();
  let finish;
  const slow = inbox.show(at(4), () => new Promise((resolve) => (finish = resolve)));
  assert.equal(await inbox.show(at(5), taken), true);
  assert.deepEqual(inbox.position, at(3));
  finish(true);
  assert.equal(await slow, true);
  assert.deepEqual(inbox.position, at(5));
});

test('what was taken, or is in hand, is not shown again; what nobody took is', async () => {
  const inbox = createTabInbox();
  const shown = [];
  const show = (name, result) => () => (shown.push(name), result);
  await inbox.show(at(1), show('a', Promise.resolve(true)));
  assert.equal(await inbox.show(at(1), show('a again', Promise.resolve(false))), true);
  let finish;
  const slow = inbox.show(at(2), show('b', new Promise((resolve) => (finish = resolve))));
  const twice = inbox.show(at(2), show('b again', Promise.resolve(false)));
  finish(true);
  assert.deepEqual(await Promise.all([slow, twice]), [true, true]);
  await inbox.show(at(3), show('c', Promise.resolve(false)));
  await inbox.show(at(3), show('c again', Promise.resolve(true)));
  assert.deepEqual(shown, ['a', 'b', 'c', 'c again']);
  assert.deepEqual(inbox.position, at(3));
});

test('what was taken is not shown again either while one before it is open, and what is in hand says so', async () => {
  const inbox = createTabInbox();
  const said = [];
  let finish;
  const slow = inbox.show(at(1), () => new Promise((resolve) => (finish = resolve)), () => said.push('first'));
  await inbox.show(at(2), taken);
  assert.equal(await inbox.show(at(2), left), true);
  const again = inbox.show(at(1), left, () => said.push('begun'));
  assert.deepEqual(said, ['begun']);
  finish(true);
  assert.deepEqual(await Promise.all([slow, again]), [true, true]);
  assert.deepEqual(inbox.position, at(2));
});

test('it begins where all tabs together are, unless it knows better', () => {
  const inbox = createTabInbox();
  inbox.begin(at(7));
  assert.deepEqual(inbox.position, at(7));
  inbox.begin(at(9));
  assert.deepEqual(inbox.position, at(7));
  inbox.begin(at(2, 'other'));
  assert.deepEqual(inbox.position, at(2, 'other'));
});

test('what comes while the way to it is read waits, once', () => {
  const inbox = createTabInbox();
  assert.equal(inbox.hold('before'), false);
  inbox.resume(at(1));
  assert.equal(inbox.hold('a'), true);
  assert.deepEqual(inbox.release(), ['a']);
  assert.equal(inbox.hold('after'), false);
});

test('another epoch begins anew, and what ends of the last one says nothing', async () => {
  const inbox = createTabInbox();
  let finish;
  const slow = inbox.show(at(4), () => new Promise((resolve) => (finish = resolve)));
  await inbox.show(at(1, 'next'), left);
  finish(true);
  await slow;
  assert.deepEqual(inbox.position, at(0, 'next'));
});

test('what nobody takes does not hold back the rest for ever', async () => {
  const inbox = createTabInbox();
  for (let offset = 1; offset <= 1001; offset += 1) await inbox.show(at(offset), left);
  await inbox.show(at(2), taken);
  assert.deepEqual(inbox.position, at(2));
});
