-- KEYS: 1 events, 2 their state    ARGV: 1 how long an event is kept, ms, 2 how many bytes
-- Returns how many are kept, their bytes, the number of the newest, when the oldest was kept ('': there is none), and
-- how many went before their time.
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or 0)
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
if #first > 0 then
  trim_events(KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), bytes)
  first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
end
local known = redis.call('HMGET', KEYS[2], 'bytes', 'number', 'dropped')
return {'ok', redis.call('XLEN', KEYS[1]), tonumber(known[1] or 0), tonumber(known[2] or 0),
  #first > 0 and string.match(first[1][1], '^(%d+)') or '', tonumber(known[3] or 0)}
