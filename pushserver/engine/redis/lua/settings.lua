-- KEYS[1]: nodes    ARGV[1]: what a node's key begins with
-- Returns incarnation, name, and its settings ('': of version 1) in turns, of the nodes that nobody has expired yet: one
-- that seems silent for a lease may be there all the same, where Redis' clock was set.
local answer = {'ok'}
for _, incarnation in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local known = redis.call('HMGET', ARGV[1] .. incarnation, 'name', 'settings')
  if known[1] then
    answer[#answer + 1] = incarnation
    answer[#answer + 1] = known[1]
    answer[#answer + 1] = known[2] or ''
  end
end
return answer
