-- Something of a node's presence ends.
local function disconnect(connections, online, seen, member, at, ttl)
  if redis.call('SREM', connections, member) == 0 then
    return false
  end
  if redis.call('DECR', online) > 0 then
    return false
  end
  redis.call('DEL', online)
  redis.call('SET', seen, at, 'PX', ttl)
  return true
end

local function leave(joins, members, infos, member, user)
  if redis.call('SREM', joins, member) == 0 then
    return false
  end
  if redis.call('HINCRBY', members, user, -1) > 0 then
    return false
  end
  local info = redis.call('HGET', infos, user) or ''
  redis.call('HDEL', members, user)
  redis.call('HDEL', infos, user)
  return true, info
end
