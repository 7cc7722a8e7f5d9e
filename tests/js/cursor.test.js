import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createCursor } from '../../pushserver/web/static/pushclient/cursor.js';

const at = (offset, epoch = 'e', more = {}) => ({ channel: 'a', messageId: `m${offset}`, offset, epoch, timestamp: 0, ...more });

test('within an epoch the offset tells what is new, and the id nothing', () => {
  const cursor = createCursor();
  assert.equal(cursor.accept(at(5)), true);
  assert.equal(cursor.accept(at(5)), undefined);
  assert.equal(cursor.accept(at(4)), undefined);
  assert.equal(cursor.accept(at(6, 'e', { messageId: 'm5' })), true);
  assert.deepEqual(cursor.position, { offset: 6, epoch: 'e' });
});

test('in another epoch the id tells what was seen in an earlier one, and the position moves there', () => {
  const cursor = createCursor();
  for (const offset of [5, 6]) cursor.accept(at(offset));
  assert.equal(cursor.accept(at(1, 'f', { messageId: 'm5' })), false);
  assert.equal(cursor.accept(at(2, 'f', { messageId: 'm6' })), false);
  assert.equal(cursor.accept(at(3, 'f', { messageId: 'm7' })), true);
  assert.equal(cursor.accept(at(4, 'f', { messageId: 'm7' })), true);
  assert.equal(cursor.accept(at(5, 'f', { messageId: 'm5', timestamp: 300_000 })), true, 'the id used again, five minutes later');
  assert.deepEqual(cursor.position, { offset: 5, epoch: 'f' });
});

test('a position that was lost lets everything pass that was not seen', () => {
  const cursor = createCursor();
  for (const offset of [4, 5]) cursor.accept(at(offset));
  cursor.lose();
  assert.equal(cursor.position, undefined);
  assert.deepEqual([3, 4, 5, 6].map((offset) => cursor.accept(at(offset))), [true, false, false, true]);
});

test('it moves forward only, but for another epoch', () => {
  const cursor = createCursor();
  for (const position of [{ offset: 5, epoch: 'e' }, { offset: 3, epoch: 'e' }]) cursor.moveTo(position);
  assert.deepEqual(cursor.position, { offset: 5, epoch: 'e' });
  cursor.moveTo({ offset: 1, epoch: 'f', messages: [] });
  assert.deepEqual(cursor.position, { offset: 1, epoch: 'f' });
});
