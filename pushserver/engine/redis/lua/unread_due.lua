-- KEYS: 1 server, 2 the timers    ARGV: 1 generation, 2 period of epochs, 3 limit, 4 what an inbox' key begins with
-- A timer is '<offset> <epoch> <user>'. Those whose message is not kept any more, or was read, are removed.
-- Returns how many were looked at, then timer, whether a device took it, the full epoch, and the publication in turns.
local due = redis.call('ZRANGE', KEYS[2], '-inf', string.format('%d', now), 'BYSCORE', 'LIMIT', 0, ARGV[3])
local answer = {'', #due}
for _, timer in ipairs(due) do
  local offset, epoch, user = string.match(timer, '^(%d+) (%S+) (%S+)$')
  local box = open(ARGV[4] .. user, now)
  save(box)
  if unread(box, tonumber(offset), epoch) then
    answer[#answer + 1] = timer
    answer[#answer + 1] = tonumber(offset) <= box.acked and 1 or 0
    answer[#answer + 1] = full(box.epoch)
    answer[#answer + 1] = redis.call('HGET', box.key, offset)
  else
    redis.call('ZREM', KEYS[2], timer)
  end
end
answer[1] = ok()
return answer
