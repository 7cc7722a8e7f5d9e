-- Takes out of use what cannot be read, as long as it is still that, and keeps it aside.
-- KEYS: 2 where it is kept, 3 inbox, history, task, or a key or hash of presence, 4 messages of a history
-- ARGV: 3 kind, 4 name, 5 offset or field, or '', 6 body, 7 reason, 8 how many are kept, 9 to 11 the inbox' ttls
local kind, place, body = ARGV[3], ARGV[5], ARGV[6]
local taken = false
if kind == 'inbox' then
  if (redis.call('HGET', KEYS[3], place) or '') == body then
    local box = open(KEYS[3], now)
    local at = find(box, tonumber(place))
    if at then
      wrote()
      evict(box, at, true)
      save(box, {tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])})
      taken = true
    end
  end
elseif kind == 'history' then
  local entry = redis.call('XRANGE', KEYS[4], place, place)[1]
  if entry and (entry[2][2] or '') == body then
    wrote()
    redis.call('XDEL', KEYS[4], entry[1])
    -- Nobody resumes over it.
    local damaged = tonumber(redis.call('HGET', KEYS[3], 'damaged') or 0)
    redis.call('HSET', KEYS[3], 'damaged', string.format('%d', math.max(damaged, tonumber(place))))
    taken = true
  end
elseif kind == 'task' then
  taken = redis.call('HGET', KEYS[3], 'state') == body and redis.call('DEL', KEYS[3]) == 1
elseif place ~= '' then
  taken = redis.call('HGET', KEYS[3], place) == body and redis.call('HDEL', KEYS[3], place) == 1
else
  taken = redis.call('GET', KEYS[3]) == body and redis.call('DEL', KEYS[3]) == 1
end
if taken then
  redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[8], '*', 'kind', kind, 'name', ARGV[4], 'offset', place, 'body', body,
    'reason', ARGV[7], 'at', string.format('%d', now))
end
return {ok(), taken and 1 or 0}
