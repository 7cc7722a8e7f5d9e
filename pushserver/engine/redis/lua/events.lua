-- The outbox: a stream of entries <ms>-<number> with one field, `event`, and a hash beside it:
--   ms, number: of the newest entry     bytes: of all events that are kept
--   floor: the newest entry that is gone     dropped: how many went before their time
-- `told` is packed: how long an event is kept in ms, how many bytes of them, and the events, each from behind its id on.
local function trim_events(stream, state, retention, max_bytes, bytes)
  local oldest, dropped, floor = milliseconds() - retention, 0, nil
  -- A bounded step: what is left goes with the next ones.
  for _ = 1, 50 do
    local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', 20)
    local gone = {}
    for _, entry in ipairs(entries) do
      local old = tonumber(string.match(entry[1], '^(%d+)')) <= oldest
      if bytes <= max_bytes and not old then
        break
      end
      bytes = math.max(0, bytes - #(entry[2][2] or ''))
      dropped = dropped + (old and 0 or 1)
      gone[#gone + 1] = entry[1]
      floor = entry[1]
    end
    if #gone > 0 then
      redis.call('XDEL', stream, unpack(gone))
    end
    if #gone < 20 then
      break
    end
  end
  if floor then
    redis.call('HSET', state, 'floor', floor)
  end
  if dropped > 0 then
    redis.call('HINCRBY', state, 'dropped', dropped)
  end
  redis.call('HSET', state, 'bytes', string.format('%d', bytes))
end

local function emit(stream, state, told)
  local retention, max_bytes, events = unpack(cmsgpack.unpack(told))
  local known = redis.call('HMGET', state, 'ms', 'number', 'bytes')
  local ms, number = math.max(milliseconds(), tonumber(known[1] or 0)), tonumber(known[2] or 0)
  local bytes = tonumber(known[3] or 0)
  for _, rest in ipairs(events) do
    number = number + 1
    local id = string.format('%d-%d', ms, number)
    local event = '{"id":"' .. id .. '",' .. rest
    redis.call('XADD', stream, id, 'event', event)
    bytes = bytes + #event
  end
  redis.call('HSET', state, 'ms', string.format('%d', ms), 'number', string.format('%d', number),
    'bytes', string.format('%d', bytes))
  if bytes > max_bytes then
    trim_events(stream, state, retention, max_bytes, bytes)
  end
end
