-- KEYS: 2 the webhook's subjects, 3 what it holds, 4 dead, 5 their moments, 6 those to be tried again
-- ARGV: 2 subject, 3 what is held no more, 4 what begins and 5 what ends all that is held of the subject,
--       6 how many dead are kept, 7 the oldest, then field, event and moment of one that is dead
redis.call('ZREM', KEYS[3], ARGV[3])
if ARGV[8] then
  add_dead(KEYS[4], KEYS[5], KEYS[6], ARGV[8], ARGV[9], ARGV[10])
  sweep_dead(KEYS[4], KEYS[5], KEYS[6], tonumber(ARGV[6]), ARGV[7])
end
local left = redis.call('ZLEXCOUNT', KEYS[3], ARGV[4], ARGV[5])
if left == 0 then
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return {'ok', left}
