-- Whether messages that came over a session are there still: name, the number of the last
-- of each that came together.
-- Returns for each how many there are.
local found = {}
for at = 3, #ARGV do
  found[at - 2] = redis.call('ZCOUNT', P .. 'i:' .. ARGV[2], ARGV[at], ARGV[at])
end
return found
