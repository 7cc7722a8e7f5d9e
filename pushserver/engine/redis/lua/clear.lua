-- KEYS[2]: inbox    ARGV: 3 to 5 the inbox' ttls
local box = open(KEYS[2], now, ARGV[2])
local count = #box.index
for at = count, 1, -1 do
  remove(box, at, false)
end
box.lost = {}
box.changed = true
save(box, {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])})
return {'ok', count}
