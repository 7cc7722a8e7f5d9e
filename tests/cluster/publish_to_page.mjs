// The page in a browser, and programs that know nothing but Redis.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { scenario, seen } from '../browser/chromium.mjs';

const { Redis } = createRequire(new URL('../node/package.json', import.meta.url))('ioredis');

await scenario(async (stage) => {
  const tab = await stage.open('/');
  await seen(tab, '#channels [data-state="on"]', 'demo:news');
  const redis = new Redis(process.env.REDIS_URL);
  try {
    await redis.publish('push:pub:demo:news', JSON.stringify({ data: { headline: 'from ioredis' } }));
    await seen(tab, '#traffic li', 'from ioredis');
    await redis.xadd('push:ingest', '*', 'cmd',
      JSON.stringify({ method: 'notify', params: { userId: 'demo', data: { level: 'info', title: 'From the stream', message: '' } } }));
    await seen(tab, '#inbox-list', 'From the stream');
  } finally {
    await redis.quit();
  }
  execFileSync('redis-cli', ['-u', process.env.REDIS_URL, 'PUBLISH', 'push:pub:demo:news', '{"data": {"headline": "from redis-cli"}}']);
  await seen(tab, '#traffic li', 'from redis-cli');
  assert.deepEqual(stage.complaints, []);
});
