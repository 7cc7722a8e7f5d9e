-- Messages were read, count as unread again, or are deleted.
-- KEYS[2]: inbox
-- ARGV: 3 'read', 'unread' or 'delete', 4 epoch, 5 the offset up to which, or '', 6 else the offsets, with spaces between,
--       7 when they were read, 8 the connection that asked, as JSON, or '', 9 live channel ('': the node publishes it),
--       10 tag, 11 to 13 the inbox' ttls
-- Returns how many were changed, how many are unread of each class then, and what the nodes are told, or ''.
local box = open(KEYS[2], now)
local bound = tonumber(ARGV[5])
if ARGV[4] ~= full(box.epoch) and (bound ~= 0 or ARGV[4] ~= previous(KEYS[2], box.epoch)) then
  return {'conflict'}
end
if bound and bound > box.offset then
  return {'invalid'}
end
local meant = {}
if bound then
  for at = 1, up_to(box, bound) do
    meant[at] = record(box, at)
  end
else
  for each in string.gmatch(ARGV[6], '%d+') do
    local at = find(box, tonumber(each))
    meant[#meant + 1] = at and record(box, at)
  end
end
local changed = {}
for _, offset in ipairs(meant) do
  local field = string.format('%d', offset)
  local class = class_of(box, offset, select(2, record(box, find(box, offset))))
  if ARGV[3] == 'read' and redis.call('HSETNX', KEYS[2], 'r' .. field, ARGV[7]) == 1 then
    box.unread[class] = box.unread[class] - 1
    changed[#changed + 1] = field
  elseif ARGV[3] == 'unread' and redis.call('HDEL', KEYS[2], 'r' .. field) == 1 then
    box.unread[class] = box.unread[class] + 1
    changed[#changed + 1] = field
  elseif ARGV[3] == 'delete' then
    changed[#changed + 1] = field
    if not bound then
      remove(box, find(box, offset), false)
    end
  end
end
if ARGV[3] == 'delete' and bound then
  remove_first(box, #meant)
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
