-- KEYS: 2 dead, 3 those to be tried again    ARGV: 2 what the fields of the webhook begin with
-- Returns the dead events that are to be tried once more.
local answer = {'ok'}
for _, field in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  if string.sub(field, 1, #ARGV[2]) == ARGV[2] then
    redis.call('SREM', KEYS[3], field)
    answer[#answer + 1] = redis.call('HGET', KEYS[2], field) or nil
  end
end
return answer
