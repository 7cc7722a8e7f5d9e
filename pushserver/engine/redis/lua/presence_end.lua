-- KEYS: 1 the node's set, then of a connection: 2 online, 3 seen; of a subscription: 2 members, 3 infos
-- ARGV: 1 'connection' or 'subscription', 2 member, 3 user, 4 when, 5 how long that is remembered
if ARGV[1] == 'connection' then
  return {'ok', disconnect(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[4], ARGV[5]) and 1 or 0}
end
return {'ok', leave(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[3]) and 1 or 0}
