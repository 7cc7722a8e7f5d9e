-- KEYS[1]: nodes    ARGV: 1 lease in ms, 2 what a node's key begins with
-- Returns incarnation, name, and its settings ('': of version 1) in turns, of the nodes that live.
local now = milliseconds()
local answer = {'ok'}
for _, incarnation in ipairs(redis.call('ZRANGE', KEYS[1], string.format('(%d', now - ARGV[1]), '+inf', 'BYSCORE')) do
  local known = redis.call('HMGET', ARGV[2] .. incarnation, 'name', 'settings')
  if known[1] then
    answer[#answer + 1] = incarnation
    answer[#answer + 1] = known[1]
    answer[#answer + 1] = known[2] or ''
  end
end
return answer
