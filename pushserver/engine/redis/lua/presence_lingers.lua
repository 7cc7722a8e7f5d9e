-- KEYS: 1 nodes
-- ARGV: 1 user, 2 prefix
-- Returns whether a node has not begun to say that the user went.
local at = gone_from(ARGV[2], KEYS[1], '', ARGV[1])
return {'ok', at and at >= 0 and 1 or 0}
