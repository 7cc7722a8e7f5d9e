-- KEYS: the token's and the user's in turns    ARGV: for each pair when it was issued
-- A token without an id has the user's key in both places; one without a time has ''.
local now = milliseconds()
local answer = {'ok'}
for at = 1, #ARGV do
  local token, user = KEYS[2 * at - 1], KEYS[2 * at]
  local revoked = token ~= user and redis.call('EXISTS', token) == 1
  if not revoked then
    local issued = tonumber(ARGV[at])
    for _, until_issued in ipairs(redis.call('ZRANGE', user, '(' .. string.format('%d', now), '+inf', 'BYSCORE')) do
      if not issued or issued <= tonumber(until_issued) then
        revoked = true
      end
    end
  end
  answer[at + 1] = revoked and 1 or 0
end
return answer
