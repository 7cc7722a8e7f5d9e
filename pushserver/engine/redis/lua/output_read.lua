-- KEYS: 2 task, 3 output, 4 its pieces
-- ARGV: 3 the position to read on from ('': from the first that is kept), 4 its epoch behind '=' ('': whichever it is),
--       5 how many bytes
-- Returns epoch, kind, start, the newest position, whether nothing follows it, the position that the rest begins at, whether
-- some before it is gone, whether the position asked from is of another life or beyond the newest, and bytes: a few more
-- than were asked for where there are as many, or one item.
local state = redis.call('HGET', KEYS[2], 'state')
local readable, task = pcall(cjson.decode, state or '')
if not state or not readable then
  return {'unknown'}
end
local out = open_output(KEYS[3], KEYS[4], integer(task.createdAt))
local closed = task.status ~= 'pending' and task.status ~= 'running' and 1 or 0
local after, reset, trimmed = tonumber(ARGV[3]), 0, 0
if not after then
  after = out.start
elseif ARGV[4] == '' then
  after = math.min(after, out.offset)
elseif ARGV[4] ~= '=' .. full(out.epoch) or after > out.offset then
  after, reset = out.start, 1
end
if after < out.start then
  after, trimmed = out.start, 1
end
local last = math.floor(out.bytes / CHUNK)
local place = after
if out.kind == 'items' then
  place = out.first
  if after > out.start then
    -- The newest piece before which less has ended: there the item before it ends.
    local number, ended = last, out.ended
    while ended >= after do
      number = number - 1
      ended = tonumber(redis.call('HGET', KEYS[4], 'i' .. integer(number)) or 0)
    end
    local text, at = piece(out, number), 0
    for _ = 1, after - ended do
      at = string.find(text, '\n', at + 1, true)
    end
    place = number * CHUNK + at
  end
end
local parts, octets, room, whole = {}, 0, tonumber(ARGV[5]) + 4, out.kind ~= 'items'
local number = math.floor(place / CHUNK)
while after < out.offset and number <= last and not (whole and octets >= room) do
  local part = piece(out, number)
  if #parts == 0 then
    part = string.sub(part, place % CHUNK + 1)
  end
  parts[#parts + 1] = part
  octets = octets + #part
  whole = whole or string.find(part, '\n', 1, true)
  number = number + 1
end
return {ok(), full(out.epoch), out.kind or '', out.start, out.offset, closed, after, trimmed, reset, table.concat(parts)}
