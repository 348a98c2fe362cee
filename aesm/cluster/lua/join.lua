-- A node comes, or comes back: KEYS[1], node, an epoch to use if there is none, format,
-- with the mark of the key that seals; what only this process knows: numbers of batches
-- make sense to nobody else; and what only this connection does: what is still under way
-- on one before it does nothing more.  Returns the epoch.
local meta, mine = KEYS[1] .. 'meta', KEYS[1] .. 'n:' .. ARGV[1]

redis.call('HDEL', meta, '') -- there is none; an engine that is full takes this
if redis.call('EXISTS', meta) == 0 then
  redis.call('HSET', meta, 'format', ARGV[3], 'epoch', ARGV[2])
end
local found = redis.call('HMGET', meta, 'format', 'epoch')
if found[1] ~= ARGV[3] then
  return redis.error_reply('FORMAT ' .. tostring(found[1]))
end
if redis.call('HSETNX', mine, 'process', ARGV[4]) == 1 then
  redis.call('HSET', mine, 'batch', 0)
end
if redis.call('HGET', mine, 'process') ~= ARGV[4] then
  return redis.error_reply('NAME ' .. ARGV[1] .. ' is, or was, another process')
end
redis.call('HSET', mine, 'line', ARGV[5])
return found[2]
