-- KEYS: 2 the webhook, 3 its subjects, 4 what it holds, 5 events, 6 their state    ARGV: 2 how long ago it begins, ms,
-- 3 when data was lost last, ms, or 1
-- Returns the cursor, the address whose receiver is gone, how many events are held, then subject and state in turns.
local cursor, gone = unpack(redis.call('HMGET', KEYS[2], 'cursor', 'gone'))
if not cursor then
  local since, lost = milliseconds() - ARGV[2], tonumber(ARGV[3])
  -- The cursor may have been lost then, too: who begins soon after it begins with all that came since.
  if since > lost and since - lost < 60000 then
    since = lost
  end
  local before = redis.call('XREVRANGE', KEYS[5], string.format('%d', since - 1), '-', 'COUNT', 1)
  cursor = #before > 0 and before[1][1] or redis.call('HGET', KEYS[6], 'floor') or '0'
  redis.call('HSET', KEYS[2], 'cursor', cursor)
end
local answer = {'ok', cursor, gone or '', redis.call('ZCARD', KEYS[4])}
for _, part in ipairs(redis.call('HGETALL', KEYS[3])) do
  answer[#answer + 1] = part
end
return answer
