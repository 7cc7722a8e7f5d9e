-- KEYS: 4 task, 5 output, 6 its pieces, 7 stale
-- ARGV: 5 name, 6 kind, 7 body, 8 how many positions, 9 attempt ('': any), 10 producer ('': none), 11 its epoch, 12 its seq,
--       13 how many bytes are kept, 14 live channel ('': who appended it publishes it), 15 what is published of it,
--       16 when it came, 17 how many outputs a task may have, 18 task id
-- Returns the position after it, the epoch, whether the owner asked for the end, and the position before it, and how many bytes
-- of the oldest went.
local kept = redis.call('HMGET', KEYS[4], 'state', 'outputs')
local readable, task = pcall(cjson.decode, kept[1] or '')
if not kept[1] or not readable then
  return {'unknown'}
end
if ARGV[9] ~= '' and tonumber(ARGV[9]) ~= (task.attempt or 1) then
  return {'attempt', task.attempt or 1}
end
local created, wish = integer(task.createdAt), task.cancelRequested == true and 1 or 0
remove_named(KEYS[4], ARGV[18], kept[2], created)
local out = open_output(KEYS[5], KEYS[6], created)
local epoch, seq, newest, last, reached = tonumber(ARGV[11]), tonumber(ARGV[12])
if ARGV[10] ~= '' and out.kind then
  newest, last, reached = string.match(redis.call('HGET', KEYS[5], 'p ' .. ARGV[10]) or '', '^(%d+) (%d+) (%d+)$')
  newest, last, reached = tonumber(newest), tonumber(last), tonumber(reached)
  if newest and epoch == newest and seq <= last then
    return {'repeat', reached, full(out.epoch), wish}
  end
end
if task.status ~= 'pending' and task.status ~= 'running' then
  return {'ended'}
end
local names = output_names(kept[2], created)
local refusal = refuse_output(out, ARGV[6], ARGV[5], names, tonumber(ARGV[17]))
if refusal then
  return refusal
end
if ARGV[10] ~= '' then
  if not newest or epoch > newest then
    if seq ~= 0 then
      return {'begin'}
    end
  elseif epoch < newest then
    return {'fenced', newest, last + 1}
  elseif seq > last + 1 then
    return {'gap', newest, last + 1}
  end
end
wrote()
local before = out.offset
append_output(out, KEYS[4], ARGV[5], names, ARGV[6], ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[13]))
save_output(out)
redis.call('ZADD', KEYS[7], string.format('%d', now), ARGV[18])
if ARGV[10] ~= '' then
  redis.call('HSET', KEYS[5], 'p ' .. ARGV[10], ARGV[11] .. ' ' .. ARGV[12] .. ' ' .. integer(out.offset))
end
remember(integer(out.offset) .. ' ' .. full(out.epoch))
if ARGV[14] ~= '' then
  redis.call('PUBLISH', ARGV[14], output_notice(out, before, ARGV[16], ARGV[15]))
end
return {ok(), out.offset, full(out.epoch), wish, before, out.trimmed}
