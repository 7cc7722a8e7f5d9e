-- KEYS[2]: inbox
-- ARGV: 3 before ('': from the newest), 4 limit, 5 'unread' or '', 6 to 8 the inbox' ttls, 9 how many bytes (0: no limit)
-- Returns newest, epoch, the epoch before, how many are unread of each class, whether there are older ones, then offset,
-- publication, and when it was read, or '', in turns, newest first.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])})
local answer = {ok(), box.offset, full(box.epoch), previous(KEYS[2], box.epoch), box.unread[1], box.unread[2], box.unread[3], 0}
local unread_left = box.unread[1] + box.unread[2] + box.unread[3]
local left, room = tonumber(ARGV[4]), tonumber(ARGV[9])
local newest = ARGV[3] == '' and count(box) or up_to(box, tonumber(ARGV[3]) - 1)
-- One more than is wanted, which says that there are more; where what was read is passed over, as many as may be.
local step = ARGV[5] == 'unread' and CHUNK or math.min(CHUNK, left + 1)
local at, places, read = newest, {}, {}
while at >= 1 and not (ARGV[5] == 'unread' and unread_left == 0) do
  local place = (newest - at) % step + 1
  if place == 1 then
    places = {}
    for each = at, math.max(1, at - step + 1), -1 do
      places[#places + 1] = each
    end
    read = marks(box, places, 1, #places)
  end
  unread_left = unread_left - (read[place] and 0 or 1)
  if not (read[place] and ARGV[5] == 'unread') then
    local offset = record(box, at)
    local body = left > 0 and redis.call('HGET', KEYS[2], string.format('%d', offset)) or ''
    room = room - #body
    if left <= 0 or tonumber(ARGV[9]) > 0 and room < 0 and #answer > 8 then
      answer[8] = 1
      break
    end
    left = left - 1
    answer[#answer + 1] = offset
    answer[#answer + 1] = body
    answer[#answer + 1] = read[place] or ''
  end
  at = at - 1
end
return answer
