-- An operator wants a node to end: node.  It hears of it now, or with its next lease.
-- Returns whether there is such a node.
local node, mine = ARGV[2], P .. 'n:' .. ARGV[2]

local lease = tonumber(redis.call('ZSCORE', P .. 'n', node) or 0)
if lease < now() or redis.call('EXISTS', mine) == 0 then return 0 end
redis.call('HSET', mine, 'drain', 1)
ring(node, 'drain')
return 1
