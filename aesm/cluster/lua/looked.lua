-- What was under way at a node when it looked is done: node, history.  Once it is at all
-- nodes, sessions can be claimed: what they caused is neither told twice nor left out.
redis.call('HSET', P .. 'n:' .. ARGV[2], 'looked', ARGV[3])
if areAll('looked', ARGV[3]) then redis.call('HDEL', P .. 'meta', 'looking') end
