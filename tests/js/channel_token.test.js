// Tokens for one channel, of a client on a fake clock and a fake socket.
import assert from 'node:assert/strict';
import { test } from 'node:test';
// Loaded beforehand: the fake clock does not wait for a file.
import '../../pushserver/web/static/pushclient/channel_token.js';
import { createClient, Unauthorized } from '../../pushserver/web/static/pushclient/index.js';
import { rig, nextTurn, tokenOf } from './fakes.js';

const doc = 'doc:17';
const items = (r) => r.socket().of('subscribe').flatMap(({ data }) => data.channels).filter((item) => (item.channel ?? item) === doc);

/** A client that is signed in, and a source of tokens that are good for ten minutes. */
async function stage(more = {}) {
  const r = rig(createClient);
  const asked = [];
  let serial = 0;
  const grant = (context) => {
    asked.push(context);
    serial += 1;
    return tokenOf('42', { channel: doc, serial, exp: r.clock.time / 1000 + 600 });
  };
  await r.connect(more);
  return {
    r,
    asked,
    grant,
    serials: () => items(r).map(({ token }) => JSON.parse(atob(token.split('.')[1])).serial),
    async accept(result = { recovered: true, offset: 3, epoch: 'e', messages: [] }) {
      r.socket().answer('subscribe', 'subscription_success', { channels: [doc], results: { [doc]: result }, rejected: {} });
      await nextTurn();
    },
    async reject(code) {
      r.socket().answer('subscribe', 'subscription_success', { channels: [], results: {}, rejected: { [doc]: { code, message: code } } });
      await nextTurn();
    },
    /** Lets time pass on a link that answers pings. */
    async pass(ms) {
      for (let left = ms; left > 0; left -= 20_000) {
        await r.clock.advance(Math.min(left, 20_000));
        r.socket().receive('pong', { timestamp: r.clock.time });
      }
    },
  };
}

test('a string is shown with the channel, at each sign-in', async () => {
  const s = await stage();
  const { ready } = s.r.client.subscribeChannel(doc, () => {}, { token: 'signed' });
  await nextTurn();
  assert.deepEqual(items(s.r), [{ channel: doc, token: 'signed' }]);
  await s.accept();
  await ready;
  s.r.socket().drop();
  await s.r.clock.advance(1000);
  await s.r.welcome();
  assert.deepEqual(items(s.r), [{ channel: doc, since: { offset: 3, epoch: 'e' }, token: 'signed' }]);
});

test('a function is asked when it is needed; what it gave serves the next connection, too', async () => {
  const s = await stage();
  s.r.client.subscribeChannel(doc, () => {}, { token: s.grant });
  await nextTurn();
  await s.accept();
  s.r.socket().drop();
  await s.r.clock.advance(1000);
  await s.r.welcome();
  assert.deepEqual([s.serials(), s.asked], [[1], [{ channel: doc }]]);
});

test('it is asked anew a minute before the end, on the live subscription', async () => {
  const s = await stage();
  const subscription = s.r.client.subscribeChannel(doc, () => {}, { token: s.grant });
  await nextTurn();
  await s.accept();
  await s.pass(500_000);
  assert.equal(s.asked.length, 1);
  await s.pass(45_000);
  assert.deepEqual(s.serials(), [1, 2]);
  assert.equal(subscription.state, 'subscribed', 'meanwhile, too');
  await s.accept();
  await s.pass(500_000);
  assert.equal(s.asked.length, 2);
  await s.pass(40_000);
  assert.deepEqual(s.serials(), [1, 2, 3]);
});

test('while a token is asked for nothing that comes is held back', async () => {
  const s = await stage();
  const seen = [];
  let answer;
  const slow = () => new Promise((resolve) => (answer = resolve));
  s.r.client.subscribeChannel(doc, ({ data }) => seen.push(data), { token: slow });
  await nextTurn();
  answer(s.grant());
  await nextTurn();
  await s.accept();
  await s.pass(560_000);
  s.r.socket().receive('message', 'live', { channel: doc, offset: 4, epoch: 'e', messageId: 'm4' });
  assert.deepEqual(seen, ['live']);
});

