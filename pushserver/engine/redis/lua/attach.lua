-- A node (re)connected. Where another process answers under this data than before, what was given out since the data
-- was last saved may be lost: every epoch moves on.
-- KEYS: server    ARGV: run id, a fresh generation
-- Returns the generation that holds.
local known = redis.call('HMGET', KEYS[1], 'run_id', 'generation')
if known[1] == ARGV[1] and known[2] then
  return known[2]
end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'generation', ARGV[2])
return ARGV[2]
