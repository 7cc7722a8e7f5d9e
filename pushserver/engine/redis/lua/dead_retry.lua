-- KEYS: 1 dead, 2 those to be tried again    ARGV: 1 what the fields of the webhook begin with, then ids (none: all)
local count = 0
local fields = {}
if #ARGV > 1 then
  for at = 2, #ARGV do
    fields[#fields + 1] = ARGV[1] .. ARGV[at]
  end
else
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, #ARGV[1]) == ARGV[1] then
      fields[#fields + 1] = field
    end
  end
end
for _, field in ipairs(fields) do
  if redis.call('HEXISTS', KEYS[1], field) == 1 then
    redis.call('SADD', KEYS[2], field)
    count = count + 1
  end
end
return {'ok', count}
