-- Say something to a node, or to all: the channel, the words.
-- Returns how many hear it.
return redis.call('PUBLISH', P .. ARGV[2], ARGV[3])
