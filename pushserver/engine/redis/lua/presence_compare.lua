-- Compares some of a node's presence with what is kept of it, and makes anew what is missing: Redis may evict it.
-- KEYS: 1 nodes, 2 node, 3 its connections, 4 its joins
-- ARGV: 1 incarnation, 2 prefix, 3 how long what belongs to a node stays, 4 'all': each is counted anew, also where nothing
--       is missing, or ''; then channel, or '' of a connection, user, connection, info or '', in turns
-- Returns 'ok', how many counts were wrong, how many members each set has, then channel, user, info of those who were not
-- there at all, in turns; or 'gone' where the node was taken for dead.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('EXISTS', KEYS[2]) == 0 then
  return {'gone'}
end
local prefix, kept = ARGV[2], ARGV[3]
local sets = {connections = KEYS[3], joins = KEYS[4]}
local counts, whose_is, back = {connections = {}, joins = {}}, {}, {}
for at = 5, #ARGV, 4 do
  local channel, user, info = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local kind, whose, there
  if channel == '' then
    kind, whose = 'connections', user
    there = redis.call('EXISTS', prefix .. ':online:' .. user) == 1
  else
    kind, whose = 'joins', channel .. ' ' .. user
    there = redis.call('HEXISTS', prefix .. ':members:' .. channel, user) == 1
    if info ~= '' and redis.call('HEXISTS', prefix .. ':infos:' .. channel, user) == 0 then
      redis.call('HSET', prefix .. ':infos:' .. channel, user, info)
      redis.call('PEXPIRE', prefix .. ':infos:' .. channel, kept)
    end
  end
  local added = redis.call('SADD', sets[kind], whose .. ' ' .. ARGV[at + 2]) == 1
  if added then
    redis.call('PEXPIRE', sets[kind], kept)
  end
  if not there and not counts[kind][whose] then
    for _, part in ipairs({channel, user, info}) do
      back[#back + 1] = part
    end
  end
  if added or not there or ARGV[4] == 'all' then
    counts[kind][whose] = 0
    whose_is[whose] = {channel, user}
  end
end
local wrong = 0
for kind in pairs(counts) do
  if next(counts[kind]) then
    recount(prefix, kind, counts[kind])
  end
end
for whose, count in pairs(counts.connections) do
  local online = prefix .. ':online:' .. whose
  if tonumber(redis.call('GET', online) or 0) ~= count then
    wrong = wrong + 1
    redis.call('SET', online, count, 'PX', kept)
  end
end
for whose, count in pairs(counts.joins) do
  local members, user = prefix .. ':members:' .. whose_is[whose][1], whose_is[whose][2]
  if tonumber(redis.call('HGET', members, user) or 0) ~= count then
    wrong = wrong + 1
    redis.call('HSET', members, user, count)
    redis.call('PEXPIRE', members, kept)
  end
end
local answer = {'ok', wrong, redis.call('SCARD', KEYS[3]), redis.call('SCARD', KEYS[4])}
for _, part in ipairs(back) do
  answer[#answer + 1] = part
end
return answer
