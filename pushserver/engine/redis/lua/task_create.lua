-- KEYS: 4 task, 5 open, 6 final, 7 until, 8 stale
-- ARGV: 5 task id, 6 state, 7 version, 8 created at, 9 updated at, 10 ttl of an unfinished task, 11 event, 12 tag,
--       13 live channel of the task, 14 of the owner
if redis.call('EXISTS', KEYS[4]) == 1 then
  return {'exists'}
end
if stale_version(ARGV[7]) then
  return {'version'}
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[7], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[6], id)
  redis.call('ZREM', KEYS[7], id)
end
wrote()
redis.call('HSET', KEYS[4], 'state', ARGV[6], 'version', ARGV[7])
redis.call('PEXPIRE', KEYS[4], ARGV[10])
redis.call('ZREM', KEYS[6], ARGV[5])
redis.call('ZREM', KEYS[7], ARGV[5])
redis.call('ZADD', KEYS[5], ARGV[8], ARGV[5])
extend(KEYS[5], ARGV[10])
redis.call('ZADD', KEYS[8], string.format('%d', now), ARGV[5])
remember(ARGV[6])
redis.call('PUBLISH', ARGV[14], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
redis.call('PUBLISH', ARGV[13], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
return {ok()}
