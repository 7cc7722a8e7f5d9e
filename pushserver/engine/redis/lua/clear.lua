-- KEYS[2]: inbox    ARGV: 3 to 5 the inbox' ttls, 6 live channel
local box = open(KEYS[2], now)
if not box.exists then
  return {ok(), 0}
end
wrote()
local deleted = count(box)
remove_first(box, deleted)
redis.call('HDEL', KEYS[2], 'collapse')
box.lost = {}
box.lost_changed = true
save(box, {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])})
if deleted > 0 then
  redis.call('PUBLISH', ARGV[6], 'i -\n' .. change_of(box, ',"epoch":"' .. full(box.epoch) .. '","deleted":true,"upTo":'
    .. string.format('%d', box.offset)))
end
noticed = ''
return {ok(), deleted}
