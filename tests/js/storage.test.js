import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createStorage } from '../../pushserver/web/static/pushclient/storage.js';
import { fakeStorage } from './fakes.js';

test('what is written is read again, for the same server alone', () => {
  const storage = fakeStorage();
  const kept = createStorage({ storage }, 'wss://a/ws');
  kept.write('positions 42', { news: { offset: 1, epoch: 'e' } });
  assert.deepEqual(createStorage({ storage }, 'wss://a/ws').read('positions 42'), { news: { offset: 1, epoch: 'e' } });
  assert.equal(createStorage({ storage }, 'wss://b/ws').read('positions 42'), undefined);
  kept.remove('positions 42');
  assert.equal(kept.read('positions 42'), undefined);
});

test('without a storage, or with one that refuses or holds something else, nothing is kept and nothing fails', () => {
  const refuses = { getItem: () => '{', setItem: () => { throw new Error('full'); }, removeItem: () => { throw new Error('no'); } };
  for (const storage of [undefined, refuses]) {
    const kept = createStorage({ storage }, undefined);
    kept.write('a', 1);
    kept.remove('a');
    assert.equal(kept.read('a'), undefined);
  }
});
