-- How many bytes of outputs are kept, about: where Redis evicts, or keys were lost, it is more.
local kept = string.sub(KEYS[1], 1, -#'server' - 1) .. 'outputs'
local all, hour, sum = redis.call('HGETALL', kept), math.floor(now / 3600000), 0
for at = 1, #all, 2 do
  if all[at] == 'live' or tonumber(all[at]) >= hour then
    sum = sum + all[at + 1]
  else
    redis.call('HDEL', kept, all[at])
  end
end
return {ok(), math.max(sum, 0)}
