-- KEYS[1]: server    ARGV: 1 the generation as the node knows it, 2 the period of epochs, ms, the last: how many writes the
-- node knows of
local known_server = redis.call('HMGET', KEYS[1], 'generation', 'secret', 'writes', 'evicts', 'versions', 'marked')
local generation, secret, writes = known_server[1], known_server[2], tonumber(known_server[3] or 0)
-- Data that was loaded since a node attached, or that has fewer writes than this one knows of, went back inside the same
-- process. `attach` says what the mark is.
local loaded = known_server[6] and redis.call('OBJECT', 'ENCODING', KEYS[1] .. ':process') ~= 'embstr'
if known_server[4] then
  -- To ask so is no use of it, and Redis evicts what is not used.
  redis.call('GET', KEYS[1] .. ':process')
end
if not secret or generation ~= ARGV[1] or loaded or writes < tonumber(table.remove(ARGV)) then
  return {'generation'}
end
-- The keys of inboxes of which unread messages went by their limits or by age, each behind a space.
local noticed = ''
-- What every script that checks the generation answers first.
local function ok()
  return string.format('ok %d', writes) .. noticed
end
-- Something was written that has to last.
local function wrote()
  writes = redis.call('HINCRBY', KEYS[1], 'writes', 1)
end
local now = milliseconds()
-- Whether a task's version was made before the generation moved on: it may have been shown with another state.
local function stale_version(version)
  local lowest = string.match(known_server[5] or '', '^' .. generation .. ' (%d+)$')
  return lowest and tonumber(version) < tonumber(lowest)
end
local function full(epoch)
  return generation .. '.' .. epoch
end

-- The head under which nodes tell each other of a message with a position.
local function positioned(offset, epoch)
  return string.format('p %d %s %d\n', offset, full(epoch), writes)
end

-- Where the offsets of each generation begin, '<generation>:<the offset before>', the newest first: so a position of an
-- earlier one can be told from one of data that was lost. Returns what has to be written with the next message.
local MOVES = 8
local function moved(written_in, moves, offset)
  if written_in == generation then
    return nil
  end
  local all = {generation .. ':' .. string.format('%d', offset)}
  for each in string.gmatch(moves or '', '%S+') do
    if #all < MOVES then
      all[#all + 1] = each
    end
  end
  return table.concat(all, ' ')
end

-- A name that was never written has an epoch all the same, derived from its key, the secret, and the period (`back` of
-- them before this one), so that reading writes nothing; its first write keeps it. A key stays without news for longer
-- than a period, so that no epoch returns after its channel was forgotten. The digest is nested as in HMAC.
local PERIOD, GRACE = tonumber(ARGV[2]), 3600000
local function derived(key, back)
  local period = string.format('%d', math.floor(now / PERIOD) - back)
  local inner = redis.sha1hex(secret .. 'epoch:' .. period .. ':' .. key)
  return string.sub(redis.sha1hex(secret .. inner), 1, 16)
end

-- The epoch that the first write of a name gives it. A Redis that evicts may forget a name within the period: then it has
-- another one each time, of another length, so that nobody takes it for the end of a period.
local function first_epoch(key)
  if not known_server[4] then
    return derived(key, 0)
  end
  return string.sub(redis.sha1hex(secret .. 'first:' .. writes .. ':' .. now .. ':' .. key), 1, 18)
end

-- The epoch of the period before, where its position 0 still counts as 0 in this one; else ''.
local function previous(key, epoch)
  if now % PERIOD < GRACE and epoch == derived(key, 0) then
    return full(derived(key, 1))
  end
  return ''
end
