-- KEYS: 4 task, 5 open, 6 final, 7 until, 8 stale, 9 inbox
-- ARGV: 5 task id, 6 state, 7 version, 8 created at, 9 updated at, 10 ttl of the task from now on, 11 event, 12 tag,
--       13 live channel of the task, 14 of the owner, 15 'final' or '', 16 publication for the owner or ''
--       17 size, 18 chat size, 19 ttl of every message, 20 how many ends of tasks, 21 to 23 the inbox' ttls,
--       24 live channel of the inbox ('': who kept it publishes it), 25 the version that is replaced
local kept = redis.call('HGET', KEYS[4], 'version')
if not kept then
  return {'unknown'}
end
if tonumber(kept) ~= tonumber(ARGV[25]) then
  return {'version'}
end
wrote()
redis.call('HSET', KEYS[4], 'state', ARGV[6], 'version', ARGV[7])
redis.call('PEXPIRE', KEYS[4], ARGV[10])
remember('1')
if ARGV[15] ~= 'final' then
  redis.call('ZADD', KEYS[8], string.format('%d', now), ARGV[5])
  extend(KEYS[5], ARGV[10])
  redis.call('PUBLISH', ARGV[14], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
  redis.call('PUBLISH', ARGV[13], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
  return {ok()}
end
redis.call('ZREM', KEYS[8], ARGV[5])
redis.call('ZREM', KEYS[5], ARGV[5])
redis.call('ZADD', KEYS[6], ARGV[8], ARGV[5])
redis.call('ZADD', KEYS[7], now + ARGV[10], ARGV[5])
extend(KEYS[6], ARGV[10])
extend(KEYS[7], ARGV[10])
local answer = {ok()}
if ARGV[16] ~= '' then
  local box = open(KEYS[9], now)
  local rules = {size = tonumber(ARGV[17]), chat_size = tonumber(ARGV[18]), ttl = tonumber(ARGV[19]), task_size = tonumber(ARGV[20])}
  append(box, ARGV[16], TASKS, nil, '', rules, now)
  save(box, {tonumber(ARGV[21]), tonumber(ARGV[22]), tonumber(ARGV[23])})
  redis.call('HSET', KEYS[4], 'end', string.format('%d', box.offset) .. ' ' .. box.epoch)
  if ARGV[24] ~= '' and redis.call('PUBLISH', ARGV[24], positioned(box.offset, box.epoch) .. ARGV[16]) == 0 then
    noticed = ''
  end
  answer = {ok(), box.offset, full(box.epoch)}
end
redis.call('PUBLISH', ARGV[13], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
return answer
