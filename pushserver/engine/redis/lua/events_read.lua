-- KEYS: 1 events, 2 their state    ARGV: 1 after ('': from the oldest; '0': from the first that ever was), 2 limit, 3 bytes
-- Returns whether something is lost, where the floor is, then id and event in turns.
local known = redis.call('HMGET', KEYS[2], 'floor', 'number')
local floor, newest = known[1] or '0', tonumber(known[2] or 0)
local function number_of(id)
  return tonumber(string.match(id, '%-(%d+)$') or 0)
end
local after, lost = ARGV[1], 0
if after == '0' then
  lost = number_of(floor) > 0 and 1 or 0
elseif after ~= '' then
  local number = number_of(after)
  if number < number_of(floor) or number > newest then
    lost = 1
  elseif number == number_of(floor) then
    lost = after ~= floor and 1 or 0
  else
    lost = #redis.call('XRANGE', KEYS[1], after, after) == 0 and 1 or 0
  end
end
local head = (after == '' or after == '0' or lost == 1) and '-' or '(' .. after
local answer = {'ok', lost, floor}
local left, room = tonumber(ARGV[2]), tonumber(ARGV[3])
while left > 0 do
  local count = math.min(left, 50)
  local entries = redis.call('XRANGE', KEYS[1], head, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    room = room - #entry[2][2]
    if room < 0 and #answer > 3 then
      return answer
    end
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][2]
    head = '(' .. entry[1]
  end
  left = #entries < count and 0 or left - count
end
return answer
