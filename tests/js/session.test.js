// The token over a line that the test holds.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PushError, Unauthorized } from '../../pushserver/web/static/pushclient/errors.js';
import { DEFAULTS } from '../../pushserver/web/static/pushclient/options.js';
import { createSession } from '../../pushserver/web/static/pushclient/session.js';
import { fakeLine, fakeLink, nextTurn, tokenOf } from './fakes.js';

function stage(token) {
  const line = fakeLine();
  line.link = fakeLink(line);
  const seen = [];
  const on = {
    renewed: (data) => seen.push(['renewed', data]),
    stranger: () => seen.push(['stranger']),
    signedOut: (error) => seen.push(['signedOut', error.code]),
  };
  return { line, seen, session: createSession(line, { ...DEFAULTS, token }, on) };
}

test('a string, nothing, or whatever the callback gives', async () => {
  assert.equal(await stage('t').session.take(), 't');
  assert.equal(await stage(undefined).session.take(), null);
  assert.equal(await stage(async ({ reason }) => reason).session.take(), 'connect');
});

test('a token is kept until it is refused or due', async () => {
  const reasons = [];
  const { line, session } = stage(({ reason }) => (reasons.push(reason), `t${reasons.length}`));
  for (let attempt = 0; attempt < 3; attempt += 1) assert.equal(await session.take(), 't1');
  assert.equal(session.discard('expired'), true, 'an old one: the next may be better');
  assert.equal(await session.take(), 't2');
  assert.equal(session.discard(), false, 'a fresh one: the next will be no better');
  assert.equal(await session.take(), 't3');
  session.schedule(line.clock.time + 100_000);
  session.received(line.clock.time);
  line.clock.time += 81_000;
  assert.equal(await session.take(), 't4');
  assert.deepEqual(reasons, ['connect', 'expired', 'connect', 'connect']);
});

test('who asks while the callback is at work gets the same answer', async () => {
  let calls = 0;
  let give;
  const { session } = stage(() => (calls += 1, new Promise((resolve) => (give = resolve))));
  const both = [session.take(), session.take()];
  give('t');
  assert.deepEqual(await Promise.all(both), ['t', 't']);
  assert.equal(calls, 1);
});

test('a callback that is late or fails may do better the next time', async () => {
  const { line, session } = stage(() => new Promise(() => {}));
  const taken = assert.rejects(session.take(), { code: 'TOKEN', message: /no token in time/ });
  await line.clock.advance(DEFAULTS.connectTimeout);
  await taken;
  await assert.rejects(stage(() => { throw new Error('login away'); }).session.take(), { code: 'TOKEN', message: /login away/ });
});

test('one that says Unauthorized, or gives nothing, ends the attempts', async () => {
  const named = Object.assign(new Error('bye'), { name: 'UnauthorizedError' });
  for (const token of [() => Promise.reject(new Unauthorized('signed out')), () => { throw named; }, () => null, () => undefined, () => '', () => 12]) {
    await assert.rejects(stage(token).session.take(), { name: 'PushError', code: 'UNAUTHORIZED' });
  }
});

test('the renewal is planned on the server\'s clock, and done on the live link', async () => {
  const { line, session, seen } = stage(() => 't2');
  const ahead = 50_000;
  session.schedule(line.clock.time + ahead + 100_000);
  assert.deepEqual(line.link.sent, [{ type: 'ping', data: {} }]);
  session.received(line.clock.time + ahead);
  line.clock.time += 79_000;
  session.tick();
  await nextTurn();
  assert.deepEqual(line.asked, []);
  line.clock.time += 2000;
  session.tick();
  await nextTurn();
  assert.deepEqual(line.asked.map(({ type, data }) => [type, data]), [['auth', { token: 't2' }]]);
  line.asked[0].reply({ permissions: ['p'] });
  assert.deepEqual(seen, [['renewed', { permissions: ['p'] }]]);
});

test('a renewal that takes its time is one renewal', async () => {
  const { line, session } = stage(() => 't2');
  session.schedule(line.clock.time + 100_000);
  session.received(line.clock.time);
  line.clock.time += 90_000;
  for (let tick = 0; tick < 3; tick += 1) {
    session.tick();
    await nextTurn();
  }
  line.asked[0].reply({});
  await nextTurn();
  assert.equal(line.asked.length, 1);
});

