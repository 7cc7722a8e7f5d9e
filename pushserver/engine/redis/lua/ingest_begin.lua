-- KEYS: 1 lease, 2 tries    ARGV: 1 token, 2 entry
-- Returns how many times the entry was begun, this one included: one that ends its node must not end them all.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'fence'}
end
if redis.call('HGET', KEYS[2], 'entry') ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'entry', ARGV[2], 'count', 0)
end
return {'ok', redis.call('HINCRBY', KEYS[2], 'count', 1)}
