-- A node (re)connected. Where another process answers under this data than before, what was given out since the data
-- was last saved may be lost: every epoch moves on.
-- KEYS: server    ARGV: run id, a fresh generation, a fresh secret
-- Returns the generation that holds, and the secret of this data.
redis.call('HSETNX', KEYS[1], 'secret', ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'run_id', 'generation', 'secret')
if known[1] == ARGV[1] and known[2] then
  return {known[2], known[3]}
end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'generation', ARGV[2])
return {ARGV[2], known[3]}
