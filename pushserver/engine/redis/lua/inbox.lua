-- An inbox is one hash: epoch, offset, acked, the messages under their offsets, generation and moves (`moved`), and
--   index:    17 bytes for each kept message, ascending: offset, kind, when it ends. It is cut and joined, not decoded:
--             an inbox in use is always full, and most appends touch its two ends only
--   chats, next: how many of these are chat, and a time before which none ends
--   lost:     packed {first, last, how many} of each stretch of messages that went by the inbox' limits, ascending
--   collapse: packed offsets by collapse key; some may be gone
local CHAT, OWN = 1, 2
local STRETCHES = 64
local RECORD, FORMAT = 17, '>I8BI8'

local function count(box)
  return #box.index / RECORD
end

-- offset, kind, when it ends
local function record(box, at)
  return struct.unpack(FORMAT, box.index, (at - 1) * RECORD + 1)
end

local function lose(box, offset)
  local lost = box.lost
  local at = #lost + 1
  for i, stretch in ipairs(lost) do
    if stretch[1] > offset then
      at = i
      break
    end
  end
  local before, after = lost[at - 1], lost[at]
  if before and before[2] == offset - 1 then
    before[2] = offset
    before[3] = before[3] + 1
    if after and after[1] == offset + 1 then
      before[2] = after[2]
      before[3] = before[3] + after[3]
      table.remove(lost, at)
    end
  elseif after and after[1] == offset + 1 then
    after[1] = offset
    after[3] = after[3] + 1
  else
    table.insert(lost, at, {offset, offset, 1})
  end
  box.lost_changed = true
  if #lost > STRETCHES then
    local second = table.remove(lost, 2)
    lost[1] = {lost[1][1], second[2], lost[1][3] + second[3]}
  end
end

local function lost_after(box, offset)
  local sum = 0
  for _, stretch in ipairs(box.lost) do
    if stretch[1] > offset then
      sum = sum + stretch[3]
    elseif stretch[2] > offset then
      sum = sum + math.min(stretch[3], stretch[2] - offset)
    end
  end
  return sum
end

local function remove(box, at, lost)
  local offset, kind = record(box, at)
  box.index = string.sub(box.index, 1, (at - 1) * RECORD) .. string.sub(box.index, at * RECORD + 1)
  box.chats = box.chats - kind % 2
  redis.call('HDEL', box.key, string.format('%d', offset))
  if lost then
    lose(box, offset)
  end
  box.changed = true
end

local function find(box, offset)
  for at = count(box), 1, -1 do
    local here = record(box, at)
    if here <= offset then
      return here == offset and at or nil
    end
  end
end

-- What was packed; nil where that is damaged.
local function unpacked(text)
  local whole, value = pcall(cmsgpack.unpack, text)
  return whole and type(value) == 'table' and value or nil
end

local function open(key, now)
  local known = redis.call('HMGET', key, 'epoch', 'offset', 'acked', 'index', 'lost', 'chats', 'next', 'generation', 'moves')
  local box = {
    key = key,
    epoch = known[1] or derived(key, 0),
    offset = tonumber(known[2] or 0),
    acked = tonumber(known[3] or 0),
    index = known[4] or '',
    -- How many were lost nobody knows where that is damaged; that there were some is told.
    lost = not known[5] and {} or unpacked(known[5]) or {{tonumber(known[2]), tonumber(known[2]), 1}},
    chats = tonumber(known[6] or 0),
    next = tonumber(known[7] or 0),
    written_in = known[8],
    moves = known[9],
    exists = known[1] and true,
    changed = false,
  }
  if box.index ~= '' and box.next <= now then
    box.next = math.huge
    for at = count(box), 1, -1 do
      local _, kind, ends = record(box, at)
      if ends <= now then
        remove(box, at, kind < OWN)
      else
        box.next = math.min(box.next, ends)
      end
    end
    box.changed = true
  end
  if box.index == '' then
    box.next = math.huge
  end
  return box
end

-- ttls: of an inbox that never had a message, of one that had, and of one with unread messages lost
local function save(box, ttls)
  if not box.exists and not box.changed then
    return
  end
  if box.changed then
    redis.call('HSET', box.key, 'epoch', box.epoch, 'offset', string.format('%d', box.offset),
      'acked', string.format('%d', box.acked), 'index', box.index, 'chats', box.chats,
      'next', box.next < math.huge and string.format('%d', box.next) or '0')
    if box.lost_changed then
      redis.call('HSET', box.key, 'lost', cmsgpack.pack(box.lost))
    end
  end
  local ttl = box.offset == 0 and ttls[1] or lost_after(box, box.acked) > 0 and ttls[3] or ttls[2]
  if box.changed or redis.call('PTTL', box.key) < ttl / 2 then
    redis.call('PEXPIRE', box.key, ttl)
  end
end

-- How many are kept after an offset.
local function pending(box, after)
  local waiting = 0
  for at = count(box), 1, -1 do
    if record(box, at) <= after then
      break
    end
    waiting = waiting + 1
  end
  return waiting
end

-- Whether a message is kept and was not read.
local function unread(box, offset, epoch)
  return box.epoch == epoch and find(box, offset) ~= nil
end

-- Takes out an unread message with the same key, and remembers the new one.
local function collapse_into(box, key, limit)
  local known = redis.call('HGET', box.key, 'collapse')
  local keys = known and unpacked(known) or {}
  local earlier = keys[key]
  if earlier and earlier > box.acked then
    local at = find(box, earlier)
    if at then
      remove(box, at, false)
    end
  end
  keys[key] = box.offset + 1
  local held = 0
  for _ in pairs(keys) do
    held = held + 1
  end
  if held > limit then
    for each, offset in pairs(keys) do
      if offset <= box.offset and not find(box, offset) then
        keys[each] = nil
      end
    end
  end
  redis.call('HSET', box.key, 'collapse', cmsgpack.pack(keys))
end

local function append(box, body, chat, ttl, collapse, rules, now)
  if collapse ~= '' then
    collapse_into(box, collapse, 2 * rules.size)
  end
  box.epoch = box.exists and box.epoch or first_epoch(box.key)
  local moves = moved(box.written_in, box.moves, box.offset)
  if moves then
    redis.call('HSET', box.key, 'generation', generation, 'moves', moves)
  end
  box.offset = box.offset + 1
  box.changed = true
  local own = ttl ~= nil and ttl < rules.ttl
  local ends = now + (own and ttl or rules.ttl)
  box.index = box.index .. struct.pack(FORMAT, box.offset, (chat and CHAT or 0) + (own and OWN or 0), ends)
  box.next = math.min(box.next, ends)
  box.chats = box.chats + (chat and 1 or 0)
  redis.call('HSET', box.key, string.format('%d', box.offset), body)
  -- Chat gives way to what is unread and matters more, but not to what was read: acknowledging deletes nothing.
  while box.chats > rules.chat_size or (chat and count(box) > rules.size and record(box, 1) > box.acked) do
    for at = 1, count(box) do
      local _, kind = record(box, at)
      if kind % 2 == CHAT then
        remove(box, at, true)
        break
      end
    end
  end
  while count(box) > rules.size do
    remove(box, 1, true)
  end
end
