-- KEYS[2]: history, KEYS[3]: messages
-- ARGV: 3 since ('': from the end that is read from), 4 limit, 5 'reverse' or '', 6 ttl of a history that has no message yet
-- Answers epoch, newest, floor, then offset and publication in turns. The id of an entry is <offset>-<when it ends>.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'offset')
if not known[1] then
  redis.call('HSET', KEYS[2], 'epoch', ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
  redis.call('DEL', KEYS[3])
  return {'ok', full(ARGV[2]), 0, 0}
end
local newest = tonumber(known[2] or 0)
local function parts(id)
  local offset, ends = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(ends)
end
local floor = newest
local gone = false
local head = '-'
while floor == newest do
  local entries = redis.call('XRANGE', KEYS[3], head, '+', 'COUNT', 20)
  if #entries == 0 then
    break
  end
  for _, entry in ipairs(entries) do
    local offset, ends = parts(entry[1])
    if ends > now then
      floor = offset - 1
      break
    end
    gone = true
    head = '(' .. entry[1]
  end
end
if gone then
  redis.call('XTRIM', KEYS[3], 'MINID', '=', string.format('%d', floor + 1))
end
local answer = {'ok', full(known[1]), newest, floor}
local limit = tonumber(ARGV[4])
if limit <= 0 then
  return answer
end
local entries
if ARGV[5] == 'reverse' then
  local from = ARGV[3] == '' and '+' or string.format('%d', tonumber(ARGV[3]) - 1)
  entries = tonumber(ARGV[3] ~= '' and ARGV[3] or 1) > 0 and redis.call('XREVRANGE', KEYS[3], from, '-', 'COUNT', limit) or {}
else
  local from = ARGV[3] == '' and '-' or string.format('%d', tonumber(ARGV[3]) + 1)
  entries = redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', limit)
end
for _, entry in ipairs(entries) do
  local offset, ends = parts(entry[1])
  if ends > now then
    answer[#answer + 1] = offset
    answer[#answer + 1] = entry[2][2]
  end
end
return answer
