-- Something of a node's presence ends. Where Redis has evicted what counts it, it is counted anew.

-- Counts what the sets of all nodes hold, by '<user>' of their 'connections' or '<channel> <user>' of their 'joins'.
-- `counts` has 0 for each that is wanted.
local function recount(prefix, kind, counts)
  for _, incarnation in ipairs(redis.call('ZRANGE', prefix .. ':nodes', 0, -1)) do
    for _, member in ipairs(redis.call('SMEMBERS', prefix .. ':node:' .. incarnation .. ':' .. kind)) do
      local whose = string.match(member, '^(.+) %S+$')
      if counts[whose or ''] then
        counts[whose] = counts[whose] + 1
      end
    end
  end
end

local function counted(prefix, kind, whose)
  local counts = {[whose] = 0}
  recount(prefix, kind, counts)
  return counts[whose]
end

-- `kept`: how long what belongs to a node stays; `evicts`: the node's set may be gone, so that it holds nothing of it.
local function disconnect(prefix, connections, member, user, at, remembered, kept, evicts)
  local online, left = prefix .. ':online:' .. user, nil
  if redis.call('SREM', connections, member) == 1 then
    left = redis.call('DECR', online)
  elseif not evicts or redis.call('EXISTS', online) == 0 then
    return false
  end
  if not left or left < 0 then
    left = counted(prefix, 'connections', user)
    redis.call('SET', online, left, 'PX', kept)
  end
  if left > 0 then
    return false
  end
  redis.call('DEL', online)
  redis.call('SET', prefix .. ':seen:' .. user, at, 'PX', remembered)
  return true
end

local function leave(prefix, joins, member, channel, user, kept, evicts)
  local members, infos, left = prefix .. ':members:' .. channel, prefix .. ':infos:' .. channel, nil
  if redis.call('SREM', joins, member) == 1 then
    left = redis.call('HINCRBY', members, user, -1)
  elseif not evicts or redis.call('HEXISTS', members, user) == 0 then
    return false
  end
  if not left or left < 0 then
    left = counted(prefix, 'joins', channel .. ' ' .. user)
    redis.call('HSET', members, user, left)
    redis.call('PEXPIRE', members, kept)
  end
  if left > 0 then
    return false
  end
  local info = redis.call('HGET', infos, user) or ''
  redis.call('HDEL', members, user)
  redis.call('HDEL', infos, user)
  return true, info
end
