-- ARGV: 3 how long an output was not looked at, ms, 4 how many are looked at, 5 what a task's key begins with
-- Nodes of an older version end tasks, and begin them anew, without a word to their outputs: these are closed here, or
-- removed. Of a task that is gone they are removed too.
local due = redis.call('ZRANGE', writing, '-inf', integer(now - ARGV[3]), 'BYSCORE', 'LIMIT', 0, ARGV[4])
for _, place in ipairs(due) do
  local key, chunks = keys_of_output(place)
  local id = string.match(place, '/(.*)$')
  local state = redis.call('HGET', ARGV[5] .. id, 'state')
  local readable, task = pcall(cjson.decode, state or '')
  local out = open_output(key, chunks, state and readable and integer(task.createdAt) or '')
  if state and not readable then
    redis.call('ZADD', writing, integer(now), place)
  elseif out.stale then
    remove_earlier(out)
  elseif not out.kind or out.closed then
    redis.call('ZREM', writing, place)
  elseif task.status ~= 'pending' and task.status ~= 'running' then
    close_output(out, redis.call('PTTL', ARGV[5] .. id))
  else
    redis.call('ZADD', writing, integer(now), place)
  end
end
return {ok(), #due}
