-- KEYS[2]: history, KEYS[3]: messages
-- ARGV: 3 since ('': from the end that is read from), 4 limit, 5 'reverse' or '', 6 ttl of a history that has no message yet
-- Returns epoch, newest, floor, then offset and publication in turns. The id of an entry is <offset>-<when it ends>.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'ends')
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
-- Where each entry ends no earlier than the one before it, the first that has not ended shows the floor. Where that is
-- not known (a shorter ttl came in between), every entry is looked at: what stands before one that has ended goes
-- with it, so that what is kept has no hole.
local ordered = known[3]
local floor, latest, sorted = nil, 0, true
local gone = false
local head = '-'
repeat
  local entries = redis.call('XRANGE', KEYS[3], head, '+', 'COUNT', 20)
  for _, entry in ipairs(entries) do
    local offset, ends = parts(entry[1])
    if ends <= now then
      gone = true
      floor, latest, sorted = nil, 0, true
    else
      floor = floor or offset - 1
      sorted = sorted and ends >= latest
      latest = math.max(latest, ends)
      if ordered then
        break
      end
    end
    head = '(' .. entry[1]
  end
until #entries == 0 or ordered and floor
floor = floor or newest
if gone then
  redis.call('XTRIM', KEYS[3], 'MINID', '=', string.format('%d', floor + 1))
end
if not ordered and sorted then
  -- It only spares the next reader the work, so a Redis that is full may refuse it.
  redis.pcall('HSET', KEYS[2], 'ends', string.format('%d', latest))
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
  answer[#answer + 1] = parts(entry[1])
  answer[#answer + 1] = entry[2][2]
end
return answer
