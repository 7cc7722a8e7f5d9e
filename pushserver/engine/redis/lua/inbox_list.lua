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
local only_unread, bounded = ARGV[5] == 'unread', room > 0
-- One more than is wanted, which says that there are more; where what was read is passed over, as many as may be.
local step = only_unread and CHUNK or math.min(CHUNK, left + 1)
local at = newest
while at >= 1 and answer[8] == 0 and not (only_unread and unread_left == 0) do
  local places, wanted = {}, {}
  for place = at, math.max(1, at - step + 1), -1 do
    places[#places + 1] = place
  end
  local read = marks(box, places, 1, #places)
  for i in ipairs(places) do
    unread_left = unread_left - (read[i] and 0 or 1)
    if not (read[i] and only_unread) then
      wanted[#wanted + 1] = i
    end
  end
  local first = 1
  while first <= #wanted and answer[8] == 0 do
    local fields = {}
    for i = first, math.min(first + math.min(BODIES, left) - 1, #wanted) do
      fields[#fields + 1] = string.format('%d', (record(box, places[wanted[i]])))
    end
    local found = #fields > 0 and redis.call('HMGET', KEYS[2], unpack(fields)) or {}
    if #fields == 0 then
      answer[8] = 1
    end
    for i = 1, #fields do
      local body = found[i] or ''
      room = room - #body
      if bounded and room < 0 and #answer > 8 then
        answer[8] = 1
        break
      end
      left = left - 1
      answer[#answer + 1] = record(box, places[wanted[first]])
      answer[#answer + 1] = body
      answer[#answer + 1] = read[wanted[first]] or ''
      first = first + 1
    end
  end
  at = at - #places
end
return answer
