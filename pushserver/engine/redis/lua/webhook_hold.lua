-- KEYS: 2 the webhook's subjects, 3 what it holds    ARGV: 2 subject, 3 its state, then what is held of it
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
for at = 4, #ARGV do
  redis.call('ZADD', KEYS[3], 0, ARGV[at])
end
return {'ok'}
