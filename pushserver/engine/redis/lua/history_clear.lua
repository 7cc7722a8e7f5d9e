-- KEYS[2]: history, KEYS[3]: messages
-- Without messages the floor is the newest offset.
local written = redis.call('HMGET', KEYS[2], 'epoch', 'written')
if not written[1] then
  return {ok()}
end
wrote()
redis.call('DEL', KEYS[3])
if written[2] then
  redis.call('HSET', KEYS[2], 'counted_from', written[2])
end
return {ok()}
