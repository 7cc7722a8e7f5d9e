-- KEYS[2..]: hashes with an epoch and an offset    ARGV[3]: ttl of one that has no message yet
-- Returns epoch ('': there is none) and offset in turns.
local answer = {'ok'}
for i = 2, #KEYS do
  local known = redis.call('HMGET', KEYS[i], 'epoch', 'offset')
  local offset = tonumber(known[2] or 0)
  if known[1] and offset == 0 and redis.call('PTTL', KEYS[i]) < ARGV[3] / 2 then
    redis.call('PEXPIRE', KEYS[i], ARGV[3])
  end
  answer[#answer + 1] = known[1] and full(known[1]) or ''
  answer[#answer + 1] = offset
end
return answer
