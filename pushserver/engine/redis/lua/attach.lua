-- A node (re)connected. Where another process answers under this data than before, what was given out since the data
-- was last saved may be lost: every epoch moves on, and versions of tasks go on above all that were given out.
-- KEYS: server    ARGV: 1 run id, 2 a fresh generation, 3 a fresh secret, 4 the generation that the node knew, or '',
--       5 'move': that one shall hold no longer, 6 how many writes the node knows of, 7 'evicts' where Redis may,
--       8 the format that the node reads, 9 '1' where the data had a mark of the process when the node attached, or '0',
--       10 the lowest version of a new state that the node knew, 11 the time of now by the node's clock, ms
-- Returns the generation that holds, the secret of this data, the lowest version of a new state, how many writes the
-- data knows of, whether it has a mark of the process, 1 or 0, and when its generation moved on, ms, 1 where it never did;
-- or 'format' with the data's own and the oldest that can read it, where that is no format of the node's.
local KEPT = 32
-- How many versions one task may have had in one generation, where no clock says more.
local CHANGES = 100000
local MARK = KEYS[1] .. ':process'
local written = redis.call('HMGET', KEYS[1], 'format', 'min_reader')
local format, reader = tonumber(written[1] or 1), tonumber(written[2] or 1)
if not format or not reader or reader > tonumber(ARGV[8]) then
  return {'format', written[1] or '', written[2] or ''}
end
if format < tonumber(ARGV[8]) then
  redis.call('HSET', KEYS[1], 'format', ARGV[8], 'min_reader', 1)
end
redis.call('HSETNX', KEYS[1], 'secret', ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'run_id', 'generation', 'secret', 'versions', 'generations', 'lost',
  'writes', 'marked', 'moved')
local generation, versions, moved = known[2], known[4], known[9]
local function names(text)
  local found = {}
  for each in string.gmatch(text or '', '%S+') do
    found[#found + 1] = each
    found[each] = true
  end
  return found
end
local function joined(all)
  return table.concat(all, ' ', math.max(1, #all - KEPT + 1))
end
-- The generations of this data in their order, and those that nodes were in and it does not know. A node of an older
-- version moves on without a word here.
local all, lost = names(known[5]), names(known[6])
if generation and all[#all] ~= generation then
  all[#all + 1] = generation
  all[generation] = true
end
-- A node was in a generation that the data does not know: it is older than that. The first node that says so moves on.
local older = ARGV[4] ~= '' and not all[ARGV[4]] and not lost[ARGV[4]]
if older then
  lost[#lost + 1] = ARGV[4]
  redis.call('HSET', KEYS[1], 'lost', joined(lost))
end
local writes = tonumber(known[7] or 0)
local back = ARGV[5] == 'move' or writes < tonumber(ARGV[6])
-- The mark of the process is a number of which Redis, while it runs, keeps the text that INCRBYFLOAT made; once saved,
-- replicated, restored or replayed it is kept as an integer. So where that is gone, the data was loaded since.
local function in_memory()
  return redis.call('OBJECT', 'ENCODING', MARK) == 'embstr'
end
local loaded = (known[8] or ARGV[9] == '1' and generation == ARGV[4]) and not in_memory()
local now = milliseconds()
-- Above all that were given out, which are below the time of now, in ms. One clock may have been set back, or both; and
-- the data may know of less than the node does.
local lowest = math.max(tonumber(string.match(versions or '', ' (%d+)$') or 0), tonumber(ARGV[10]))
local above = math.max(now, tonumber(ARGV[11]))
if above <= lowest then
  above = lowest + CHANGES
end
if not generation or known[1] ~= ARGV[1] or older or loaded or back and generation == ARGV[4] then
  redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'generation', ARGV[2])
  versions = (generation or ARGV[4] ~= '') and string.format('%d', above) or '1'
  generation = ARGV[2]
  all[#all + 1] = generation
elseif versions then
  versions = string.match(versions, '^' .. generation .. ' (%d+)$')
end
-- They stand beside the generation: a node of an older version moves that alone.
versions = versions or string.format('%d', above)
moved = string.match(moved or '', '^' .. generation .. ' (%d+)$') or versions == '1' and versions
  or string.format('%d', now)
redis.call('HSET', KEYS[1], 'versions', generation .. ' ' .. versions, 'moved', generation .. ' ' .. moved,
  'generations', joined(all))
if ARGV[7] == 'evicts' then
  redis.call('HSET', KEYS[1], 'evicts', 1)
else
  redis.call('HDEL', KEYS[1], 'evicts')
end
if not known[8] or loaded then
  redis.call('SET', MARK, 0)
  redis.call('INCRBYFLOAT', MARK, 1)
end
-- A server that keeps it in another way has none.
local marked = in_memory() and 1 or 0
if marked == 1 then
  redis.call('HSET', KEYS[1], 'marked', 1)
else
  redis.call('HDEL', KEYS[1], 'marked')
end
return {generation, known[3], versions, writes, marked, moved}
