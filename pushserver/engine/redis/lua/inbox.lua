-- An inbox is one hash: epoch, offset, acked, the messages under their offsets, generation and moves (`moved`), and
--   index:    17 bytes for each kept message, ascending: offset, kind, when it ends. It is cut and joined, not decoded:
--             an inbox in use is always full, and most appends touch its two ends only
--   chats, next: how many of these are chat, and a time before which none ends
--   tasks:    8 bytes for each of these that is the end of a task, ascending: its offset
--   r<offset>: when a message was read, ms; those that were not have none
--   read:     a byte for each kept message, in the order of the index: READ, or UNREAD
--   unread:   how many were not read, of each class
--   counted:  offset and lengths of `index` and `read` when `tasks`, `read` and `unread` were written. A node of version 1
--             changes one of the first two and knows nothing of these four, so they are made anew then (`recount`)
--   lost:     packed {first, last, how many} of each stretch of messages that went by the inbox' limits, ascending
--   collapse: packed offsets by collapse key; some may be gone
local CHAT, OWN = 1, 2
local OTHER, CHATS, TASKS = 1, 2, 3
local STRETCHES = 64
local RECORD, FORMAT = 17, '>I8BI8'
local PLACE = '>I8'
local READ, UNREAD = '1', '0'
-- So many fields are asked for, or written, at once; and so many messages, of which the last ones may not be wanted.
local CHUNK, BODIES = 200, 25
local ENDS = {task_completed = true, task_failed = true, task_status_changed = true}

local function count(box)
  return #box.index / RECORD
end

-- offset, kind, when it ends
local function record(box, at)
  return struct.unpack(FORMAT, box.index, (at - 1) * RECORD + 1)
end

local function is_read(box, at)
  return string.sub(box.read, at, at) == READ
end

-- All messages from one place to another are read now, or are not.
local function mark(box, first, last, reads)
  box.read = string.sub(box.read, 1, first - 1) .. string.rep(reads and READ or UNREAD, last - first + 1)
    .. string.sub(box.read, last + 1)
end

-- How many are kept up to and with an offset.
local function up_to(box, offset)
  local low, high = 0, count(box)
  while low < high do
    local middle = math.floor((low + high + 1) / 2)
    if record(box, middle) <= offset then
      low = middle
    else
      high = middle - 1
    end
  end
  return low
end

local function find(box, offset)
  local at = up_to(box, offset)
  if at > 0 and record(box, at) == offset then
    return at
  end
end

-- Where in `tasks` an offset stands.
local function task_place(box, offset)
  local from, wanted = 1, struct.pack(PLACE, offset)
  repeat
    local at = string.find(box.tasks, wanted, from, true)
    if at and at % 8 == 1 then
      return at
    end
    from = at and at + 1
  until not at
end

local function class_of(box, offset, kind)
  return kind % 2 == CHAT and CHATS or box.tasks ~= '' and task_place(box, offset) and TASKS or OTHER
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

-- Takes a message out; returns whether it was not read.
local function remove(box, at, lost)
  local offset, kind = record(box, at)
  local field, class = string.format('%d', offset), class_of(box, offset, kind)
  local unread = not is_read(box, at)
  box.index = string.sub(box.index, 1, (at - 1) * RECORD) .. string.sub(box.index, at * RECORD + 1)
  box.read = string.sub(box.read, 1, at - 1) .. string.sub(box.read, at + 1)
  box.chats = box.chats - kind % 2
  if class == TASKS then
    local place = task_place(box, offset)
    box.tasks = string.sub(box.tasks, 1, place - 1) .. string.sub(box.tasks, place + 8)
  end
  if unread then
    box.unread[class] = box.unread[class] - 1
  end
  redis.call('HDEL', box.key, field, 'r' .. field)
  if lost then
    lose(box, offset)
  end
  box.changed = true
  return unread
end

-- A message goes by the limits or by age; where it was not read, that is noticed in the answer (`ok`).
local function evict(box, at, lost)
  if remove(box, at, lost) and not box.noticed then
    box.noticed = true
    noticed = noticed .. ' ' .. box.key
  end
end

