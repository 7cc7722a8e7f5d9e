-- KEYS: 1 the node's set, then of a connection: 2 online, 3 seen, 4 who is about to be said to have left this node; of a
-- subscription: 2 members, 3 infos
-- ARGV: 1 'connection' or 'subscription', 2 member, 3 user, 4 when, 5 how long that is remembered, 6 'again' or '',
--       7 how long what belongs to a node stays, 8 prefix, 9 'evicts' where Redis may, or '', 10 channel of a subscription
-- Returns whether it was the user's last. 'again': an earlier attempt may have been carried out without an answer; then
-- the state that it left tells.
local last
local evicts = ARGV[9] ~= ''
if ARGV[1] == 'connection' then
  last = disconnect(ARGV[8], KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7], evicts)
  if ARGV[6] == 'again' and redis.call('EXISTS', KEYS[2]) == 0 and redis.call('GET', KEYS[3]) == ARGV[4] then
    last = true
  end
  if last then
    redis.call('ZADD', KEYS[4], ARGV[4], ARGV[3])
    redis.call('PEXPIRE', KEYS[4], ARGV[7])
  end
else
  last = leave(ARGV[8], KEYS[1], ARGV[2], ARGV[10], ARGV[3], ARGV[7], evicts)
  if ARGV[6] == 'again' and redis.call('HEXISTS', KEYS[2], ARGV[3]) == 0 then
    last = true
  end
end
return {'ok', last and 1 or 0}
