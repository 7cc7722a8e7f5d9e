-- KEYS[2]: history, KEYS[3]: messages
-- ARGV: 3 since ('': from the end that is read from), 4 limit, 5 'reverse' or '', 6 how many bytes (0: no limit)
-- Returns epoch, newest, floor, the epoch before, whether the bytes ended the page, then offset and publication in
-- turns. The id of an entry is <offset>-<when it ends>.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'ends', 'damaged')
if not known[1] then
  local epoch = derived(KEYS[2], 0)
  return {ok(), full(epoch), 0, 0, previous(KEYS[2], epoch), 0}
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
local head, count = '-', ordered and 1 or 20
repeat
  local entries = redis.call('XRANGE', KEYS[3], head, '+', 'COUNT', count)
  count = 20
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
-- Nobody resumes over a message that could not be read.
local answer = {ok(), full(known[1]), newest, math.max(floor, tonumber(known[4] or 0)), previous(KEYS[2], known[1]), 0}
local left, room = tonumber(ARGV[4]), tonumber(ARGV[6])
local bounded = room > 0
local reverse = ARGV[5] == 'reverse'
local from = reverse and '+' or '-'
if ARGV[3] ~= '' then
  if reverse and tonumber(ARGV[3]) < 1 then
    return answer
  end
  from = string.format('%d', tonumber(ARGV[3]) + (reverse and -1 or 1))
end
-- Where bytes are counted, no more is read than is given: as many as there is room for, were all of them as long as the
-- longest so far.
local longest = room
while left > 0 do
  count = bounded and math.min(left, 50, math.max(1, math.floor(room / longest))) or left
  local entries = reverse and redis.call('XREVRANGE', KEYS[3], from, '-', 'COUNT', count)
    or redis.call('XRANGE', KEYS[3], from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    local size = #entry[2][2]
    longest = #answer > 6 and math.max(longest, size) or math.max(1, size)
    room = room - size
    if bounded and room < 0 and #answer > 6 then
      answer[6] = 1
      return answer
    end
    answer[#answer + 1] = parts(entry[1])
    answer[#answer + 1] = entry[2][2]
    from = '(' .. entry[1]
  end
  left = #entries < count and 0 or left - count
end
return answer
