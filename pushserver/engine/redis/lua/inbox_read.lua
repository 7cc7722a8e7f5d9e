-- KEYS[2]: inbox    ARGV: 3 after ('': the cursor), 4 limit, 5 to 7 the inbox' ttls
-- Returns newest, epoch, acked, lost, how many of these beyond the page, pending, then offset and publication in turns.
local box = open(KEYS[2], now, ARGV[2])
save(box, {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])})
local after = tonumber(ARGV[3]) or box.acked
local answer = {'ok', box.offset, full(box.epoch), box.acked, lost_after(box, after), 0, pending(box, after)}
local last = after
local left = tonumber(ARGV[4])
for at = 1, count(box) do
  if left <= 0 then
    break
  end
  local offset = record(box, at)
  if offset > after then
    left = left - 1
    last = offset
    answer[#answer + 1] = offset
    answer[#answer + 1] = redis.call('HGET', KEYS[2], string.format('%d', offset))
  end
end
answer[6] = lost_after(box, last)
return answer
