-- KEYS[2]: the webhook    ARGV: 2 the address whose receiver is gone
redis.call('HSET', KEYS[2], 'gone', ARGV[2])
return {'ok'}
