-- Clean up: lease, grace, how many sessions; and for how many milliseconds from now on
-- sessions that are over are to be said to be, 0 where nobody wants to know.  Those of
-- nodes that are gone begin to wait; those that have waited too long go.  If something of one
-- is unread, it counts for its node; so that ends it, if it lives, and has a lease for it.
-- Returns how many it found, and which are over, and nobody has said so.
local lease, grace, room = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time, most = now(), room

local function found(count)
  if ARGV[5] == '0' then return {count, {}} end
  return {count, redis.call('SRANDMEMBER', P .. 'gone', most)}
end

if ARGV[5] ~= '0' then remember(ARGV[5]) end

local state = redis.call('HMGET', P .. 'meta', 'pulse', 'calm')
if math.abs(time - (tonumber(state[1]) or 0)) > lease or time < (tonumber(state[2]) or 0) then
  return found(0) -- as lease.lua says
end

for _, node in ipairs(redis.call('ZRANGEBYSCORE', P .. 'n', '-inf', '(' .. time)) do
  local has = P .. 'h:' .. node
  for _, name in ipairs(redis.call('SRANDMEMBER', has, room)) do
    redis.call('SREM', has, name)
    if redis.call('HGET', P .. 's:' .. name, 'node') == node then
      redis.call('ZADD', P .. 'w', 'NX', time + grace, name)
    end
    room = room - 1
  end
  if room == 0 then return found(most) end
  redis.call('ZREM', P .. 'n', node)
  local lent = redis.call('HGETALL', P .. 'l:' .. node)
  for at = 1, #lent, 2 do
    redis.call('RPUSH', P .. 'back', lent[at] .. ' ' .. lent[at + 1])
  end
  redis.call('DEL', P .. 'l:' .. node)
end

local function asks(name)
  local node = holder(name)
  if not node then return false end
  redis.call('ZREM', P .. 'w', name) -- an engine that is full takes this
  if redis.call('HSETNX', P .. 's:' .. name, 'asked', 1) == 0 then return false end
  redis.call('ZADD', P .. 'w', time + lease, name)
  ring(node, 'expired ' .. name)
  return true
end

local waited = redis.call('ZRANGEBYSCORE', P .. 'w', '-inf', '(' .. time, 'LIMIT', 0, room)
for _, name in ipairs(waited) do
  if not asks(name) then ring(give(name), 'gone ' .. name) end
end
return found(most - room + #waited)
