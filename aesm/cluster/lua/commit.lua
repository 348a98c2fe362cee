-- What happened at a node since its last batch, all of it or nothing: node, connection,
-- number of the batch, whether an engine that is full is to refuse it, grace, bytes of an
-- inlet, bytes of the log, how many of what goes to others the node has said before, number of
-- sessions, the name and the fence of each; then operations, each with its arguments.
-- Sessions are named by their place in the list.
--
-- What was said on a former connection, and comes late, is not done: since then the node
-- may have been told that there is no room, and have said something else by that number.
--
-- If there are sessions that are another node's by now, nothing is done: the node knows
-- what else they caused, and says the rest with the same number.  What others were to send
-- over them is not sent at all: an inlet, to which it could go instead, would be behind
-- what they send next.
--
-- The batch 0 is none: it restores sessions, of which the engine has an older state, or
-- nothing.  So a session may have an older fence then.  And it sends again what was sent
-- before, if it is not there, or was not: it may be said any number of times.
--
-- Returns which sessions are another node's, each with whether there is such a session,
-- and two numbers for each send, log and read; or, if a batch is missing in between, just the
-- last one's, and -1 if the node is not known any more.

local node, batch, grace = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[6])
local inletBound, logBound = tonumber(ARGV[7]), tonumber(ARGV[8])
local mine = P .. 'n:' .. node
local known = redis.call('HMGET', mine, 'batch', 'line')
local last = tonumber(known[1] or -1)
local restoring = batch == 0

if known[2] and known[2] ~= ARGV[3] then
  return redis.error_reply('LINE the node has another connection by now')
end

if batch <= last and not restoring then -- had it
  redis.call('HDEL', mine, '') -- an engine that is full takes this
  redis.call('HSET', mine, 'batch', last) -- or a WAIT behind this would cover nothing
  local reply = redis.call('HGET', mine, 'reply')
  return batch == last and reply and cmsgpack.unpack(reply) or {{}, {}}
end
if batch > last + 1 and not restoring then return last end

local names, sessions, lost = {}, {}, {}
local at = 11
for index = 1, tonumber(ARGV[10]) do
  local key, name = tostring(index), ARGV[at]
  local session = P .. 's:' .. name
  names[key], sessions[key] = name, session
  local fence = redis.call('HGET', session, 'fence')
  local isStale = fence ~= ARGV[at + 1]
  if restoring then isStale = compared(name, node, ARGV[at + 1]) == 'other' end
  if isStale then
    local isThere = fence and redis.call('HEXISTS', session, 'over') == 0
    table.insert(lost, {index, isThere and 1 or 0})
  end
  at = at + 2
end
if #lost > 0 then return {lost, {}} end

-- What makes room begins with what an engine takes that is full; so does what a node had
-- accepted before it knew (writer.py), and what was there before, without which nothing
-- would make room any more.
if ARGV[5] == '0' then redis.call('HDEL', mine, 'reply') end
if restoring then redis.call('HDEL', mine, '') else redis.call('HSET', mine, 'batch', ARGV[4]) end

local results = {} -- of effects

local function result(first, second)
  table.insert(results, first)
  table.insert(results, second)
end

-- What is read by another node is named by who wrote it, and its number: positions may
-- come again after the engine went back in time, but numbers only of what they were before.
-- They grow, so that one says what a session has had of a node.
local number = tonumber(ARGV[9])
local function entry(data)
  number = number + 1
  return node .. ':' .. number .. ' ' .. data
end

