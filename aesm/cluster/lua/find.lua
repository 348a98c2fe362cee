-- Who is there: what to look through (n for the nodes; h:NODE, w or k:KEY for sessions),
-- from where on, about how many.
-- Returns where to go on, "0" at the end; and name, peer, node, since when, whether it
-- waits for its client, name and so on.  What is looked through in w are those that no
-- node has; or the names of nodes, for n.
local what, found = ARGV[2], {}

if what == 'n' then return {'0', redis.call('ZRANGE', P .. what, 0, -1)} end
local command = what:sub(1, 1) == 'h' and 'SSCAN' or 'ZSCAN'
local step = command == 'SSCAN' and 1 or 2
local next, some = unpack(redis.call(command, P .. what, ARGV[3], 'COUNT', ARGV[4]))
for at = 1, #some, step do
  local name = some[at]
  local kept = redis.call('HMGET', P .. 's:' .. name, 'peer', 'node')
  local peer, node = kept[1], kept[2] or ''
  if peer and not (what == 'w' and redis.call('SISMEMBER', P .. 'h:' .. node, name) == 1) then
    local since = redis.call('ZSCORE', P .. 'k:' .. peer, name)
    local waits = redis.call('ZSCORE', P .. 'w', name)
    if since then -- else it is over
      for _, each in ipairs({name, peer, node, since, waits and 1 or 0}) do
        table.insert(found, each)
      end
    end
  end
end
return {next, found}
