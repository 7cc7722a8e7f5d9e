-- KEYS: 1 the node's subscriptions, 2 infos
-- ARGV: 1 member, 2 user, 3 ttl, 4 info or ''
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then
  return {'ok'}
end
if ARGV[4] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
else
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return {'ok'}
