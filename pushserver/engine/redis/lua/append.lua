-- KEYS[4]: inbox, KEYS[5]: the timers of what is not read
-- ARGV: 5 live channel ('': who kept it publishes it), 6 publication, 7 message id, 8 'chat' or '', 9 ttl or '', 10 collapse key,
--       11 size, 12 chat size, 13 ttl of every message, 14 how many ends of tasks, 15 to 17 the inbox' ttls,
--       18 until when it should be read, ms from now, or '', 19 the user
-- Returns offset, epoch, and what the nodes are told of the message that it replaces, or ''.
wrote()
local box = open(KEYS[4], now)
local rules = {size = tonumber(ARGV[11]), chat_size = tonumber(ARGV[12]), ttl = tonumber(ARGV[13]), task_size = tonumber(ARGV[14])}
local replaced = append(box, ARGV[6], ARGV[8] == 'chat' and CHATS or OTHER, tonumber(ARGV[9]), ARGV[10], rules, now)
save(box, {tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])})
local position = string.format('%d', box.offset) .. ' ' .. full(box.epoch)
remember(position .. ' ' .. ARGV[7])
if ARGV[18] ~= '' then
  redis.call('ZADD', KEYS[5], string.format('%d', now + ARGV[18]),
    string.format('%d', box.offset) .. ' ' .. box.epoch .. ' ' .. ARGV[19])
end
local told = replaced and deletion_of(box, string.format('%d', replaced)) or ''
if ARGV[5] ~= '' then
  -- Where nobody is there, nobody has to be told how many went.
  if redis.call('PUBLISH', ARGV[5], positioned(box.offset, box.epoch) .. ARGV[6]) == 0 then
    noticed = ''
  end
  if told ~= '' then
    redis.call('PUBLISH', ARGV[5], 'i -\n' .. told)
  end
end
return {ok(), box.offset, full(box.epoch), told}
