-- KEYS: 1 events, 2 their state    ARGV: 1 after ('': from the oldest; '0': from the first that ever was), 2 limit, 3 bytes
-- Returns whether something is lost, where the floor is, then id and event in turns.
local floor = redis.call('HGET', KEYS[2], 'floor') or '0'
local after, lost = ARGV[1], 0
if after ~= '' and after ~= floor then
  -- Whatever stands in the stream can be read on from, also what another program added.
  local given_here = string.match(after, '^%d+%-%d+$')
  lost = given_here and #redis.call('XRANGE', KEYS[1], after, after) > 0 and 0 or 1
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
