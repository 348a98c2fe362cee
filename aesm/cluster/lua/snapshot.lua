-- What a replica made of the log: the position of the newest one that the node knows, the
-- position of the last entry in it, the name of that, data.  It is taken if there is no
-- newer one, and the log has that entry.
-- Returns the position of the newest one that there is then.
local shots, position, name = P .. 'shots', ARGV[3], ARGV[4]

local newest = tonumber(redis.call('ZRANGE', shots, -1, -1, 'WITHSCORES')[2] or 0)
if newest ~= tonumber(ARGV[2]) then return newest end
local last = redis.call('ZRANGEBYSCORE', P .. 'log', position, position)[1]
if not last or last:sub(1, #name + 1) ~= name .. ' ' then return newest end
redis.call('ZADD', shots, position, name .. ' ' .. ARGV[5])
while redis.call('ZCARD', shots) > 2 do
  redis.call('ZREM', shots, redis.call('ZRANGE', shots, 0, 0)[1])
end
return tonumber(position)
