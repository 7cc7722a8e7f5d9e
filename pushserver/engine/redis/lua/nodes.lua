-- KEYS[1]: nodes    ARGV: 1 lease in ms, 2 what a node's key begins with
-- Returns incarnation, name, started at, the number of connections, and where a node receives what is for it alone (empty
-- for one of an older version) in turns, the node that showed itself last at the end.
local now = milliseconds()
local answer = {'ok'}
for _, incarnation in ipairs(redis.call('ZRANGE', KEYS[1], string.format('(%d', now - ARGV[1]), '+inf', 'BYSCORE')) do
  local key = ARGV[2] .. incarnation
  local known = redis.call('HMGET', key, 'name', 'started', 'anonymous', 'replies')
  if known[1] then
    answer[#answer + 1] = incarnation
    answer[#answer + 1] = known[1]
    answer[#answer + 1] = known[2]
    answer[#answer + 1] = redis.call('SCARD', key .. ':connections') + (known[3] or 0)
    answer[#answer + 1] = known[4] or ''
  end
end
return answer
