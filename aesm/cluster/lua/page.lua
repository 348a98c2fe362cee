-- More of what is kept of a session that was claimed: name, fence, kind, after
-- which number, room.
-- Returns a page; or nothing, if the session is another node's by now.
local name = ARGV[2]

if redis.call('HGET', P .. 's:' .. name, 'fence') ~= ARGV[3] then return false end
return page(name, tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6]))
