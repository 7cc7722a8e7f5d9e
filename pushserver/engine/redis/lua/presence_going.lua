-- KEYS: 1 nodes, 2 online, 3 who is about to be said to have left this node
-- ARGV: 1 incarnation, 2 user, 3 when they were seen, 4 ttl, 5 prefix
-- Returns whether this node shall say that the user went, and keeps in mind that it does.
if redis.call('EXISTS', KEYS[2]) == 1 or gone_from(ARGV[5], KEYS[1], ARGV[1], ARGV[2]) then
  return {'ok', 0}
end
redis.call('ZADD', KEYS[3], -tonumber(ARGV[3]), ARGV[2])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
return {'ok', 1}
