-- A node's heartbeat.
-- KEYS: 1 nodes, 2 node, 3 ingest, 4 server
-- ARGV: 1 incarnation, 2 lease in ms, 3 how long the node's keys stay, 4 name, 5 started at, 6 'new' or '',
--       7 connections that belong to no user, 8 where it receives what is for it alone,
--       9 its settings, 10 how many connections and subscriptions of users it holds
-- Returns 'ok', the time, ms, the generation, how many writes the data knows of, the entries that wait in the ingest
-- stream, then the nodes that are dead; or 'gone' and the generation where this one was taken for dead. Who was away
-- itself for long cannot tell who else was: it expires nobody for one lease.
local now = milliseconds()
local lease = tonumber(ARGV[2])
local last = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if ARGV[6] == '' and (last == 0 or redis.call('EXISTS', KEYS[2]) == 0) then
  return {'gone', redis.call('HGET', KEYS[4], 'generation') or ''}
end
redis.call('ZADD', KEYS[1], string.format('%d', now), ARGV[1])
redis.call('HSET', KEYS[2], 'name', ARGV[4], 'started', ARGV[5], 'anonymous', ARGV[7], 'replies', ARGV[8],
  'settings', ARGV[9], 'held', ARGV[10] or 0)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
if now - last >= lease then
  redis.call('HSET', KEYS[2], 'since', string.format('%d', now))
end
local length = redis.pcall('XLEN', KEYS[3])
local server = redis.call('HMGET', KEYS[4], 'generation', 'writes')
local answer = {'ok', now, server[1] or '', server[2] or '0', type(length) == 'number' and length or 0}
if now - tonumber(redis.call('HGET', KEYS[2], 'since') or now) >= lease then
  for _, dead in ipairs(redis.call('ZRANGE', KEYS[1], '-inf', string.format('%d', now - lease), 'BYSCORE', 'LIMIT', 0, 10)) do
    answer[#answer + 1] = dead
  end
end
return answer
