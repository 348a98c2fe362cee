-- A session begins: node, name, peer, state, grace.  It waits until it is said that its
-- client is there, since nobody may come back for the answer.
-- Returns 1, or 0 if there is one of that name.
local node, name, peer = ARGV[2], ARGV[3], ARGV[4]
local session = P .. 's:' .. name

if redis.call('EXISTS', session) == 1 then return 0 end
redis.call('HSET', session, 'peer', peer, 'node', node, 'fence', 1)
redis.call('SET', P .. 't:' .. name, ARGV[5])
redis.call('ZADD', P .. 'k:' .. peer, 0, name)
redis.call('SADD', P .. 'h:' .. node, name)
wait(name, ARGV[6])
return 1
