-- KEYS[1]: nodes    ARGV: 1 lease in ms, 2 what a node's key begins with
-- Returns incarnation, name, started at, the number of connections, where a node receives what is for it alone (empty
-- for one of an older version), and its last heartbeat in turns, the node that showed itself last at the end.
local now = milliseconds()
local answer = {'ok'}
local living = redis.call('ZRANGE', KEYS[1], string.format('(%d', now - ARGV[1]), '+inf', 'BYSCORE', 'WITHSCORES')
for at = 1, #living, 2 do
  local incarnation = living[at]
  local key = ARGV[2] .. incarnation
  local known = redis.call('HMGET', key, 'name', 'started', 'anonymous', 'replies')
  if known[1] then
    answer[#answer + 1] = incarnation
    answer[#answer + 1] = known[1]
    answer[#answer + 1] = known[2]
    answer[#answer + 1] = redis.call('SCARD', key .. ':connections') + (known[3] or 0)
    answer[#answer + 1] = known[4] or ''
    answer[#answer + 1] = living[at + 1]
  end
end
return answer
