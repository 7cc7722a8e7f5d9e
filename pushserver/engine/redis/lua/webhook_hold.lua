-- KEYS: 2 the webhook, 3 its subjects, 4 what it holds    ARGV: 2 subject, 3 its state, then what is held of it
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
for at = 4, #ARGV do
  redis.call('ZADD', KEYS[4], 0, ARGV[at])
end
-- They go with the webhook.
local left = redis.call('PTTL', KEYS[2])
if left > 0 then
  redis.call('PEXPIRE', KEYS[3], left)
  redis.call('PEXPIRE', KEYS[4], left)
end
return {'ok'}
