-- A client has come to a node with its session: node, name, peer, grace, room, how many
-- its key may have.  From now on it is that node's, and nobody else can write it.  As in
-- begin.lua, it waits, and others may have ended.
-- Returns these, the fence, the state, a page, and what it has taken of nodes: their names
-- and numbers, but of those that nobody knows any more; 0, if it is refused for one of these;
-- or nothing, if the key has no such session.
-- While nodes look what is missing here (check.lua), it is refused.
local node, name = ARGV[2], ARGV[3]
local session = P .. 's:' .. name

local kept = redis.call('HMGET', session, 'peer', 'fence', 'node', 'over')
if kept[1] ~= ARGV[4] or kept[4] then return false end
if isLooking() then return lookingError() end
if not mayCome(name, kept[1], tonumber(ARGV[7])) then return 0 end
redis.call('ZREM', P .. 'w', name) -- an engine that is full lets clients come back
local fence = kept[2] + 1
local base = redis.call('HGET', P .. 'n:' .. kept[3], 'batch') or ''
redis.call('HSET', session, 'node', node, 'fence', fence, 'base', base)
redis.call('SREM', P .. 'h:' .. kept[3], name)
redis.call('SADD', P .. 'h:' .. node, name)
wait(name, ARGV[5])
if kept[3] ~= node then ring(kept[3], 'moved ' .. name .. ' ' .. fence) end
local ended = come(name, kept[1], tonumber(ARGV[7]))
local state = redis.call('GET', P .. 't:' .. name)
local taken, fields = {}, redis.call('HGETALL', session)
for at = 1, #fields, 2 do
  local from = fields[at]:match('^from:(.*)')
  if from and redis.call('EXISTS', P .. 'n:' .. from) == 1 then
    table.insert(taken, from)
    table.insert(taken, fields[at + 1])
  elseif from then
    redis.call('HDEL', session, fields[at])
  end
end
return {ended, fence, state, page(name, 1, '-inf', tonumber(ARGV[6])), taken}
