-- KEYS[2]: inbox    ARGV: 3 offset, 4 epoch, 5 to 7 the inbox' ttls
local box = open(KEYS[2], now)
local offset = tonumber(ARGV[3])
if not is_epoch(ARGV[4], KEYS[2], box.epoch, offset <= 0) then
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
