-- KEYS[2]: inbox    ARGV: 3 after ('': the cursor), 4 limit, 5 to 7 the inbox' ttls
-- Answers newest, epoch, acked, lost, pending, then offset and publication in turns.
local box = open(KEYS[2], now, ARGV[2])
save(box, {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])})
local after = tonumber(ARGV[3]) or box.acked
local answer = {'ok', box.offset, full(box.epoch), box.acked, lost_after(box, after), pending(box)}
local left = tonumber(ARGV[4])
for _, entry in ipairs(box.index) do
  if left <= 0 then
    break
  end
  if entry[1] > after then
    left = left - 1
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = redis.call('HGET', KEYS[2], string.format('%d', entry[1]))
  end
end
return answer
