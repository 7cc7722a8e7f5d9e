-- An output is a hash, and a hash of its pieces beside it:
--   of: the `createdAt` of the attempt that writes it     epoch     kind     closed
--   offset: the position after the newest, and one more once it is closed     start: the first position that is kept
--   bytes: all that were appended     first: bytes before what is kept     tail: the newest piece, which is not full
--   ended: positions of items before the tail     'p ' and a producer: its epoch, its newest `seq`, the position after it
-- Pieces are of CHUNK bytes, by their numbers: each fills what is allocated for it. 'i' and a number: how many items end
-- before that piece. A piece that is full is not written again.
-- Beside them all, one hash counts the bytes that are kept: 'live' of unfinished tasks, and by the hour in which they go
-- of ended ones. A sorted set, 'writing', has '<name>/<task id>' of each output that is not closed, by when it was looked at.
local CHUNK = 8180

local HOUR = 3600000

local function integer(number)
  return string.format('%d', number)
end

local prefix = string.sub(KEYS[1], 1, -#'server' - 1)
local kept_bytes, writing = prefix .. 'outputs', prefix .. 'writing'

local function count_kept(bytes, field)
  if bytes ~= 0 then
    redis.call('HINCRBY', kept_bytes, field, integer(bytes))
  end
end

-- The field that counts what goes in so many ms.
local function goes_in(ttl)
  return integer(math.floor((now + ttl) / HOUR))
end

-- The epoch that an attempt's output has, written or not.
local function output_epoch(key, created)
  local inner = redis.sha1hex(secret .. 'output:' .. created .. ':' .. key)
  return string.sub(redis.sha1hex(secret .. inner), 1, 20)
end

-- The keys of an output and of its pieces, by its place: '<name>/<task id>'.
local function keys_of_output(place)
  return prefix .. 'output:' .. place, prefix .. 'chunks:' .. place
end

local function place_of(out)
  return string.sub(out.key, #prefix + #'output:' + 1)
end

-- Whether a Redis that evicts has left an output without its pieces.
local function in_part(key_of_pieces, first, bytes)
  return known_server[4] and math.floor(first / CHUNK) < math.floor(bytes / CHUNK)
    and redis.call('EXISTS', key_of_pieces) == 0
end

-- The output of an attempt; with `kind` nil where it was not written yet, or is gone.
local function open_output(key, chunks, created)
  local known = redis.call('HMGET', key, 'of', 'kind', 'offset', 'start', 'first', 'bytes', 'tail', 'ended', 'closed',
    'epoch')
  local out = {key = key, chunks = chunks, of = created, epoch = known[10] or output_epoch(key, created)}
  if known[1] ~= created or in_part(chunks, known[5], known[6]) then
    out.epoch = output_epoch(key, created)
    out.stale, out.stale_bytes = known[1], known[1] and known[6] - known[5]
    out.stale_closed = known[9]
    out.offset, out.start, out.first, out.bytes, out.tail, out.ended, out.closed = 0, 0, 0, 0, '', 0, false
    return out
  end
  out.kind, out.tail, out.closed = known[2], known[7], known[9]
  out.offset = tonumber(known[3]) - (out.closed and 1 or 0)
  out.start, out.first, out.bytes, out.ended =
    tonumber(known[4]), tonumber(known[5]), tonumber(known[6]), tonumber(known[8])
  return out
end

local function lines(text, to)
  local found, at = 0, 0
  repeat
    at = string.find(text, '\n', at + 1, true)
    if at and at <= to then
      found = found + 1
    end
  until not at or at > to
  return found
end

local function piece(out, number)
  if number == math.floor(out.bytes / CHUNK) then
    return out.tail
  end
  return redis.call('HGET', out.chunks, integer(number))
end

-- The first place behind a line that is not below `least` nor above `most`.
local function after_line(out, least, most)
  local at = least - 1
  while at < most do
    local number = math.floor(at / CHUNK)
    local found = string.find(piece(out, number), '\n', at - number * CHUNK + 1, true)
    if found then
      local place = number * CHUNK + found
      return place <= most and place or nil
    end
    at = (number + 1) * CHUNK
  end
  return nil
end

local function trim_output(out, max_bytes)
  local least = out.bytes - max_bytes
  if out.first >= least then
    return
  end
  local text = out.kind == 'text'
  local cut = after_line(out, least, text and least + math.floor(max_bytes / 10) or out.bytes)
  if not cut then
    cut = least
    while cut < out.bytes do
      local octet = string.byte(piece(out, math.floor(cut / CHUNK)), cut % CHUNK + 1)
      if octet < 0x80 or octet > 0xBF then
        break
      end
      cut = cut + 1
    end
  end
  local before, number = math.floor(out.first / CHUNK), math.floor(cut / CHUNK)
  out.first = cut
  if text then
    out.start = cut
  else
    local ended = number == math.floor(out.bytes / CHUNK) and out.ended
      or tonumber(redis.call('HGET', out.chunks, 'i' .. integer(number)) or 0)
    out.start = ended + lines(piece(out, number), cut % CHUNK)
  end
  for gone = before, number - 1 do
    redis.call('HDEL', out.chunks, integer(gone), 'i' .. integer(gone))
  end
end

local function has_name(names, name)
  for _, each in ipairs(names) do
    if each == name then
      return true
    end
  end
  return false
end

-- What stands against appending this: an answer, or nil.
local function refuse_output(out, kind, name, names, most)
  if out.closed then
    return {'ended'}
  end
  if out.kind and out.kind ~= kind then
    return {'kind', out.kind}
  end
  if not out.kind and #names >= most and not has_name(names, name) then
    return {'many'}
  end
  return nil
end

-- The names of an attempt's outputs, as the task's hash has them: its `createdAt`, then the names.
local function output_names(kept, created)
  local names = {}
  for each in string.gmatch(kept or '', '%S+') do
    names[#names + 1] = each
  end
  return table.remove(names, 1) == created and names or {}
end

-- Removes what an earlier attempt wrote to an output.
local function remove_earlier(out)
  if out.stale then
    count_kept(-out.stale_bytes, out.stale_closed and goes_in(redis.call('PTTL', out.key)) or 'live')
    redis.call('DEL', out.key, out.chunks)
    redis.call('ZREM', writing, place_of(out))
  end
end

-- Removes the outputs that the task's hash names, where they are of an earlier attempt: this one may not write to them.
local function remove_named(task, id, kept, created)
  local of, names = string.match(kept or '', '^(%S+)(.*)$')
  if not of or of == created then
    return
  end
  for name in string.gmatch(names, '%S+') do
    local key, chunks = keys_of_output(name .. '/' .. id)
    remove_earlier(open_output(key, chunks, created))
  end
  redis.call('HDEL', task, 'outputs')
end

-- `task`: the task's key, which outlives its outputs.
local function append_output(out, task, name, names, kind, body, count, max_bytes)
  local new = not out.kind
  if new then
    remove_earlier(out)
    out.kind = kind
    if has_name(names, name) then
      -- Redis has evicted it: what is written now is another one.
      redis.call('DEL', out.chunks)
      out.epoch = string.sub(redis.sha1hex(secret .. 'lost:' .. writes .. ':' .. now .. ':' .. out.key), 1, 20)
    else
      names[#names + 1] = name
    end
    redis.call('HSET', task, 'outputs', out.of .. ' ' .. table.concat(names, ' '))
    redis.call('HSET', out.key, 'of', out.of, 'epoch', out.epoch, 'kind', kind)
    redis.call('PEXPIRE', out.key, redis.call('PTTL', task))
    redis.call('ZADD', writing, integer(now), place_of(out))
  end
  local number, rest, full = math.floor(out.bytes / CHUNK), out.tail .. body, false
  local at = 1
  while #rest - at + 1 >= CHUNK do
    local taken = string.sub(rest, at, at + CHUNK - 1)
    redis.call('HSET', out.chunks, integer(number), taken)
    number, at, full = number + 1, at + CHUNK, true
    if kind == 'items' then
      out.ended = out.ended + lines(taken, CHUNK)
      redis.call('HSET', out.chunks, 'i' .. integer(number), integer(out.ended))
    end
  end
  out.tail = string.sub(rest, at)
  out.bytes = out.bytes + #body
  out.offset = out.offset + count
  local first = out.first
  trim_output(out, max_bytes)
  out.trimmed = out.first - first
  count_kept(#body - out.trimmed, 'live')
  if full then
    redis.call('PEXPIRE', out.chunks, redis.call('PTTL', out.key))
  end
end

local function save_output(out)
  redis.call('HSET', out.key, 'offset', integer(out.offset + (out.closed and 1 or 0)), 'start', integer(out.start),
    'first', integer(out.first), 'bytes', integer(out.bytes), 'tail', out.tail, 'ended', integer(out.ended))
  if out.closed then
    redis.call('HSET', out.key, 'closed', 1)
  end
end

-- Closes an output, which goes in so many ms.
local function close_output(out, ttl)
  out.closed = true
  save_output(out)
  count_kept(out.first - out.bytes, 'live')
  count_kept(out.bytes - out.first, goes_in(ttl))
  redis.call('PEXPIRE', out.key, ttl)
  redis.call('PEXPIRE', out.chunks, ttl)
  redis.call('ZREM', writing, place_of(out))
end

-- What nodes are told of an append or the end.
local function output_notice(out, before, timestamp, literal)
  return string.format('o %d %s %d %d %d %d\n', out.offset + (out.closed and 1 or 0), full(out.epoch), writes, before,
    timestamp, out.closed and 1 or 0) .. literal
end