-- Something leaves an inlet.
local function leave(session, key, member)
  redis.call('ZREM', key, member)
  redis.call('HINCRBY', sessions[session], 'held', -#member)
  addToInlets(-#member)
end

-- Up to which number sessions have taken what nodes sent, who send it in order.
local taken = {}
local function note(session, from, upTo)
  taken[session] = taken[session] or {}
  taken[session][from] = upTo
end

-- All up to a number that came from a node leaves it.
local function sweep(session, from, upTo)
  local key, prefix = P .. 'q:' .. names[session], from .. ':'
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local name = member:match('^%S+')
    if name:sub(1, #prefix) == prefix and tonumber(name:sub(#prefix + 1)) <= upTo then
      leave(session, key, member)
    end
  end
end

-- Whether what is sent to a session is in its inlet, or something that came later.
local function isIn(session)
  local prefix = node .. ':'
  for _, member in ipairs(redis.call('ZREVRANGE', P .. 'q:' .. session, 0, -1)) do
    local name = member:match('^%S+')
    if name:sub(1, #prefix) == prefix then return tonumber(name:sub(#prefix + 1)) >= number end
  end
  return false
end

-- Tell all something: the log, with what each entry takes beside its bytes, so that small
-- ones are bounded, too.  Results are its position, and which entry of this batch it is.
local log, meta = P .. 'log', P .. 'meta'
local position -- of the last one, once there is one of this batch
local told, sizes, grown = {}, {}, 0 -- those of this batch
local function tellAll(data)
  local member = entry(data)
  position = (position or tonumber(redis.call('HGET', meta, 'position') or 0)) + 1
  redis.call('ZADD', log, position, member)
  table.insert(told, member)
  table.insert(sizes, #member)
  grown = grown + #member + 128
  result(position, number)
end

-- Each has its number of arguments, and what it does.
local operations = {
  -- public key, fence: all that there was of it goes, but its inlet
  restore = {3, function(session, peer, fence)
    local name = names[session]
    local former = redis.call('HGET', sessions[session], 'node')
    redis.call('HSET', sessions[session], 'peer', peer, 'node', node, 'fence', fence)
    come(name, peer, 0)
    redis.call('SADD', P .. 'h:' .. node, name)
    redis.call('SREM', P .. 'gone', name)
    if former and former ~= node then
      redis.call('SREM', P .. 'h:' .. former, name)
      ring(former, 'moved ' .. name .. ' ' .. fence)
    end
    for _, kind in ipairs({'t:', 'i:', 'o:', 'r:'}) do
      redis.call('DEL', P .. kind .. name)
    end
  end},

  put = {2, function(session, state)
    redis.call('SET', P .. 't:' .. names[session], state)
  end},

  -- direction, or r for a request; number, how many messages, frames.  The score is the
  -- number of the last, so that what is discarded is a range of scores.
  append = {5, function(session, direction, number, count, frames)
    local key = P .. direction .. ':' .. names[session]
    local last = count == '1' and number or number + count - 1 -- to write one takes long
    redis.call('ZADD', key, last, number .. ' ' .. count .. ' ' .. frames)
    if direction == 'i' then
      redis.call('ZADD', P .. 'in', 'NX', now(), names[session])
    end
  end},

  -- direction, number of the first that stays
  discard = {3, function(session, direction, before)
    local key = P .. direction .. ':' .. names[session]
    redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. before)
  end},

  -- number, of a request
  remove = {2, function(session, number)
    redis.call('ZREMRANGEBYSCORE', P .. 'r:' .. names[session], number, number)
  end},

  drop = {1, function(session) drop(names[session]) end},

  enter = {1, function(session)
    redis.call('ZREM', P .. 'w', names[session])
    redis.call('SADD', P .. 'h:' .. node, names[session])
  end},

  wait = {1, function(session)
    redis.call('HDEL', sessions[session], 'coming', 'asked')
    wait(names[session], grace)
  end},

  release = {1, function(session)
    redis.call('HDEL', sessions[session], 'coming', 'asked')
    redis.call('HSET', sessions[session], 'node', '')
    redis.call('HINCRBY', sessions[session], 'fence', 1)
    redis.call('SREM', P .. 'h:' .. node, names[session])
    wait(names[session], grace)
  end},

  -- position, entry's name; after the engine went back in time it may have another
  -- position by now, or come later
  took = {3, function(session, position, id)
    local from, upTo = id:match('^(.*):(%d+)$')
    local key = P .. 'q:' .. names[session]
    local member = redis.call('ZRANGEBYSCORE', key, position, position)[1]
    if member and member:sub(1, #id + 1) == id .. ' ' then
      leave(session, key, member)
    else
      sweep(session, from, tonumber(upTo))
    end
    note(session, from, upTo)
  end},

  -- node, number: what was taken, where a session is restored
  had = {3, function(session, from, upTo)
    sweep(session, from, tonumber(upTo))
    note(session, from, upTo)
  end},

  -- no more is sent to it; what is unread is left
  over = {1, function(session)
    local peer = redis.call('HGET', sessions[session], 'peer')
    redis.call('ZREM', P .. 'k:' .. peer, names[session])
    redis.call('ZREM', P .. 'w', names[session])
    emptyInlet(names[session])
  end},

  -- session, by its name; numbers of the first and the last of what was lent, and how
  -- many of these this node has read: the others are read later
  read = {4, function(name, first, last, count)
    local lent, key = P .. 'l:' .. node, P .. 'i:' .. name
    local field = name .. ' ' .. last
    if redis.call('HEXISTS', lent, field) == 1 then
      if first + count <= tonumber(last) then
        redis.call('HSET', lent, field, count)
      else
        redis.call('HDEL', lent, field)
        redis.call('ZREMRANGEBYSCORE', key, last, last)
        local kept = redis.call('HMGET', P .. 's:' .. name, 'node', 'over')
        ring(kept[1], 'read ' .. name .. ' ' .. first .. ' ' .. last)
        if kept[2] and redis.call('EXISTS', key) == 0 then drop(name) end
      end
    end
    number = number + 1
    result(0, 0)
  end},

  -- public key, data: to all its sessions.  Results are how many have it, and how many
  -- have no room for it.
  send = {2, function(peer, data)
    local sent, full, member = 0, 0, entry(data)
    for _, name in ipairs(redis.call('ZRANGE', P .. 'k:' .. peer, 0, -1)) do
      local session = P .. 's:' .. name
      local kept = redis.call('HMGET', session, 'held', 'node', 'from:' .. node)
      local held = tonumber(kept[1]) or 0
      if number <= (tonumber(kept[3]) or 0) or restoring and isIn(name) then
        sent = sent + 1 -- it has it, and the engine had
      elseif held > 0 and held + #member > inletBound then -- any one message fits
        full = full + 1
      else
        local position = redis.call('HINCRBY', session, 'position', 1)
        redis.call('ZADD', P .. 'q:' .. name, position, member)
        redis.call('HINCRBY', session, 'held', #member)
        addToInlets(#member)
        ring(kept[2], 'inlet ' .. name .. ' ' .. position .. ' ' .. member)
        sent = sent + 1
      end
    end
    result(sent, full)
  end},

  log = {1, tellAll}, -- data

  -- what was to go to others, and does not: names of what is behind it are the same
  skip = {0, function()
    number = number + 1
    result(0, 0)
  end},

  -- session, by its name; data: it is over, and whoever says so first does
  gone = {2, function(name, data)
    if redis.call('SREM', P .. 'gone', name) == 1 then
      tellAll(data)
    else
      number = number + 1
      result(0, 0)
    end
  end},
}

while at <= #ARGV do
  local name = ARGV[at]
  local count, run = unpack(operations[name])
  run(unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end

for session, numbers in pairs(taken) do
  for from, upTo in pairs(numbers) do
    if redis.call('EXISTS', sessions[session]) == 1 then -- it may be over, and read
      redis.call('HSET', sessions[session], 'from:' .. from, upTo)
    end
  end
end

-- All hear of it at once: to hear something costs a node more than to read it.
if #told > 0 then
  redis.call('HSET', meta, 'position', position)
  local held = redis.call('HINCRBY', meta, 'held', grown)
  while held > logBound and redis.call('ZCARD', log) > 1 do
    local oldest = redis.call('ZRANGE', log, 0, 0)[1]
    redis.call('ZREM', log, oldest)
    held = redis.call('HINCRBY', meta, 'held', -#oldest - 128)
  end
  local head = position - #told + 1 .. ' ' .. table.concat(sizes, ' ')
  redis.call('PUBLISH', log, head .. '\n' .. table.concat(told))
end

local reply = {{}, results}
if not restoring then redis.call('HSET', mine, 'reply', cmsgpack.pack(reply)) end
return reply
