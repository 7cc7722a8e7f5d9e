-- KEYS[2]: the key of the write, KEYS[3]: the lease; the server's where there is none
-- ARGV[3]: how long the key is remembered, ARGV[4]: the lease's token, the last: a digest of the content; empty where
-- there is none. The digest stands beside the key, since nodes of an older version read the key's whole value.
if ARGV[4] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[4] then
  return {'fence'}
end
if ARGV[3] ~= '' then
  local first = redis.call('GET', KEYS[2])
  if first then
    local content = redis.call('GET', KEYS[2] .. ':content')
    return {'duplicate', first, content and content ~= ARGV[#ARGV] and 1 or 0}
  end
end
local function remember(answer)
  if ARGV[3] ~= '' then
    redis.call('SET', KEYS[2], answer, 'PX', ARGV[3])
    if ARGV[#ARGV] ~= '' then
      redis.call('SET', KEYS[2] .. ':content', ARGV[#ARGV], 'PX', ARGV[3])
    end
  end
end
local function extend(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end
