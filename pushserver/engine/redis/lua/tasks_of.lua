-- KEYS: 2 open, 3 final    ARGV: 3 limit, 4 'unfinished' or '', 5 what a task's key begins with
-- Returns id and state in turns. A task whose key is gone is taken out of the set that it stands in.
local limit = tonumber(ARGV[3])
local found = {}
for i = 2, ARGV[4] == 'unfinished' and 2 or 3 do
  local from, taken = 0, 0
  repeat
    local ids = redis.call('ZRANGE', KEYS[i], from, from + 99, 'REV', 'WITHSCORES')
    for at = 1, #ids, 2 do
      local state = taken < limit and redis.call('HGET', ARGV[5] .. ids[at], 'state')
      if state then
        taken = taken + 1
        found[#found + 1] = {tonumber(ids[at + 1]), state, ids[at]}
      elseif taken < limit then
        redis.call('ZREM', KEYS[i], ids[at])
        from = from - 1
      end
    end
    from = from + 100
  until #ids < 200 or taken >= limit
end
table.sort(found, function(a, b) return a[1] > b[1] end)
local answer = {ok()}
for at = 1, math.min(limit, #found) do
  answer[#answer + 1] = found[at][3]
  answer[#answer + 1] = found[at][2]
end
return answer
