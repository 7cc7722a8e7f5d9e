-- KEYS[1]: the lease    ARGV[1]: its token
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'fence'}
end
