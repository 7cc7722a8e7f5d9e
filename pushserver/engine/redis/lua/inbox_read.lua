-- KEYS[2]: inbox    ARGV: 3 after ('': the cursor), 4 limit, 5 to 7 the inbox' ttls, 8 how many bytes (0: no limit)
-- Returns newest, epoch, acked, lost, how many of these beyond the page, pending, the epoch before, whether the bytes
-- ended the page, how many are unread of each class, then offset, publication, and when it was read, or '', in turns.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])})
local after = tonumber(ARGV[3]) or box.acked
local answer = {ok(), box.offset, full(box.epoch), box.acked, lost_after(box, after), 0, pending(box, after), previous(KEYS[2], box.epoch), 0,
  box.unread[1], box.unread[2], box.unread[3]}
local last = after
local left, room, bounded = tonumber(ARGV[4]), tonumber(ARGV[8]), tonumber(ARGV[8]) > 0
local at = up_to(box, after) + 1
while at <= count(box) and left > 0 and answer[9] == 0 do
  local fields = {}
  for place = at, math.min(at + math.min(BODIES, left) - 1, count(box)) do
    local offset = record(box, place)
    fields[#fields + 1] = string.format('%d', offset)
    fields[#fields + 1] = string.format('r%d', offset)
  end
  local found = redis.call('HMGET', KEYS[2], unpack(fields))
  for i = 1, #fields, 2 do
    local body = found[i] or ''
    room = room - #body
    if bounded and room < 0 and last > after then
      answer[9] = 1
      break
    end
    left = left - 1
    last = record(box, at)
    at = at + 1
    answer[#answer + 1] = last
    answer[#answer + 1] = body
    answer[#answer + 1] = found[i + 1] or ''
  end
end
answer[6] = lost_after(box, last)
return answer
