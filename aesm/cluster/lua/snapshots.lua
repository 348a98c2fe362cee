-- What replicas made of the log, for one that begins with it, or goes back: for how many
-- milliseconds from now on sessions that are over are to be said to be.
-- Returns member, position and so on of those from which the log goes on.
remember(ARGV[2])
local first = tonumber(redis.call('ZRANGE', P .. 'log', 0, 0, 'WITHSCORES')[2] or 1)
return redis.call('ZRANGEBYSCORE', P .. 'shots', first - 1, '+inf', 'WITHSCORES')
