-- KEYS: 1 lease, 2 tries, 3 ingest, 4 dead    ARGV: 1 token, 2 entry, 3 error or '', 4 cmd
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'fence'}
end
if redis.call('XDEL', KEYS[3], ARGV[2]) == 1 and ARGV[3] ~= '' then
  redis.call('XADD', KEYS[4], '*', 'cmd', ARGV[4], 'error', ARGV[3])
end
redis.call('DEL', KEYS[2])
return {'ok'}