test('an old token that is refused has a better successor; a fresh one is refused for good', async () => {
  const s = await stage();
  const { ready } = s.r.client.subscribeChannel(doc, () => {}, { token: s.grant });
  await nextTurn();
  await s.accept();
  await ready;
  s.r.socket().drop();
  await s.r.clock.advance(1000);
  await s.r.welcome();
  await s.reject('TOKEN_EXPIRED');
  assert.deepEqual(s.serials(), [1, 2]);
  await s.reject('INVALID_TOKEN');
  assert.equal(s.asked.length, 2);
  assert.deepEqual(s.r.received('rejected'), [{ channel: doc, code: 'INVALID_TOKEN', message: 'INVALID_TOKEN' }]);
});

test('a token that ended unseen is replaced; one that was revoked ends the subscription', async () => {
  const s = await stage();
  const subscription = s.r.client.subscribeChannel(doc, () => {}, { token: s.grant });
  await nextTurn();
  await s.accept();
  const end = (code) => s.r.socket().receive('unsubscribed', { channel: doc, code, reason: code }, { channel: doc, messageId: code });
  end('TOKEN_EXPIRED');
  await nextTurn();
  assert.deepEqual([s.serials(), subscription.state], [[1, 2], 'subscribing']);
  await s.accept();
  assert.equal(subscription.state, 'subscribed');
  end('TOKEN_BLACKLISTED');
  await nextTurn();
  assert.deepEqual([subscription.state, subscription.error.code, s.asked.length], ['closed', 'TOKEN_BLACKLISTED', 2]);
});

test('a string that has ended ends the subscription', async () => {
  const s = await stage();
  const subscription = s.r.client.subscribeChannel(doc, () => {}, { token: 'signed' });
  await nextTurn();
  await s.accept();
  s.r.socket().receive('unsubscribed', { channel: doc, code: 'TOKEN_EXPIRED', reason: 'over' }, { channel: doc, messageId: 'x' });
  await nextTurn();
  assert.deepEqual([subscription.state, subscription.error.code], ['closed', 'TOKEN_EXPIRED']);
});

test('a function that fails is told and asked again; one that says no ends it', async () => {
  const s = await stage();
  let act = () => {
    throw new Error('away');
  };
  const subscription = s.r.client.subscribeChannel(doc, () => {}, { token: (context) => act(context) });
  await nextTurn();
  assert.equal(s.r.received('error')[0].code, 'TOKEN');
  act = s.grant;
  await s.r.clock.advance(5000);
  assert.deepEqual(s.serials(), [1]);
  await s.accept();
  act = () => {
    throw new Unauthorized('not for you');
  };
  await s.pass(560_000);
  assert.deepEqual([subscription.state, subscription.error.code], ['rejected', 'UNAUTHORIZED']);
});

test('a renewal that fails is tried again while the subscription lasts', async () => {
  const s = await stage();
  let fails = false;
  s.r.client.subscribeChannel(doc, () => {}, { token: (context) => {
    if (fails) throw new Error('away');
    return s.grant(context);
  } });
  await nextTurn();
  await s.accept();
  fails = true;
  await s.pass(545_000);
  assert.ok(s.r.received('error').length >= 1);
  fails = false;
  await s.pass(10_000);
  assert.deepEqual(s.serials(), [1, 2]);
});

test('a token that comes with a later handler is shown at once; the same one not again', async () => {
  const s = await stage();
  s.r.client.subscribeChannel(doc, () => {});
  await nextTurn();
  await s.accept({ recovered: false, offset: 3, epoch: 'e' });
  s.r.client.subscribeChannel(doc, () => {}, { token: s.grant });
  await nextTurn();
  assert.equal(items(s.r).at(-1).token !== undefined, true);
  await s.accept();
  const before = items(s.r).length;
  s.r.client.subscribeChannel(doc, () => {}, { token: s.grant });
  await nextTurn();
  assert.equal(items(s.r).length, before);
});

test('who has left meanwhile is subscribed to nothing', async () => {
  const s = await stage();
  let answer;
  const { ready, unsubscribe } = s.r.client.subscribeChannel(doc, () => {}, { token: () => new Promise((resolve) => (answer = resolve)) });
  await nextTurn();
  unsubscribe();
  answer(s.grant());
  await nextTurn();
  assert.deepEqual(items(s.r), []);
  await assert.rejects(ready, { code: 'CLOSED' });
});
