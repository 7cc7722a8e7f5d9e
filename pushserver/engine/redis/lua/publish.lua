-- KEYS[4]: history, KEYS[5]: messages
-- ARGV: 5 live channel ('': who kept it publishes it), 6 publication, 7 message id, 8 size (0: not kept), 9 ttl, 10 position ttl, 11 tag
if ARGV[8] == '0' then
  remember('0 - ' .. ARGV[7])
  redis.call('PUBLISH', ARGV[5], 'm ' .. ARGV[11] .. '\n' .. ARGV[6])
  return {'ok'}
end
local known = redis.call('HMGET', KEYS[4], 'epoch', 'offset', 'ends')
local epoch = known[1]
if not epoch then
  epoch = ARGV[2]
  redis.call('HSET', KEYS[4], 'epoch', epoch)
  redis.call('DEL', KEYS[5])
end
local offset = tonumber(known[2] or 0) + 1
local ends = now + ARGV[9]
-- `ends` is when the newest entry ends, as long as each is known to end no earlier than the one before it.
if offset == 1 or known[3] and ends >= tonumber(known[3]) then
  redis.call('HSET', KEYS[4], 'offset', string.format('%d', offset), 'ends', string.format('%d', ends))
else
  redis.call('HSET', KEYS[4], 'offset', string.format('%d', offset))
  redis.call('HDEL', KEYS[4], 'ends')
end
redis.call('XADD', KEYS[5], 'MAXLEN', '=', ARGV[8], string.format('%d-%d', offset, ends), 'd', ARGV[6])
extend(KEYS[4], ARGV[10])
extend(KEYS[5], ARGV[9])
remember(offset .. ' ' .. full(epoch) .. ' ' .. ARGV[7])
if ARGV[5] ~= '' then
  redis.call('PUBLISH', ARGV[5], 'p ' .. offset .. ' ' .. full(epoch) .. '\n' .. ARGV[6])
end
return {'ok', offset, full(epoch)}
