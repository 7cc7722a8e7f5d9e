-- KEYS[1]: the token's    ARGV[1]: until
local now = milliseconds()
local left = tonumber(ARGV[1]) - now
if left > 0 and redis.call('PTTL', KEYS[1]) < left and redis.call('TTL', KEYS[1]) ~= -1 then
  redis.call('SET', KEYS[1], '1', 'PX', string.format('%d', left))
end
return {'ok'}
