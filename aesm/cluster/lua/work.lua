-- What came and nobody has read, to be read by a node: node, room.  Nobody else has it
-- meanwhile, unless the node is given up before it says that it has read it (commit.lua).
-- Returns session, peer, member, how many of it were read, session and so on; each member
-- is messages that came together, as they were appended.
local node, room = ARGV[2], tonumber(ARGV[3])
local lent, found = P .. 'l:' .. node, {}

local function lend(name, member, number, count)
  local session = P .. 's:' .. name
  redis.call('HSET', lent, name .. ' ' .. number, count)
  table.insert(found, name)
  table.insert(found, redis.call('HGET', session, 'peer') or '')
  table.insert(found, member)
  table.insert(found, count)
  room = room - #member
end

-- First what nodes had that were given up.
while room > 0 do
  local back = redis.call('LPOP', P .. 'back')
  if not back then break end
  local name, number, count = back:match('^(%S+) (%d+) (%d+)$')
  local member = redis.call('ZRANGEBYSCORE', P .. 'i:' .. name, number, number)[1]
  if member then lend(name, member, number, count) end
end

for _, name in ipairs(redis.call('ZRANGE', P .. 'in', 0, 255)) do
  local session = P .. 's:' .. name
  local after = redis.call('HGET', session, 'lent') or '-inf'
  while room > 0 do
    local next = redis.call(
      'ZRANGEBYSCORE', P .. 'i:' .. name, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if #next == 0 then
      redis.call('ZREM', P .. 'in', name)
      break
    end
    after = next[2]
    redis.call('HSET', session, 'lent', after)
    lend(name, next[1], after, '0')
  end
  if room <= 0 then break end
end
return found
