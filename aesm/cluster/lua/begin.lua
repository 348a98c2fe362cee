-- A session begins: node, name, peer, state, grace, how many its key may have.  It waits
-- until it is said that its client is there, since nobody may come back for the answer.
-- Returns which others of its key have ended; 0, if it is refused for one of these; or
-- nothing, if there is one of that name, or was, and nobody has said yet that it is over.
local node, name, peer = ARGV[2], ARGV[3], ARGV[4]
local session = P .. 's:' .. name

if redis.call('EXISTS', session) == 1 then return false end
if redis.call('SISMEMBER', P .. 'gone', name) == 1 then return false end
if not mayCome(name, peer, tonumber(ARGV[7])) then return 0 end
redis.call('HSET', session, 'peer', peer, 'node', node, 'fence', 1)
redis.call('SET', P .. 't:' .. name, ARGV[5])
redis.call('SADD', P .. 'h:' .. node, name)
wait(name, ARGV[6])
return come(name, peer, tonumber(ARGV[7]))
