-- KEYS[2]: inbox    ARGV: 3 after ('': the cursor), 4 limit, 5 to 7 the inbox' ttls, 8 how many bytes (0: no limit)
-- Returns newest, epoch, acked, lost, how many of these beyond the page, pending, the epoch before, whether the bytes
-- ended the page, how many are unread of each class, then offset, publication, and when it was read, or '', in turns.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])})
local after = tonumber(ARGV[3]) or box.acked
local answer = {ok(), box.offset, full(box.epoch), box.acked, lost_after(box, after), 0, pending(box, after), previous(KEYS[2], box.epoch), 0,
  box.unread[1], box.unread[2], box.unread[3]}
local first, wanted = up_to(box, after) + 1, {}
for place = first, math.min(first + tonumber(ARGV[4]) - 1, count(box)) do
  wanted[#wanted + 1] = place
end
local told = add_messages(box, wanted, tonumber(ARGV[8]), answer)
if told < #wanted then
  answer[9] = 1
end
answer[6] = lost_after(box, told > 0 and record(box, wanted[told]) or after)
return answer
