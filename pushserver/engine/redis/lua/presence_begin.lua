-- KEYS: 1 nodes, 2 the node's set, then of a connection: 3 online, 4 who is about to be said to have left this node; of a
-- subscription: 3 members, 4 infos
-- ARGV: 1 incarnation, 2 'connection' or 'subscription', 3 member, 4 user, 5 ttl, 6 info or '', 7 prefix
-- Returns 'ok', whether it is the user's first, of a connection: and no other node was still to say that the user went, and
-- how many the user has now.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return {'gone'}
end
if ARGV[2] == 'connection' then
  redis.call('ZREM', KEYS[4], ARGV[4])
end
if redis.call('SADD', KEYS[2], ARGV[3]) == 0 then
  local known
  if ARGV[2] == 'connection' then
    known = redis.call('GET', KEYS[3])
  else
    known = redis.call('HGET', KEYS[3], ARGV[4])
  end
  return {'ok', 0, tonumber(known or 0)}
end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
local count
if ARGV[2] == 'connection' then
  count = redis.call('INCR', KEYS[3])
else
  count = redis.call('HINCRBY', KEYS[3], ARGV[4], 1)
  if ARGV[6] ~= '' and (count == 1 or redis.call('HEXISTS', KEYS[4], ARGV[4]) == 0) then
    redis.call('HSET', KEYS[4], ARGV[4], ARGV[6])
    redis.call('PEXPIRE', KEYS[4], ARGV[5])
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[5])
local new = count == 1
if new and ARGV[2] == 'connection' then
  local _, leaving = gone_from(ARGV[7], KEYS[1], ARGV[1], ARGV[4])
  if leaving then
    redis.call('ZREM', leaving, ARGV[4])
    new = false
  end
end
return {'ok', new and 1 or 0, count}
