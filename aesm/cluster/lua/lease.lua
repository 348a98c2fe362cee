-- A node is alive: node, milliseconds until it is not if it says nothing (0 to leave), grace,
-- milliseconds for which its batches are remembered, what it says of itself.
-- Returns whether it had never been given up meanwhile, and whether it is to drain.
local node, lease = ARGV[2], tonumber(ARGV[3])
local meta, mine, time = P .. 'meta', P .. 'n:' .. ARGV[2], now()

local isKnown = redis.call('PEXPIRE', mine, ARGV[5]) == 1 -- also while the engine is full
if isKnown then redis.call('HSET', mine, 'says', ARGV[6]) end
-- Where no node could say so for a lease, the engine was away, or all nodes were, or its
-- clock was set.  No client could come back meanwhile: they have a grace from now on.
local pulse = tonumber(redis.call('HGET', meta, 'pulse') or 0)
if lease > 0 and math.abs(time - pulse) > lease then
  if time < pulse then -- else all that is given up at a time would be so much later
    redis.call('HINCRBY', meta, 'ahead', pulse - time)
    time = pulse
  end
  redis.call('HSET', meta, 'calm', time + tonumber(ARGV[4]))
end
redis.call('HSET', meta, 'pulse', time)
local former = tonumber(redis.call('ZSCORE', P .. 'n', node) or 0)
redis.call('ZADD', P .. 'n', time + lease, node)
return {former >= time and 1 or 0, redis.call('HEXISTS', mine, 'drain')}
