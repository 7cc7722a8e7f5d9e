-- KEYS[2]: inbox    ARGV: 3 live channel, 4 to 6 the inbox' ttls
local box = open(KEYS[2], now)
save(box, {tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])})
redis.call('PUBLISH', ARGV[3], 'i -\n' .. change_of(box, ''))
-- This tells it.
noticed = ''
return {ok()}
