-- An inbox is one hash: epoch, offset, acked, the messages under their offsets, and packed
--   index: {offset, kind, when it ends, collapse key} of each kept message, ascending
--   lost:  {first, last, how many} of each stretch of messages that went by the inbox' limits, ascending
local CHAT, OWN = 1, 2
local STRETCHES = 64

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
  local entry = table.remove(box.index, at)
  redis.call('HDEL', box.key, string.format('%d', entry[1]))
  if lost then
    lose(box, entry[1])
  end
  box.changed = true
end

local function open(key, now, fresh)
  local known = redis.call('HMGET', key, 'epoch', 'offset', 'acked', 'index', 'lost')
  local box = {
    key = key,
    epoch = known[1] or fresh,
    offset = tonumber(known[2] or 0),
    acked = tonumber(known[3] or 0),
    index = known[4] and cmsgpack.unpack(known[4]) or {},
    lost = known[5] and cmsgpack.unpack(known[5]) or {},
    changed = not known[1],
  }
  for at = #box.index, 1, -1 do
    local entry = box.index[at]
    if entry[3] <= now then
      remove(box, at, entry[2] < OWN)
    end
  end
  return box
end

-- ttls: of an inbox that never had a message, of one that had, and of one with unread messages lost
local function save(box, ttls)
  if box.changed then
    redis.call('HSET', box.key, 'epoch', box.epoch, 'offset', string.format('%d', box.offset),
      'acked', string.format('%d', box.acked), 'index', cmsgpack.pack(box.index), 'lost', cmsgpack.pack(box.lost))
  end
  local ttl = box.offset == 0 and ttls[1] or lost_after(box, box.acked) > 0 and ttls[3] or ttls[2]
  if box.changed or redis.call('PTTL', box.key) < ttl / 2 then
    redis.call('PEXPIRE', box.key, ttl)
  end
end

local function pending(box)
  local count = 0
  for at = #box.index, 1, -1 do
    if box.index[at][1] <= box.acked then
      break
    end
    count = count + 1
  end
  return count
end

local function append(box, body, chat, ttl, collapse, rules, now)
  if collapse ~= '' then
    for at = #box.index, 1, -1 do
      if box.index[at][1] > box.acked and box.index[at][4] == collapse then
        remove(box, at, false)
      end
    end
  end
  box.offset = box.offset + 1
  box.changed = true
  local own = ttl ~= nil and ttl < rules.ttl
  local kind = (chat and CHAT or 0) + (own and OWN or 0)
  box.index[#box.index + 1] = {box.offset, kind, now + (own and ttl or rules.ttl), collapse}
  redis.call('HSET', box.key, string.format('%d', box.offset), body)
  local chats = 0
  for _, entry in ipairs(box.index) do
    chats = chats + entry[2] % 2
  end
  -- Chat gives way to what is unread and matters more, but not to what was read: acknowledging deletes nothing.
  while chats > rules.chat_size or (chat and #box.index > rules.size and box.index[1][1] > box.acked) do
    for at, entry in ipairs(box.index) do
      if entry[2] % 2 == CHAT then
        remove(box, at, true)
        break
      end
    end
    chats = chats - 1
  end
  while #box.index > rules.size do
    remove(box, 1, true)
  end
end
