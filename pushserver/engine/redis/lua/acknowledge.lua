-- KEYS[2]: inbox    ARGV: 3 offset, 4 epoch, 5 to 7 the inbox' ttls
local box = open(KEYS[2], now)
local offset = tonumber(ARGV[3])
if ARGV[4] ~= full(box.epoch) and (offset > 0 or ARGV[4] ~= previous(KEYS[2], box.epoch)) then
  return {'conflict'}
end
if offset > box.offset then
  return {'invalid'}
end
if offset > box.acked then
  wrote()
  box.acked = offset
  box.changed = true
end
save(box, {tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])})
return {ok(), box.acked}
