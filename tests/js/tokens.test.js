import assert from 'node:assert/strict';
import { test } from 'node:test';
import { claimsOf } from '../../pushserver/web/static/pushclient/tokens.js';
import { tokenOf } from './fakes.js';

test('the claims of a token, also in the alphabet of urls', () => {
  assert.deepEqual(claimsOf(tokenOf('42', { exp: 7 })), { sub: '42', exp: 7 });
  const body = Buffer.from(JSON.stringify({ sub: '~~>>??' })).toString('base64url');
  assert.match(body, /[-_]/);
  assert.deepEqual(claimsOf(`h.${body}.s`), { sub: '~~>>??' });
});

test('what is no token has none', () => {
  for (const token of [undefined, null, '', 'opaque', 'a.b.c', 12, 'a.bnVsbA.c']) assert.deepEqual(claimsOf(token), {});
});
