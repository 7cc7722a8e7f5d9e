-- Dead events: each under '<webhook> <id>' in one hash, the moments of their deaths in a sorted set, and a set of those
-- that are to be tried once more.
local function add_dead(dead, moments, again, field, event, died_at)
  redis.call('HSET', dead, field, event)
  redis.call('ZADD', moments, died_at, field)
  redis.call('SREM', again, field)
end
local function forget(dead, moments, again, field)
  redis.call('HDEL', dead, field)
  redis.call('ZREM', moments, field)
  redis.call('SREM', again, field)
end
local function sweep_dead(dead, moments, again, count, oldest)
  local gone = redis.call('ZRANGE', moments, '-inf', oldest, 'BYSCORE', 'LIMIT', 0, 1000)
  local surplus = redis.call('ZCARD', moments) - #gone - count
  if surplus > 0 then
    gone = redis.call('ZRANGE', moments, 0, #gone + surplus - 1)
  end
  for _, field in ipairs(gone) do
    forget(dead, moments, again, field)
  end
end
