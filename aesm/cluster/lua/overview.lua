-- How the cluster is: how many nodes to tell of at most.
-- Returns the time, fields of meta, how many sessions wait, of how many something is unread,
-- how many entries the log has; then of each node its name, until when its lease is, how
-- many sessions it has, what it says of itself, and whether it is to drain.
local found = {
  now(),
  redis.call('HMGET', P .. 'meta', 'looking', 'calm', 'position', 'held', 'inlets'),
  redis.call('ZCARD', P .. 'w'),
  redis.call('ZCARD', P .. 'in'),
  redis.call('ZCARD', P .. 'log'),
}
local nodes = redis.call('ZRANGE', P .. 'n', 0, ARGV[2] - 1, 'WITHSCORES')
for at = 1, #nodes, 2 do
  local says, drain = unpack(redis.call('HMGET', P .. 'n:' .. nodes[at], 'says', 'drain'))
  local has = redis.call('SCARD', P .. 'h:' .. nodes[at])
  table.insert(found, {nodes[at], nodes[at + 1], has, says or '', drain and 1 or 0})
end
return found
