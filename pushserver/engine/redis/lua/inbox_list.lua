-- KEYS[2]: inbox
-- ARGV: 3 before ('': from the newest), 4 limit, 5 'unread' or '', 6 to 8 the inbox' ttls, 9 how many bytes (0: no limit)
-- Returns newest, epoch, the epoch before, how many are unread of each class, whether there are older ones, then offset,
-- publication, and when it was read, or '', in turns, newest first.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])})
local answer = {ok(), box.offset, full(box.epoch), previous(KEYS[2], box.epoch), box.unread[1], box.unread[2], box.unread[3], 0}
local limit, room = tonumber(ARGV[4]), tonumber(ARGV[9])
local newest = ARGV[3] == '' and count(box) or up_to(box, tonumber(ARGV[3]) - 1)
local bounded = room > 0
-- What was read is passed over by a search in its bytes, backwards.
local backwards = ARGV[5] == 'unread' and string.reverse(string.sub(box.read, 1, newest))
-- Where the messages stand that are wanted, and one more, which says that there are more.
local wanted, step = {}, 0
while #wanted <= limit do
  step = step + 1
  if backwards then
    step = string.find(backwards, UNREAD, step, true)
  end
  if not step or step > newest then
    break
  end
  wanted[#wanted + 1] = newest - step + 1
end
if #wanted > limit then
  answer[8] = 1
  wanted[#wanted] = nil
end
local at, whole = 1, true
while at <= #wanted and whole do
  local fields = {}
  for i = at, math.min(at + BODIES - 1, #wanted) do
    local offset = record(box, wanted[i])
    fields[#fields + 1] = string.format('%d', offset)
    fields[#fields + 1] = string.format('r%d', offset)
  end
  local found = redis.call('HMGET', KEYS[2], unpack(fields))
  for i = 1, #fields, 2 do
    local body = found[i] or ''
    room = room - #body
    if bounded and room < 0 and at > 1 then
      answer[8], whole = 1, false
      break
    end
    answer[#answer + 1] = record(box, wanted[at])
    answer[#answer + 1] = body
    answer[#answer + 1] = found[i + 1] or ''
    at = at + 1
  end
end
return answer
