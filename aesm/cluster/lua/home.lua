-- A client has come back to the node that has its session: name, fence, how many its key
-- may have.
-- Returns whether that node still has it (1), or the client is refused (0); or nothing.
local name, most = ARGV[2], tonumber(ARGV[4])

local kept = redis.call('HMGET', P .. 's:' .. name, 'fence', 'peer')
if kept[1] ~= ARGV[3] then return false end
if not mayCome(name, kept[2], most) then return 0 end
redis.call('HDEL', P .. 'meta', '') -- an engine that is full lets clients come back
comes(name, most)
return 1
