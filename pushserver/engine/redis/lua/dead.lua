-- KEYS: 1 dead, 2 their moments    ARGV: 1 the oldest
-- Returns field and event of each.
local answer = {'ok'}
for _, field in ipairs(redis.call('ZRANGE', KEYS[2], '(' .. ARGV[1], '+inf', 'BYSCORE')) do
  local event = redis.call('HGET', KEYS[1], field)
  if event then
    answer[#answer + 1] = field
    answer[#answer + 1] = event
  end
end
return answer
