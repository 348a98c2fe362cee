-- What each script but join.lua begins with.  KEYS[1] is "{aesm:NAME}:", in one hash
-- slot; ARGV[1] is the epoch that the node knows.
--
-- The first write of a script decides whether all of it happens: an engine that is full,
-- a replica or cannot write its file refuses that one, and nothing behind it.  So a
-- script that adds much begins with a write that an engine which is full refuses
-- (HSET, ZADD), and one without which no room would ever be made with one that it takes
-- (ZREM, HDEL, PEXPIRE).

--   meta    format, epoch; pulse, calm, ahead (lease.lua); history, looking (check.lua);
--           position, held: of the log; inlets: bytes in all of them
--   n       nodes, by the time at which they are given up
--   n:ID    process; line: the connection that it has; batch, reply: the last one's;
--           history: for which it has restored all; looked: and done what was under
--           way; says, drain (lease.lua); and the channel that is its doorbell
--   h:ID    the sessions that a node has; x:ID, while it looks: those that it says it has
--   w       sessions whose clients are away, by the time at which they are given up
--   s:S     peer, node, fence; base: the last batch of the node before, when it was
--           claimed; position, held: of its inlet; from:ID: up to which number it has taken
--           what that node sent; lent: the last that was, of i:S; over;
--           coming: until when its client counts as there, before it is said to be
--           asked: once its node was, since it waits, to end it (sweep.lua)
--   t:S     its state; apart, since what is small takes little room together
--   i:S o:S messages that nobody took, and that its peer did not acknowledge
--   r:S     requests that are open, one each
--   q:S     its inlet: what others sent to it
--   k:KEY   the sessions of a key, in the order in which their clients came last
--   in      sessions of which something is unread, by the time since when
--   l:ID    what a node has been lent to read (work.lua): session and number of the
--           last, and how many of it were read
--   back    the same, of nodes that were given up
--   log     what all were told; and the channel that says so
--   shots   two snapshots of what replicas made of that, by their positions
--   replica while there are such: then it is to be said of all sessions that end
--   gone    those of which it was not said

local P = KEYS[1]
local COMING = 10000 -- milliseconds, in which a node lets a client in

local epoch, ahead = unpack(redis.call('HMGET', P .. 'meta', 'epoch', 'ahead'))
if epoch ~= ARGV[1] then
  return redis.error_reply('EPOCH the engine has lost its data, or they were replaced')
end

-- The engine's time, milliseconds: that of its clock, and by how much that was set back.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + (tonumber(ahead) or 0)
end

-- Give a session up unless its client comes, or is said to be there, in time.
local function wait(name, millis)
  redis.call('ZADD', P .. 'w', now() + millis, name)
end

-- Compare what a node knows of a session with what is here: it is as the node says
-- ('same'), here is nothing or an older fence ('older'), or it is another one's ('other').
local function compared(name, node, fence)
  local kept = redis.call('HMGET', P .. 's:' .. name, 'fence', 'node')
  if kept[1] == fence and kept[2] == node then return 'same' end
  return (tonumber(kept[1]) or 0) < tonumber(fence) and 'older' or 'other'
end

-- Tell whether nodes look what is missing here (check.lua), and are waited for.
local function isLooking()
  return now() < tonumber(redis.call('HGET', P .. 'meta', 'looking') or 0)
end

local function lookingError()
  return redis.error_reply('LOOKING other nodes see whether anything is missing')
end

-- Tell whether all nodes are as far with a history.
local function areAll(field, history)
  for _, node in ipairs(redis.call('ZRANGE', P .. 'n', 0, -1)) do
    if redis.call('HGET', P .. 'n:' .. node, field) ~= history then return false end
  end
  return true
end

-- Ring a node's doorbell.  Who misses it asks.
local function ring(node, what)
  if node and node ~= '' then
    redis.call('PUBLISH', P .. 'n:' .. node, what)
  end
end

-- So many bytes more are in inlets.
local function addToInlets(bytes)
  redis.call('HINCRBY', P .. 'meta', 'inlets', bytes)
end

-- Remove a session's inlet.
local function emptyInlet(name)
  if redis.call('DEL', P .. 'q:' .. name) == 1 then
    addToInlets(-(redis.call('HGET', P .. 's:' .. name, 'held') or 0))
  end
end

-- Somebody wants to know of all sessions that are over, for so many milliseconds.
local function remember(millis)
  if redis.call('PEXPIRE', P .. 'replica', millis) == 0 then
    redis.call('SET', P .. 'replica', 1, 'PX', millis)
  end
end

-- A session is over, unless it was already.
local function gone(name)
  if redis.call('EXISTS', P .. 'replica') == 1 then redis.call('SADD', P .. 'gone', name) end
end

