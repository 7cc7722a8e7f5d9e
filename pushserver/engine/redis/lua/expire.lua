-- Removes some of what a node that is gone left behind; whoever runs this announces what it returns.
-- KEYS: 1 nodes, 2 node, 3 its connections, 4 its joins, 5 who left it and was not said to have
-- ARGV: 1 incarnation, 2 its lease in ms (0: it says itself that it is gone), 3 how many, 4 prefix, 5 how long 'seen' is kept,
--       6 how long what belongs to a node stays
-- Returns 'ok', 'more' or 'done', how many users, each with when it was last seen, then channel, user, connection, info
-- and whether it was the user's last there, in turns.
local now = milliseconds()
local last = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if now - last < tonumber(ARGV[2]) then
  return {'ok', 'done', 0}
end
-- From here on it is gone, also where this takes more than one script: a heartbeat must not bring back half of it.
redis.call('DEL', KEYS[2])
if last == 0 then
  last = now
end
local seen = string.format('%d', last)
local users, channels = {}, {}
for _, member in ipairs(redis.call('SRANDMEMBER', KEYS[3], ARGV[3])) do
  local user = string.match(member, '^(%S+) ')
  if not user then
    -- Not a member that a node wrote.
    redis.call('SREM', KEYS[3], member)
  elseif disconnect(ARGV[4], KEYS[3], member, user, seen, ARGV[5], ARGV[6]) then
    users[#users + 1] = user
    users[#users + 1] = seen
  end
end
local left = redis.call('ZRANGE', KEYS[5], 0, ARGV[3] - 1, 'WITHSCORES')
for at = 1, #left, 2 do
  redis.call('ZREM', KEYS[5], left[at])
  users[#users + 1] = left[at]
  users[#users + 1] = (string.gsub(left[at + 1], '^%-', ''))
end
for _, member in ipairs(redis.call('SRANDMEMBER', KEYS[4], ARGV[3])) do
  local channel, user, connection = string.match(member, '^(%S+) (%S+) (%S+)$')
  if not user then
    redis.call('SREM', KEYS[4], member)
  else
    local info = redis.call('HGET', ARGV[4] .. ':infos:' .. channel, user)
    local last_one = leave(ARGV[4], KEYS[4], member, channel, user, ARGV[6])
    channels[#channels + 1] = channel
    channels[#channels + 1] = user
    channels[#channels + 1] = connection
    channels[#channels + 1] = info or ''
    channels[#channels + 1] = last_one and '1' or ''
  end
end
local state = 'more'
if redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  state = 'done'
end
local answer = {'ok', state, #users / 2}
for _, part in ipairs(users) do
  answer[#answer + 1] = part
end
for _, part in ipairs(channels) do
  answer[#answer + 1] = part
end
return answer
