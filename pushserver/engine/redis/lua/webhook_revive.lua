-- KEYS: 2 dead, 3 their moments, 4 those to be tried again    ARGV: 2 field
forget(KEYS[2], KEYS[3], KEYS[4], ARGV[2])
return {'ok'}