test('a clock that was set back moves no renewal, once the server has told the time again', async () => {
  const { line, session } = stage(() => 't2');
  const start = line.clock.time;
  session.schedule(start + 100_000);
  session.received(start);
  line.clock.time -= 3_600_000;
  session.received(start + 81_000);
  session.tick();
  await nextTurn();
  assert.equal(line.asked.length, 1);
});

test('another user\'s token is known before it is sent, where it can be read; else the server says so', async () => {
  const { line, session, seen } = stage('old');
  line.user.token = tokenOf('42');
  session.replace(tokenOf(42, { iat: 2 }));
  session.renew();
  assert.equal(line.asked.length, 1, 'the same user');
  line.asked[0].reply({});
  session.replace(tokenOf('bob'));
  session.renew();
  assert.deepEqual(seen.pop(), ['stranger']);
  assert.equal(line.asked.length, 1);
  session.replace('unreadable');
  session.renew();
  line.asked[1].failed({ code: 'PERMISSION_DENIED' });
  assert.deepEqual(seen.pop(), ['stranger']);
  session.replace(undefined);
  session.renew();
  assert.deepEqual(seen.pop(), ['stranger']);
});

test('a renewal that finds nobody signed in ends the connection', async () => {
  const { session, seen } = stage(() => null);
  session.renew();
  await nextTurn();
  assert.deepEqual(seen, [['signedOut', 'UNAUTHORIZED']]);
});

test('where there is no other token, the one in use is left to end', async () => {
  let calls = 0;
  const { line, seen, session } = stage(() => {
    calls += 1;
    throw new PushError('TOKEN_EXPIRED', 'no other', { closeCode: 3005 });
  });
  session.schedule(line.clock.time + 100_000);
  session.received(line.clock.time);
  line.clock.time += 81_000;
  session.tick();
  await nextTurn();
  line.clock.time += 10_000;
  session.tick();
  await nextTurn();
  assert.deepEqual([calls, line.asked, line.told, seen], [1, [], [], []]);
});

for (const code of ['TOKEN_EXPIRED', 'INVALID_TOKEN', 'UNAVAILABLE', 'PERMISSION_DENIED']) {
  test(`a token that is set while an earlier one is under way is sent, whatever becomes of that: ${code}`, async () => {
    const { line, seen, session } = stage('t1');
    for (const token of ['t2', 't3']) {
      session.replace(token);
      session.renew();
    }
    line.asked[0].failed(new PushError(code, 'no'));
    assert.deepEqual(line.asked.map(({ data }) => data.token), ['t2', 't3']);
    line.asked[1].reply({ permissions: ['p'] });
    assert.deepEqual([seen, line.told], [[['renewed', { permissions: ['p'] }]], []]);
    session.replace('t4');
    session.renew();
    line.asked[2].failed(new PushError('TOKEN_EXPIRED', 'no'));
    await nextTurn();
    assert.deepEqual([line.asked.length, line.told.length], [3, 1], 'behind the last one nothing is sent');
  });
}

for (const why of [new Unauthorized('signed out'), new PushError('TOKEN_EXPIRED', 'no other', { closeCode: 3005 })]) {
  test(`so it is where the earlier function has none: ${why.message}`, async () => {
    const { line, seen, session } = stage(() => Promise.reject(why));
    session.renew();
    session.replace('t2');
    session.renew();
    await nextTurn();
    assert.deepEqual(line.asked.map(({ data }) => data.token), ['t2']);
    assert.deepEqual([seen, line.told], [[], []]);
  });
}

test('a new token that the server could not look at is offered again, not asked for again', async () => {
  let calls = 0;
  const { line, seen, session } = stage(() => `t${(calls += 1)}`);
  line.user.token = await session.take();
  session.renew();
  await nextTurn();
  line.asked.at(-1).failed(new PushError('UNAVAILABLE', 'away'));
  line.clock.time += 5000;
  session.tick();
  await nextTurn();
  assert.deepEqual(line.asked.map(({ data }) => data.token), ['t2', 't2']);
  line.asked.at(-1).reply({ expiresAt: line.clock.time + 100_000 });
  assert.deepEqual(seen.map(([what]) => what), ['renewed']);
  session.renew();
  await nextTurn();
  line.asked.at(-1).failed(new PushError('TOKEN_EXPIRED', 'late'));
  line.clock.time += 5000;
  session.tick();
  await nextTurn();
  assert.deepEqual(line.asked.map(({ data }) => data.token), ['t2', 't2', 't3', 't4']);
});
