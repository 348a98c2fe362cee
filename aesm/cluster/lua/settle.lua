-- A node has looked, and restored what was missing: node, process, number of its last
-- batch, history, grace.  What is here as its own beside has ended, or left it: that was
-- not here any more.
local node, mine = ARGV[2], P .. 'n:' .. ARGV[2]
local has, says = P .. 'h:' .. node, P .. 'x:' .. node

redis.call('HDEL', mine, '') -- an engine that is full takes this
redis.call('HSET', mine, 'process', ARGV[3], 'history', ARGV[5])
for _, name in ipairs(redis.call('SDIFF', has, says)) do
  redis.call('SREM', has, name)
  redis.call('ZADD', P .. 'w', 'NX', now() + ARGV[6], name)
end
redis.call('SUNIONSTORE', has, has, says)
redis.call('DEL', says)
if tonumber(redis.call('HGET', mine, 'batch') or -1) < tonumber(ARGV[4]) then
  redis.call('HSET', mine, 'batch', ARGV[4])
  redis.call('HDEL', mine, 'reply')
end
for _, other in ipairs(redis.call('ZRANGE', P .. 'n', 0, -1)) do
  if redis.call('HGET', P .. 'n:' .. other, 'history') ~= ARGV[5] then return end
end
redis.call('HDEL', P .. 'meta', 'looking')
