-- A node looks what the engine has of its sessions, since its history is another one: it
-- was started again, or a replica has taken its place, and either may have lost the last
-- that was written: node, history, lease, grace, whether it begins to look, then name,
-- fence and the batch in which it was written last, of each session.
-- Who comes with a history first has all others look, too, before anything is written
-- or claimed; those that do not within a lease are not waited for.
-- Returns the last batch of the node that is here (-1 for none), and of each session 0 if
-- all of it is here, 1 if not, 2 if it is not the node's any more, 3 if it went on
-- elsewhere without what was written last.
local node, meta, time = ARGV[2], P .. 'meta', now()

redis.call('HDEL', meta, '') -- an engine that is full takes this
local history = redis.call('HGET', meta, 'history') -- none, where all is new
if history ~= ARGV[3] then
  if history then redis.call('HSET', meta, 'looking', time + ARGV[4]) end
  redis.call('HSET', meta, 'history', ARGV[3], 'calm', time + ARGV[5])
end
local last = tonumber(redis.call('HGET', P .. 'n:' .. node, 'batch') or -1)
local found = {}
if ARGV[6] == '1' then redis.call('DEL', P .. 'x:' .. node) end -- of a former attempt
for at = 7, #ARGV, 3 do
  local name, fence, written = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local state = compared(name, node, fence)
  if state == 'other' then
    local kept = redis.call('HMGET', P .. 's:' .. name, 'fence', 'base')
    local base = tonumber(kept[1]) == fence + 1 and tonumber(kept[2])
    table.insert(found, base and base < written and 3 or 2)
  else
    redis.call('SADD', P .. 'x:' .. node, name)
    table.insert(found, (state == 'older' or written > last) and 1 or 0)
  end
end
return {last, found}
