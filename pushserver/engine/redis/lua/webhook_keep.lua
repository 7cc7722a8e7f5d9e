-- KEYS: 2 and on, what is known of webhooks    ARGV: 2 for how long it is kept, ms
for at = 2, #KEYS do
  redis.call('PEXPIRE', KEYS[at], ARGV[2])
end
return {'ok'}
