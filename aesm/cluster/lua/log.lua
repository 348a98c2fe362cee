-- What all are told: after which position, the name of the entry there, room.
-- Returns the first position that there is, the last, and position, entry and so on;
-- just the first two, if the reader is too late: the log begins behind what it has read;
-- or nothing, if what is there is not what it has read: the engine went back in time.
-- While nodes look what is missing here (check.lua), it is refused: what was under way is
-- there again only behind that.
local log, after = P .. 'log', tonumber(ARGV[2])

if isLooking() then return lookingError() end
local ends = redis.call('ZRANGE', log, 0, 0, 'WITHSCORES')
local first = tonumber(ends[2] or 1)
local last = tonumber(redis.call('HGET', P .. 'meta', 'position') or 0)
if after > last then return false end
if after >= first then
  local read = redis.call('ZRANGEBYSCORE', log, after, after)[1]
  if ARGV[3] ~= '' and read:sub(1, #ARGV[3] + 1) ~= ARGV[3] .. ' ' then return false end
elseif after < first - 1 then
  return {first, last}
end
return {first, last, following(log, ARGV[2], tonumber(ARGV[4]))}
