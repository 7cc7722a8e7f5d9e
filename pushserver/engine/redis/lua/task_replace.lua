-- KEYS: 4 task, 5 open, 6 final, 7 until, 8 stale, 9 inbox
-- ARGV: 5 task id, 6 state, 7 version, 8 created at, 9 updated at, 10 ttl of the task from now on, 11 event, 12 tag,
--       13 live channel of the task, 14 of the owner, 15 'final' or '', 16 publication for the owner or ''
--       17 size, 18 chat size, 19 ttl of every message, 20 how many ends of tasks, 21 to 23 the inbox' ttls,
--       24 live channel of the inbox ('': who kept it publishes it), 25 the version that is replaced,
--       26 packed: what is appended to an output with it, or '', 27 '': what is told of outputs is published here
-- Returns the place of the owner's message, where there is one, then how many bytes of the oldest went for what was appended,
-- then channel and message of what is told of outputs.
local kept = redis.call('HMGET', KEYS[4], 'version', 'outputs')
if not kept[1] then
  return {'unknown'}
end
if tonumber(kept[1]) ~= tonumber(ARGV[25]) or stale_version(ARGV[7]) then
  return {'version'}
end
remove_named(KEYS[4], ARGV[5], kept[2], ARGV[8])
local last
if ARGV[26] ~= '' then
  local name, kind, body, count, literal, timestamp, max_bytes, most = unpack(cmsgpack.unpack(ARGV[26]))
  local key, chunks = keys_of_output(name .. '/' .. ARGV[5])
  last = {name = name, timestamp = timestamp, literal = literal, out = open_output(key, chunks, ARGV[8])}
  local names = output_names(kept[2], ARGV[8])
  local refusal = refuse_output(last.out, kind, name, names, most)
  if refusal then
    return refusal
  end
  last.before = last.out.offset
  append_output(last.out, KEYS[4], name, names, kind, body, count, max_bytes)
  kept[2] = redis.call('HGET', KEYS[4], 'outputs')
end
wrote()
-- Tells who follows the task's outputs of what was appended, and closes them where the state is final.
local function notify_outputs(answer)
  local live = string.sub(ARGV[13], 1, #ARGV[13] - #ARGV[5] - 5)
  local final = ARGV[15] == 'final'
  answer[#answer + 1] = last and last.out.trimmed or 0
  for _, name in ipairs(final and output_names(kept[2], ARGV[8]) or {last.name}) do
    local channel = live .. 'output:' .. name .. '/' .. ARGV[5]
    local appended = last and last.name == name
    local key, chunks = keys_of_output(name .. '/' .. ARGV[5])
    local out = appended and last.out or open_output(key, chunks, ARGV[8])
    if final then
      close_output(out, ARGV[10])
    else
      save_output(out)
    end
    local told = output_notice(out, appended and last.before or out.offset, appended and last.timestamp or ARGV[9],
      appended and last.literal or 'null')
    answer[#answer + 1] = channel
    answer[#answer + 1] = told
    if ARGV[27] == '' then
      redis.call('PUBLISH', channel, told)
    end
  end
  return answer
end
redis.call('HSET', KEYS[4], 'state', ARGV[6], 'version', ARGV[7])
redis.call('PEXPIRE', KEYS[4], ARGV[10])
remember('1')
if ARGV[15] ~= 'final' then
  redis.call('ZADD', KEYS[8], string.format('%d', now), ARGV[5])
  extend(KEYS[5], ARGV[10])
  redis.call('PUBLISH', ARGV[14], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
  redis.call('PUBLISH', ARGV[13], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
  return last and notify_outputs({ok(), '', ''}) or {ok()}
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
if kept[2] then
  answer = notify_outputs({answer[1], answer[2] or '', answer[3] or ''})
end
redis.call('PUBLISH', ARGV[13], 't ' .. ARGV[12] .. '\n' .. ARGV[11])
return answer
