// The token over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEFAULTS } from '../../pushserver/web/static/pushclient/options.js';
import { Session } from '../../pushserver/web/static/pushclient/session.js';
import { fakeLine, fakeLink, settle } from './fakes.js';

function stage(token) {
  const line = fakeLine();
  line.link = fakeLink();
  const renewed = [];
  const session = new Session(line, { ...DEFAULTS, token }, (link, data) => renewed.push(data));
  return { line, session, renewed };
}

test('a string, nothing, or whatever the callback gives', async () => {
  assert.equal(await stage('t').session.take(), 't');
  assert.equal(await stage(undefined).session.take(), null);
  assert.equal(await stage(async ({ reason }) => reason).session.take(), 'connect');
});

test('a callback that is late has failed', async () => {
  const { line, session } = stage(() => new Promise(() => {}));
  const taken = assert.rejects(session.take(), { code: 'TOKEN', message: /no token in time/ });
  await line.clock.advance(DEFAULTS.connectTimeout);
  await taken;
});

test('the refresh is planned on the server\'s clock, and done on the live link', async () => {
  const { line, session, renewed } = stage(() => 't2');
  const ahead = 50_000;
  session.schedule(line.clock.time + ahead + 100_000);
  assert.deepEqual(line.link.sent, [{ type: 'ping', data: {} }]);
  session.heard(line.clock.time + ahead);
  line.clock.time += 79_000;
  session.tick();
  await settle();
  assert.deepEqual(line.asked, []);
  line.clock.time += 2000;
  session.tick();
  await settle();
  assert.deepEqual(line.asked.map(({ type, data }) => [type, data]), [['auth', { token: 't2' }]]);
  line.asked[0].reply({ permissions: ['p'] });
  assert.deepEqual(renewed, [{ permissions: ['p'] }]);
});