-- Takes out so many of the oldest, in one go; none counts as lost.
local function remove_first(box, number)
  local tasks = 0
  for first = 1, number, CHUNK do
    local fields = {}
    for at = first, math.min(first + CHUNK - 1, number) do
      local offset, kind = record(box, at)
      local class = class_of(box, offset, kind)
      box.chats = box.chats - kind % 2
      tasks = tasks + (class == TASKS and 1 or 0)
      if not is_read(box, at) then
        box.unread[class] = box.unread[class] - 1
      end
      fields[#fields + 1] = string.format('%d', offset)
      fields[#fields + 1] = string.format('r%d', offset)
    end
    redis.call('HDEL', box.key, unpack(fields))
  end
  box.index = string.sub(box.index, number * RECORD + 1)
  box.read = string.sub(box.read, number + 1)
  box.tasks = string.sub(box.tasks, tasks * 8 + 1)
  box.changed = true
end

-- What was packed; nil where that is damaged.
local function unpacked(text)
  local whole, value = pcall(cmsgpack.unpack, text)
  return whole and type(value) == 'table' and value or nil
end

-- A number that changes with whatever a node of version 1 does.
local function print_of(box)
  return string.format('%d %d %d', box.offset, #box.index, #box.read)
end

-- Finds out anew which messages are ends of tasks, and which were read.
local function recount(box)
  if box.counted then
    for _, field in ipairs(redis.call('HKEYS', box.key)) do
      local offset = string.match(field, '^r(%d+)$')
      if offset and not find(box, tonumber(offset)) then
        redis.call('HDEL', box.key, field)
      end
    end
  end
  local tasks, read = {}, {}
  box.unread = {0, 0, 0}
  for at = 1, count(box) do
    local offset, kind = record(box, at)
    local class = kind % 2 == CHAT and CHATS or OTHER
    if class == OTHER then
      local body = redis.call('HGET', box.key, string.format('%d', offset)) or ''
      if ENDS[string.match(body, '^{"type":"([a-z_]+)",') or ''] then
        class = TASKS
        tasks[#tasks + 1] = struct.pack(PLACE, offset)
      end
    end
    read[at] = redis.call('HEXISTS', box.key, string.format('r%d', offset)) == 1 and READ or UNREAD
    if read[at] == UNREAD then
      box.unread[class] = box.unread[class] + 1
    end
  end
  box.tasks, box.read = table.concat(tasks), table.concat(read)
  box.changed = true
end

local function open(key, now)
  local known = redis.call('HMGET', key, 'epoch', 'offset', 'acked', 'index', 'lost', 'chats', 'next', 'generation', 'moves',
    'tasks', 'unread', 'counted', 'read')
  local others, chats, ends = string.match(known[11] or '', '^(%d+) (%d+) (%d+)$')
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
    tasks = known[10] or '',
    unread = {tonumber(others or 0), tonumber(chats or 0), tonumber(ends or 0)},
    counted = known[12],
    read = known[13] or '',
    exists = known[1] and true,
    changed = false,
  }
  if box.counted ~= print_of(box) and (box.counted or box.index ~= '') then
    recount(box)
  end
  if box.index ~= '' and box.next <= now then
    box.next = math.huge
    for at = count(box), 1, -1 do
      local _, kind, ends = record(box, at)
      if ends <= now then
        evict(box, at, kind < OWN)
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

-- ttls: of an inbox that never had a message, of one that had, and of one with unread messages lost; without them it stays
-- as long as it would have
local function save(box, ttls)
  if not box.exists and not box.changed then
    return
  end
  if box.changed then
    redis.call('HSET', box.key, 'epoch', box.epoch, 'offset', string.format('%d', box.offset),
      'acked', string.format('%d', box.acked), 'index', box.index, 'chats', box.chats,
      'next', box.next < math.huge and string.format('%d', box.next) or '0', 'tasks', box.tasks,
      'read', box.read, 'unread', table.concat(box.unread, ' '), 'counted', print_of(box))
    if box.lost_changed then
      redis.call('HSET', box.key, 'lost', cmsgpack.pack(box.lost))
    end
  end
  if not ttls then
    return
  end
  local ttl = box.offset == 0 and ttls[1] or lost_after(box, box.acked) > 0 and ttls[3] or ttls[2]
  if box.changed or redis.call('PTTL', box.key) < ttl / 2 then
    redis.call('PEXPIRE', box.key, ttl)
  end
end

-- Adds the messages of these places to an answer: offset, publication, and when it was read, or '', in turns; not more than
-- so many bytes (0: no limit), but at least one. Returns how many it added.
local function add_messages(box, places, room, answer)
  local bounded = room > 0
  for first = 1, #places, BODIES do
    local fields = {}
    for at = first, math.min(first + BODIES - 1, #places) do
      local offset = record(box, places[at])
      fields[#fields + 1] = string.format('%d', offset)
      fields[#fields + 1] = string.format('r%d', offset)
    end
    local found = redis.call('HMGET', box.key, unpack(fields))
    for i = 1, #fields, 2 do
      local at, body = first + (i - 1) / 2, found[i] or ''
      room = room - #body
      if bounded and room < 0 and at > 1 then
        return at - 1
      end
      answer[#answer + 1] = record(box, places[at])
      answer[#answer + 1] = body
      answer[#answer + 1] = found[i + 1] or ''
    end
  end
  return #places
end
-- How many are kept after an offset.
local function pending(box, after)
  return count(box) - up_to(box, after)
end

-- Whether a message is kept and was not read.
local function unread(box, offset, epoch)
  local at = box.epoch == epoch and find(box, offset)
  return at and not is_read(box, at)
end

-- What nodes tell each other of an inbox. `change`: JSON of what became of messages, behind a comma, or ''.
local function change_of(box, change)
  return string.format('{"unread":{"notification":%d,"chat":%d,"task":%d}%s}', box.unread[1], box.unread[2], box.unread[3],
    change)
end

-- That messages are gone; `offsets`: with commas between.
local function deletion_of(box, offsets)
  return change_of(box, ',"epoch":"' .. full(box.epoch) .. '","deleted":true,"offsets":[' .. offsets .. ']')
end

-- Takes out a message with the same key that was not read, and remembers the new one. Returns the offset of the one.
local function collapse_into(box, key, limit)
  local known = redis.call('HGET', box.key, 'collapse')
  local keys = known and unpacked(known) or {}
  local earlier, replaced = keys[key], nil
  local at = earlier and find(box, earlier)
  if at and not is_read(box, at) then
    remove(box, at, false)
    replaced = earlier
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
  return replaced
end

-- Where the oldest message stands that is, or is not, of a class.
local function oldest(box, class, is)
  for at = 1, count(box) do
    local offset, kind = record(box, at)
    if (class_of(box, offset, kind) == class) == is then
      return at, offset
    end
  end
end

-- Lets go what is too much now that a message of this class came.
local function make_room(box, class, rules)
  local function others()
    return count(box) - #box.tasks / 8
  end
  while #box.tasks / 8 > rules.task_size do
    evict(box, find(box, (struct.unpack(PLACE, box.tasks))), true)
  end
  -- Chat gives way to what is unread and matters more, but not to what was read: acknowledging deletes nothing.
  while box.chats > rules.chat_size or class == CHATS and others() > rules.size and select(2, oldest(box, TASKS, false)) > box.acked do
    evict(box, (oldest(box, CHATS, true)), true)
  end
  while others() > rules.size do
    evict(box, (oldest(box, TASKS, false)), true)
  end
end

-- Returns the offset of the message that it replaces, where there is one.
local function append(box, body, class, ttl, collapse, rules, now)
  local replaced = collapse ~= '' and collapse_into(box, collapse, 2 * rules.size) or nil
  box.epoch = box.exists and box.epoch or first_epoch(box.key)
  local moves = moved(box.written_in, box.moves, box.offset)
  if moves then
    redis.call('HSET', box.key, 'generation', generation, 'moves', moves)
  end
  box.offset = box.offset + 1
  box.changed = true
  local own = ttl ~= nil and ttl < rules.ttl
  local ends = now + (own and ttl or rules.ttl)
  box.index = box.index .. struct.pack(FORMAT, box.offset, (class == CHATS and CHAT or 0) + (own and OWN or 0), ends)
  box.read = box.read .. UNREAD
  box.next = math.min(box.next, ends)
  box.chats = box.chats + (class == CHATS and 1 or 0)
  box.tasks = class == TASKS and box.tasks .. struct.pack(PLACE, box.offset) or box.tasks
  box.unread[class] = box.unread[class] + 1
  redis.call('HSET', box.key, string.format('%d', box.offset), body)
  make_room(box, class, rules)
  return replaced
end

-- Whether somebody's epoch is a name's: the one of now, or, for position 0, the one of the period before.
local function is_epoch(given, key, epoch, at_zero)
  return given == full(epoch) or at_zero and given ~= '' and given == previous(key, epoch)
end
