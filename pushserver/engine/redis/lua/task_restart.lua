-- KEYS: 4 task, 5 open, 6 final, 7 until, 8 stale, 9 inbox
-- ARGV: 5 task id, 6 state, 7 version, 8 created at, 9 updated at, 10 ttl of an unfinished task, 11 event, 12 tag,
--       13 live channel of the task, 14 of the owner, 15 to 17 the inbox' ttls, 18 the version that is replaced
local kept = redis.call('HMGET', KEYS[4], 'version', 'end', 'outputs')
if not kept[1] then
  return {'unknown'}
end
if tonumber(kept[1]) ~= tonumber(ARGV[18]) or stale_version(ARGV[7]) then
  return {'version'}
end
wrote()
remove_named(KEYS[4], ARGV[5], kept[3], ARGV[8])
redis.call('HSET', KEYS[4], 'state', ARGV[6], 'version', ARGV[7])
redis.call('HDEL', KEYS[4], 'end')
redis.call('PEXPIRE', KEYS[4], ARGV[10])
redis.call('ZREM', KEYS[6], ARGV[5])
redis.call('ZREM', KEYS[7], ARGV[5])
redis.call('ZADD', KEYS[5], ARGV[8], ARGV[5])
extend(KEYS[5], ARGV[10])
redis.call('ZADD', KEYS[8], string.format('%d', now), ARGV[5])
-- The message of the earlier attempt's end, where it is still kept: '<offset> <epoch>'.
if kept[2] then
  local offset, epoch = string.match(kept[2], '^(%d+) (%S+)$')
  local box = open(KEYS[9], now)
  local at = box.epoch == epoch and find(box, tonumber(offset))
  if at then
    remove(box, at, false)
    redis.call('PUBLISH', ARGV[14], 'i -\n' .. deletion_of(box, offset))
  end
  save(box, {tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])})
end
remember(ARGV[6])
redis.call('PUBLISH', ARGV[14], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
redis.call('PUBLISH', ARGV[13], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
return {ok()}
