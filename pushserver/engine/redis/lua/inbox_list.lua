-- KEYS[2]: inbox
-- ARGV: 3 before ('': from the newest), 4 limit, 5 'unread' or '', 6 to 8 the inbox' ttls, 9 how many bytes (0: no limit)
-- Returns newest, epoch, the epoch before, how many are unread of each class, whether there are older ones, then offset,
-- publication, and when it was read, or '', in turns, newest first.
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])})
local answer = {ok(), box.offset, full(box.epoch), previous(KEYS[2], box.epoch), box.unread[1], box.unread[2], box.unread[3], 0}
local limit = tonumber(ARGV[4])
local newest = ARGV[3] == '' and count(box) or up_to(box, tonumber(ARGV[3]) - 1)
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
if add_messages(box, wanted, tonumber(ARGV[9]), answer) < #wanted then
  answer[8] = 1
end
return answer
