-- KEYS[2]: inbox    ARGV: 3 to 5 the inbox' ttls
local box = open(KEYS[2], now)
if not box.exists then
  return {ok(), 0}
end
wrote()
local deleted = count(box)
for at = deleted, 1, -1 do
  remove(box, at, false)
end
redis.call('HDEL', KEYS[2], 'collapse')
box.lost = {}
box.lost_changed = true
box.changed = true
save(box, {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])})
return {ok(), deleted}
