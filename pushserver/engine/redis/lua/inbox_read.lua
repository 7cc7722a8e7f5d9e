-- KEYS[2]: inbox    ARGV: 3 after ('': the cursor), 4 limit, 5 to 7 the inbox' ttls, 8 how many bytes (0: no limit)
-- Returns newest, epoch, acked, lost, how many of these beyond the page, pending, the epoch before, whether the bytes
-- ended the page, how many are unread of each class, then offset, publication, and when it was read, or '', in turns.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])})
local after = tonumber(ARGV[3]) or box.acked
local answer = {ok(), box.offset, full(box.epoch), box.acked, lost_after(box, after), 0, pending(box, after), previous(KEYS[2], box.epoch), 0,
  box.unread[1], box.unread[2], box.unread[3]}
local last = after
local left, room = tonumber(ARGV[4]), tonumber(ARGV[8])
for at = up_to(box, after) + 1, count(box) do
  if left <= 0 then
    break
  end
  local offset = record(box, at)
  local body = redis.call('HGET', KEYS[2], string.format('%d', offset)) or ''
  room = room - #body
  if tonumber(ARGV[8]) > 0 and room < 0 and last > after then
    answer[9] = 1
    break
  end
  left = left - 1
  last = offset
  answer[#answer + 1] = offset
  answer[#answer + 1] = body
  answer[#answer + 1] = read_at(box, offset) or ''
end
answer[6] = lost_after(box, last)
return answer
