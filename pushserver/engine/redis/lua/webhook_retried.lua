-- KEYS: 2 dead, 3 those to be tried again    ARGV: 2 what the fields of the webhook begin with
-- Returns field and event of each that is to be tried once more.
local answer = {'ok'}
for _, field in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  if string.sub(field, 1, #ARGV[2]) == ARGV[2] then
    local event = redis.call('HGET', KEYS[2], field)
    if event then
      answer[#answer + 1] = field
      answer[#answer + 1] = event
    else
      redis.call('SREM', KEYS[3], field)
    end
  end
end
return answer
