-- KEYS: 1 events, 2 their state    ARGV: 1 what is told
emit(KEYS[1], KEYS[2], ARGV[1])
return {'ok'}
