-- KEYS[4]: inbox, KEYS[5]: the timers of what is not read
-- ARGV: 5 live channel ('': who kept it publishes it), 6 publication, 7 message id, 8 'chat' or '', 9 ttl or '', 10 collapse key,
--       11 size, 12 chat size, 13 ttl of every message, 14 to 16 the inbox' ttls,
--       17 until when it should be read, ms from now, or '', 18 the user
wrote()
local box = open(KEYS[4], now)
local rules = {size = tonumber(ARGV[11]), chat_size = tonumber(ARGV[12]), ttl = tonumber(ARGV[13])}
append(box, ARGV[6], ARGV[8] == 'chat', tonumber(ARGV[9]), ARGV[10], rules, now)
save(box, {tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])})
local position = string.format('%d', box.offset) .. ' ' .. full(box.epoch)
remember(position .. ' ' .. ARGV[7])
if ARGV[17] ~= '' then
  redis.call('ZADD', KEYS[5], string.format('%d', now + ARGV[17]),
    string.format('%d', box.offset) .. ' ' .. box.epoch .. ' ' .. ARGV[18])
end
if ARGV[5] ~= '' then
  redis.call('PUBLISH', ARGV[5], positioned(box.offset, box.epoch) .. ARGV[6])
end
return {ok(), box.offset, full(box.epoch)}
