-- KEYS[1]: server    ARGV[1]: the generation as the node knows it, ARGV[2]: a fresh epoch
local generation = redis.call('HGET', KEYS[1], 'generation')
if generation ~= ARGV[1] then
  return {'generation'}
end
local now = milliseconds()
local function full(epoch)
  return generation .. '.' .. epoch
end
