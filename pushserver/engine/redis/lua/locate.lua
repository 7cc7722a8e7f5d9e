-- KEYS[2]: a hash with an epoch and an offset    ARGV: 3 epoch, 4 offset, of a position
-- Returns the epoch in which the offset stands now, or '' where what it covers may be lost.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'moves')
local epoch = known[1] or derived(KEYS[2], 0)
local earlier, base = string.match(ARGV[3], '^(.*)%.(.-)$')
local offset = tonumber(ARGV[4])
local limit = tonumber(known[2] or 0)
if base ~= epoch then
  return {ok(), ''}
end
if earlier ~= generation then
  -- In the order in which they came about, as this data knows it. Where the data went back, so did the list.
  local order, number = {}, 0
  for each in string.gmatch(redis.call('HGET', KEYS[1], 'generations') or '', '%S+') do
    number = number + 1
    order[each] = number
  end
  if not order[earlier] then
    return {ok(), ''}
  end
  -- What was written in later generations stands from these offsets on: those may have been given out before.
  local moves, oldest = 0, nil
  for each, from in string.gmatch(known[3] or '', '(%S+):(%d+)') do
    moves, oldest = moves + 1, each
    if order[each] and order[each] > order[earlier] then
      limit = math.min(limit, tonumber(from))
    end
  end
  if moves == MOVES and (order[oldest] or 0) > order[earlier] then
    return {ok(), ''}
  end
end
return {ok(), offset <= limit and full(epoch) or ''}
