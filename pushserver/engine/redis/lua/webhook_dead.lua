-- KEYS: 2 dead, 3 their moments, 4 those to be tried again
-- ARGV: 2 how many dead are kept, 3 the oldest, then field, event and moment of each
for at = 4, #ARGV, 3 do
  add_dead(KEYS[2], KEYS[3], KEYS[4], ARGV[at], ARGV[at + 1], ARGV[at + 2])
end
sweep_dead(KEYS[2], KEYS[3], KEYS[4], tonumber(ARGV[2]), ARGV[3])
return {'ok'}
