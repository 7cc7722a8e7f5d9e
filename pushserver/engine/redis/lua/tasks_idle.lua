-- KEYS[2]: stale    ARGV: 3 and more, but the last: ids of unfinished tasks
-- Returns for how long each had no news, ms; -1 where it has ended.
local answer = {ok()}
for at = 3, #ARGV do
  local score = redis.call('ZSCORE', KEYS[2], ARGV[at])
  answer[#answer + 1] = score and now - score or -1
end
return answer
