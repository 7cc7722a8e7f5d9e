// Publishes through Redis alone, as a program in another language would: one argument, the URL of Redis.
import { createRequire } from 'node:module';

const { Redis } = createRequire(new URL('../node/package.json', import.meta.url))('ioredis');
const redis = new Redis(process.argv[2]);

await redis.publish('push:pub:news:x', JSON.stringify({ data: { from: 'ioredis' } }));
await redis.publish('push:pub:news:x', JSON.stringify({ type: 'price_changed', data: { cents: 1250 } }));
const command = (method, params) => redis.xadd('push:ingest', '*', 'cmd', JSON.stringify({ method, params }));
await command('notify', { userId: '42', data: { title: 'Grüße aus node' } });
await command('task.create', { taskId: 'node-task', userId: '42', title: 'Import' });
await command('task.progress', { taskId: 'node-task', percentage: 50 });
await command('task.complete', { taskId: 'node-task', result: { rows: 3 } });
await redis.quit();
