-- KEYS[2]: stale    ARGV: 3 for how long there was no change, ms, 4 limit, 5 what a task's key begins with
-- Returns the time of now, in ms, then id and state in turns.
local answer = {ok(), now}
local from, limit = 0, tonumber(ARGV[4])
while #answer - 2 < 2 * limit do
  local ids = redis.call('ZRANGE', KEYS[2], '-inf', '(' .. string.format('%d', now - ARGV[3]), 'BYSCORE', 'LIMIT', from, limit)
  if #ids == 0 then
    break
  end
  for _, id in ipairs(ids) do
    local state = redis.call('HGET', ARGV[5] .. id, 'state')
    if not state then
      redis.call('ZREM', KEYS[2], id)
    elseif #answer - 2 < 2 * limit then
      answer[#answer + 1] = id
      answer[#answer + 1] = state
      from = from + 1
    end
  end
end
return answer
