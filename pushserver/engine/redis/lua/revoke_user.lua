-- KEYS[1]: the user's    ARGV: 1 issued until, 2 until
-- A sorted set: tokens issued up to a member are revoked until its score.
local now = milliseconds()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if tonumber(ARGV[2]) > now then
  redis.call('ZADD', KEYS[1], 'GT', ARGV[2], ARGV[1])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) - now then
    redis.call('PEXPIREAT', KEYS[1], ARGV[2])
  end
end
return {'ok'}
