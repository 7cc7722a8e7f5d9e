-- A node (re)connected. Where another process answers under this data than before, what was given out since the data
-- was last saved may be lost: every epoch moves on, and versions of tasks go on above all that were given out (those
-- are below the time of now, in ms).
-- KEYS: server    ARGV: run id, a fresh generation, a fresh secret, the generation that the node knew, or ''
-- Returns the generation that holds, the secret of this data, and the lowest version of a new state.
redis.call('HSETNX', KEYS[1], 'secret', ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'run_id', 'generation', 'secret', 'versions')
local generation, versions = known[2], known[4]
if not generation or known[1] ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'generation', ARGV[2])
  versions = (generation or ARGV[4] ~= '') and string.format('%d', milliseconds()) or '1'
  generation = ARGV[2]
elseif versions then
  versions = string.match(versions, '^' .. generation .. ' (%d+)$')
end
-- It stands beside its generation: a node of an older version moves that alone.
versions = versions or string.format('%d', milliseconds())
redis.call('HSET', KEYS[1], 'versions', generation .. ' ' .. versions)
return {generation, known[3], versions}
