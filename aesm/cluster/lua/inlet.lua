-- What others sent to a session: name, after which position, room.
-- Returns position, entry, position, entry and so on.
return following(P .. 'q:' .. ARGV[2], ARGV[3], tonumber(ARGV[4]))
