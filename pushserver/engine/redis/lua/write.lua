-- KEYS[2]: the key of the write, KEYS[3]: the lease; the server's where there is none
-- KEYS, the last two: the events that the backend is told, and their state
-- ARGV[3]: how long the key is remembered, ARGV[4]: the lease's token, the last but one: what the backend is told of the
-- write, the last: a digest of the content; each is empty where there is none. The digest stands beside the key, since nodes of an older version read the key's whole value.
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
-- Called once by every write that happens.
local function remember(answer)
  if ARGV[#ARGV - 1] ~= '' then
    emit(KEYS[#KEYS - 1], KEYS[#KEYS], ARGV[#ARGV - 1])
  end
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
