"""
The wire protocol without I/O: bytes in, events and bytes out.

Nothing in here opens a socket, reads a clock or writes a log, so all of it
can be tested, fuzzed and read by itself.  L{aesm.core.channel.channel} is the secure
channel (docs/protocol.md, sections 2 to 5), L{aesm.core.messages.frames} and
L{aesm.core.messages.session} the message layer that runs inside it (sections 6 to 9);
the two know nothing of each other.
"""
