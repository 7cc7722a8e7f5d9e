-- Messages were read, count as unread again, or are deleted.
-- KEYS[2]: inbox
-- ARGV: 3 'read', 'unread' or 'delete', 4 epoch, 5 the offset up to which, or '', 6 else the offsets, with spaces between,
--       7 when they were read, 8 the connection that asked, as JSON, or '', 9 live channel ('': the node publishes it),
--       10 tag, 11 to 13 the inbox' ttls
-- Returns how many were changed, how many are unread of each class then, and what the nodes are told, or ''.
local box = open(KEYS[2], now)
local bound = tonumber(ARGV[5])
if not is_epoch(ARGV[4], KEYS[2], box.epoch, bound == 0) then
  return {'conflict'}
end
if bound and bound > box.offset then
  return {'invalid'}
end
local places = {}
if bound then
  for at = 1, up_to(box, bound) do
    places[at] = at
  end
else
  for each in string.gmatch(ARGV[6], '%d+') do
    places[#places + 1] = find(box, tonumber(each))
  end
end
local changed = {}
if ARGV[3] == 'delete' then
  for i, at in ipairs(places) do
    changed[i] = string.format('%d', (record(box, at)))
  end
  if bound then
    remove_first(box, #places)
  else
    for _, offset in ipairs(changed) do
      remove(box, find(box, tonumber(offset)), false)
    end
  end
else
  local reads, written = ARGV[3] == 'read', {}
  local function write()
    if #written > 0 then
      redis.call(reads and 'HSET' or 'HDEL', KEYS[2], unpack(written))
      written = {}
    end
  end
  for _, at in ipairs(places) do
    if is_read(box, at) ~= reads then
      local offset, kind = record(box, at)
      local class = class_of(box, offset, kind)
      box.unread[class] = box.unread[class] + (reads and -1 or 1)
      changed[#changed + 1] = string.format('%d', offset)
      written[#written + 1] = string.format('r%d', offset)
      written[#written + 1] = reads and ARGV[7] or nil
      -- All that lie up to a bound are marked at once, below.
      if not bound then
        mark(box, at, at, reads)
      end
      if #written >= CHUNK then
        write()
      end
    end
  end
  write()
  if bound then
    mark(box, 1, #places, reads)
  end
end
local told = ''
if #changed > 0 then
  wrote()
  box.changed = true
  local what = ARGV[3] == 'read' and ',"readAt":' .. ARGV[7] or ARGV[3] == 'delete' and ',"deleted":true' or ''
  told = change_of(box, ',"epoch":"' .. full(box.epoch) .. '"' .. what
    .. (bound and ',"upTo":' .. ARGV[5] or ',"offsets":[' .. table.concat(changed, ',') .. ']')
    .. (ARGV[8] ~= '' and ',"exclude":' .. ARGV[8] or ''))
end
save(box, {tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])})
if told ~= '' and ARGV[9] ~= '' then
  redis.call('PUBLISH', ARGV[9], 'i ' .. ARGV[10] .. '\n' .. told)
end
return {ok(), #changed, box.unread[1], box.unread[2], box.unread[3], told}
