-- KEYS[4]: history, KEYS[5]: messages
-- ARGV: 5 live channel ('': who kept it publishes it), 6 publication, 7 message id, 8 size (0: not kept), 9 ttl,
--       10 position ttl, 11 tag, 12 how many bytes are kept at most, 13 '1' where this may be the channel's first, or '0'
if ARGV[8] == '0' then
  remember('0 - ' .. ARGV[7])
  redis.call('PUBLISH', ARGV[5], 'm ' .. ARGV[11] .. '\n' .. ARGV[6])
  return {ok()}
end
local known = redis.call('HMGET', KEYS[4], 'epoch', 'offset', 'ends', 'written', 'counted_from', 'generation', 'moves')
local epoch = known[1]
if not epoch and ARGV[13] == '0' then
  return {'absent'}
end
wrote()
if not epoch then
  epoch = first_epoch(KEYS[4])
  redis.call('HSET', KEYS[4], 'epoch', epoch)
  redis.call('DEL', KEYS[5])
end
local offset = tonumber(known[2] or 0) + 1
local moves = moved(known[6], known[7], offset - 1)
if moves then
  redis.call('HSET', KEYS[4], 'generation', generation, 'moves', moves)
end
local ends = now + ARGV[9]
-- `ends` is when the newest entry ends, as long as each is known to end no earlier than the one before it.
-- `written` is how many bytes the channel was given, up to and with an entry as the entry's second field: what is kept is
-- a difference of two of them. Entries of an older version have none.
local written = tonumber(known[4] or 0) + #ARGV[6]
local ordered = offset == 1 or known[3] and ends >= tonumber(known[3])
redis.call('HSET', KEYS[4], 'offset', string.format('%d', offset), 'written', string.format('%d', written),
  'ends', ordered and string.format('%d', ends) or '')
if not ordered then
  redis.call('HDEL', KEYS[4], 'ends')
end
redis.call('XADD', KEYS[5], 'MAXLEN', '=', ARGV[8], string.format('%d-%d', offset, ends), 'd', ARGV[6],
  'n', string.format('%d', written))
local bound = tonumber(ARGV[12])
if written - tonumber(known[5] or 0) > bound then
  local head, counted_from, first = '-', nil, nil
  repeat
    local entries = redis.call('XRANGE', KEYS[5], head, '+', 'COUNT', 10)
    for _, entry in ipairs(entries) do
      local total = tonumber(entry[2][4])
      head = '(' .. entry[1]
      -- What is not counted goes with the next one that has to go.
      if total then
        local number = tonumber(string.match(entry[1], '^(%d+)'))
        counted_from = total - #entry[2][2]
        if number == offset or written - counted_from <= (first and bound - math.floor(bound / 16) or bound) then
          head = nil
          break
        end
        first = number + 1
      end
    end
  until #entries == 0 or not head
  if first then
    redis.call('XTRIM', KEYS[5], 'MINID', '=', string.format('%d', first))
  end
  redis.call('HSET', KEYS[4], 'counted_from', string.format('%d', counted_from))
end
extend(KEYS[4], ARGV[10])
extend(KEYS[5], ARGV[9])
remember(offset .. ' ' .. full(epoch) .. ' ' .. ARGV[7])
if ARGV[5] ~= '' then
  redis.call('PUBLISH', ARGV[5], positioned(offset, epoch) .. ARGV[6])
end
return {ok(), offset, full(epoch)}
