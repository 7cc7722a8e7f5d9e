-- Who went is remembered by the node of their last connection, until it has said so: with when they were seen, below 0
-- from when on it says so.

-- Returns what stands for the user in the set of a node other than `own`, and that set's key.
local function gone_from(prefix, nodes, own, user)
  for _, incarnation in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do
    if incarnation ~= own then
      local leaving = prefix .. ':node:' .. incarnation .. ':leaving'
      local at = redis.call('ZSCORE', leaving, user)
      if at then
        return tonumber(at), leaving
      end
    end
  end
  return nil
end
