-- KEYS[2..]: hashes with an epoch and an offset
-- Returns epoch ('': there is none) and offset in turns.
local answer = {ok()}
for i = 2, #KEYS do
  local known = redis.call('HMGET', KEYS[i], 'epoch', 'offset')
  local offset = tonumber(known[2] or 0)
  answer[#answer + 1] = known[1] and full(known[1]) or ''
  answer[#answer + 1] = offset
end
return answer