-- Remove all that there is of a session.  Returns whose it was.
local function drop(name)
  local kept = redis.call('HMGET', P .. 's:' .. name, 'node', 'peer', 'over')
  redis.call('ZREM', P .. 'w', name)
  redis.call('ZREM', P .. 'in', name)
  if kept[1] then
    redis.call('SREM', P .. 'h:' .. kept[1], name)
    redis.call('ZREM', P .. 'k:' .. kept[2], name)
  end
  emptyInlet(name)
  for _, kind in ipairs({'s:', 't:', 'i:', 'o:', 'r:'}) do
    redis.call('DEL', P .. kind .. name)
  end
  if kept[1] and not kept[3] then gone(name) end
  return kept[1]
end

-- A session is over, since its client did not come, or a newer one of its key did.  What
-- came over it and nobody has read is left to be read; it was acknowledged.  Returns
-- whose it was.
local function give(name)
  if redis.call('EXISTS', P .. 'i:' .. name) == 0 then return drop(name) end
  local session = P .. 's:' .. name
  local kept = redis.call('HMGET', session, 'node', 'peer', 'fence')
  redis.call('ZREM', P .. 'w', name)
  redis.call('SREM', P .. 'h:' .. kept[1], name)
  redis.call('ZREM', P .. 'k:' .. kept[2], name)
  redis.call('HSET', session, 'over', 1, 'node', '', 'fence', kept[3] + 1)
  emptyInlet(name)
  for _, kind in ipairs({'t:', 'o:', 'r:'}) do
    redis.call('DEL', P .. kind .. name)
  end
  gone(name)
  return kept[1]
end

-- Tell at which node something of a session is unread, if that lives: it counts there, and
-- the node is to end it.  Its session waits until it has, no longer than a lease.
local function holder(name)
  local node = redis.call('HGET', P .. 's:' .. name, 'node')
  if not node or not redis.call('ZSCORE', P .. 'n', node) then return nil end
  if redis.call('EXISTS', P .. 'i:' .. name) == 1 then return node end
end

-- Tell whether a client of a key may come with a session: not while another one is there,
-- if only one may be, which goes on (-1).
local function mayCome(name, peer, most)
  if most >= 0 then return true end
  local time = now()
  for _, other in ipairs(redis.call('ZRANGE', P .. 'k:' .. peer, 0, -1)) do
    local kept = redis.call('HMGET', P .. 's:' .. other, 'node', 'coming')
    local lease = kept[1] and redis.call('ZSCORE', P .. 'n', kept[1]) or 0
    local isThere = not redis.call('ZSCORE', P .. 'w', other) or time < tonumber(kept[2] or 0)
    if other ~= name and isThere and time <= tonumber(lease) then return false end
  end
  return true
end

-- A client comes with a session: it counts as there, where that matters, since others may
-- come before its node says so.
local function comes(name, most)
  if most < 0 then redis.call('HSET', P .. 's:' .. name, 'coming', now() + COMING) end
end

-- A client has come: its session is the newest one of its key.  Of these only so many may
-- be, if that is more than 0; the others go.  Returns which.
local function come(name, peer, most)
  local key, time = P .. 'k:' .. peer, now()
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2] or 0
  redis.call('ZADD', key, math.max(time, last + 1), name)
  comes(name, most)
  if most <= 0 then return {} end
  local ended = {}
  for _, other in ipairs(redis.call('ZRANGE', key, 0, -most - 1)) do
    local node = holder(other)
    if node then
      redis.call('ZREM', key, other)
      wait(other, COMING)
      ring(node, 'newer ' .. other)
    else
      ring(give(other), 'replaced ' .. other)
      table.insert(ended, other)
    end
  end
  return ended
end

-- Read what is kept of a session, from a place on, until there is no room: incoming
-- (kind 1), outgoing (2), open requests (3).  Returns these, and where to go on: kind
-- and number, or nothing if there is no more.
local function page(name, kind, after, room)
  local found = {{}, {}, {}, {}}
  for which = kind, 3 do
    local key = P .. ('ior'):sub(which, which) .. ':' .. name
    repeat
      local some = redis.call(
        'ZRANGEBYSCORE', key, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, 16)
      for at = 1, #some, 2 do
        if room <= 0 then
          found[4] = {which, after}
          return found
        end
        table.insert(found[which], some[at])
        room, after = room - #some[at], some[at + 1]
      end
    until #some < 32
    after = '-inf'
  end
  return found
end

-- Read members in the order of their scores, until there is no room; at least one.
-- Returns score, member, score, member and so on.
local function following(key, after, room)
  local found = {}
  repeat
    local some = redis.call(
      'ZRANGEBYSCORE', key, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, 16)
    for at = 1, #some, 2 do
      if room <= 0 then return found end
      table.insert(found, some[at + 1])
      table.insert(found, some[at])
      room, after = room - #some[at], some[at + 1]
    end
  until #some < 32
  return found
end
