-- KEYS[2]: the webhook    ARGV: 2 cursor
redis.call('HSET', KEYS[2], 'cursor', ARGV[2])
return {'ok'}
