-- KEYS[1]: lease    ARGV: 1 token, 2 ttl (0: give it back)
-- Returns 1 where the lease is (or was) the token's.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {'ok', 0}
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return {'ok', 1}
