-- KEYS: 1 server, 2 the timers, 3 events, 4 their state
-- ARGV: 1 generation, 2 period of epochs, 3 what an inbox' key begins with, then timer and what is told in turns
for at = 4, #ARGV, 2 do
  local timer = ARGV[at]
  local offset, epoch, user = string.match(timer, '^(%d+) (%S+) (%S+)$')
  local box = open(ARGV[3] .. user, now)
  save(box)
  -- Whoever removes the timer tells; and it may have been read since it was looked at.
  if redis.call('ZREM', KEYS[2], timer) == 1 and unread(box, tonumber(offset), epoch) then
    emit(KEYS[3], KEYS[4], ARGV[at + 1])
  end
end
return {ok()}
