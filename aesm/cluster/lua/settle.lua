-- A node has looked, and restored what was missing: node, process, number of its last
-- batch, history, grace.  What is here as its own beside has ended, or left it: that was
-- not here any more.
-- Returns whether all others have as well.  Before that it writes nothing more: that a
-- session was claimed by another node may be missing until that one has restored it.
local node, mine = ARGV[2], P .. 'n:' .. ARGV[2]
local has, says = P .. 'h:' .. node, P .. 'x:' .. node

redis.call('HDEL', mine, '') -- an engine that is full takes this
if redis.call('HGET', mine, 'history') ~= ARGV[5] then -- else it asks again
  redis.call('HSET', mine, 'process', ARGV[3], 'history', ARGV[5])
  for _, name in ipairs(redis.call('SDIFF', has, says)) do
    redis.call('SREM', has, name)
    redis.call('ZADD', P .. 'w', 'NX', now() + ARGV[6], name)
  end
  redis.call('SUNIONSTORE', has, has, says)
end
redis.call('DEL', says)
if tonumber(redis.call('HGET', mine, 'batch') or -1) < tonumber(ARGV[4]) then
  redis.call('HSET', mine, 'batch', ARGV[4])
  redis.call('HDEL', mine, 'reply')
end
return (areAll('history', ARGV[5]) or not isLooking()) and 1 or 0
