-- Finds who is counted and is in no node's set: Redis may have evicted the set of a node that died since.
-- KEYS: 1 nodes
-- ARGV: 1 prefix, 2 when they are said to have gone, or '': they are only looked for, 3 how long that is remembered, then
--       channel, or '' of a connection, and user in turns
-- Returns 'ok', how many members a node has at most, then channel, user, info of those, in turns.
local prefix = ARGV[1]
local counts, whose_is = {connections = {}, joins = {}}, {}
for at = 4, #ARGV, 2 do
  local channel, user = ARGV[at], ARGV[at + 1]
  if channel == '' then
    if redis.call('EXISTS', prefix .. ':online:' .. user) == 1 then
      counts.connections[user] = 0
      whose_is[user] = {channel, user}
    end
  elseif redis.call('HEXISTS', prefix .. ':members:' .. channel, user) == 1 then
    counts.joins[channel .. ' ' .. user] = 0
    whose_is[channel .. ' ' .. user] = {channel, user}
  end
end
local most = 0
for _, incarnation in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local held = tonumber(redis.call('HGET', prefix .. ':node:' .. incarnation, 'held') or 0)
  most = math.max(most, held)
end
local answer = {'ok', most}
for kind in pairs(counts) do
  if next(counts[kind]) then
    recount(prefix, kind, counts[kind])
  end
  for whose, count in pairs(counts[kind]) do
    if count == 0 then
      local channel, user = whose_is[whose][1], whose_is[whose][2]
      local info = channel ~= '' and redis.call('HGET', prefix .. ':infos:' .. channel, user) or ''
      if ARGV[2] ~= '' and channel == '' then
        redis.call('DEL', prefix .. ':online:' .. user)
        redis.call('SET', prefix .. ':seen:' .. user, ARGV[2], 'PX', ARGV[3])
      elseif ARGV[2] ~= '' then
        redis.call('HDEL', prefix .. ':members:' .. channel, user)
        redis.call('HDEL', prefix .. ':infos:' .. channel, user)
      end
      for _, part in ipairs({channel, user, info}) do
        answer[#answer + 1] = part
      end
    end
  end
end
return answer
