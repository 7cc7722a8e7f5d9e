-- KEYS[2]: inbox
-- ARGV: 3 before ('': from the newest), 4 limit, 5 'unread' or '', 6 to 8 the inbox' ttls, 9 how many bytes (0: no limit)
-- Returns newest, epoch, the epoch before, how many are unread of each class, whether there are older ones, then offset,
-- publication, and when it was read, or '', in turns, newest first.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])})
local answer = {ok(), box.offset, full(box.epoch), previous(KEYS[2], box.epoch), box.unread[1], box.unread[2], box.unread[3], 0}
local unread_left = box.unread[1] + box.unread[2] + box.unread[3]
local left, room = tonumber(ARGV[4]), tonumber(ARGV[9])
for at = ARGV[3] == '' and count(box) or up_to(box, tonumber(ARGV[3]) - 1), 1, -1 do
  if ARGV[5] == 'unread' and unread_left == 0 then
    break
  end
  local offset = record(box, at)
  local read = read_at(box, offset)
  unread_left = unread_left - (read and 0 or 1)
  if not (read and ARGV[5] == 'unread') then
    local body = left > 0 and redis.call('HGET', KEYS[2], string.format('%d', offset)) or ''
    room = room - #body
    if left <= 0 or tonumber(ARGV[9]) > 0 and room < 0 and #answer > 8 then
      answer[8] = 1
      break
    end
    left = left - 1
    answer[#answer + 1] = offset
    answer[#answer + 1] = body
    answer[#answer + 1] = read or ''
  end
end
return answer
