-- KEYS[2..]: hashes with an epoch and an offset
-- Returns epoch ('': there is none) and offset in turns. Inboxes that hold messages past their time are noticed.
local answer = {''}
for i = 2, #KEYS do
  local known = redis.call('HMGET', KEYS[i], 'epoch', 'offset', 'next')
  local offset = tonumber(known[2] or 0)
  answer[#answer + 1] = known[1] and full(known[1]) or ''
  answer[#answer + 1] = offset
  local ends = tonumber(known[3] or 0)
  if ends > 0 and ends <= now then
    noticed = noticed .. ' ' .. KEYS[i]
  end
end
answer[1] = ok()
return answer
