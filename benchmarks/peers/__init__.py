"""
The programs that are compared: one small module for each, all with the command line
of L{benchmarks.command}::

    python -m benchmarks.peers.twistedtls server --directory DIR
    python -m benchmarks.peers.twistedtls client --directory DIR ... <<< PORT

A module has a C{Peer} with what L{benchmarks.client} and L{benchmarks.server}
need: C{listen}, C{connect} and C{sendAll}, and the event loop's C{run},
C{spawn}, C{signal} and C{gather}.  Where a message can be sent before there is a
connection, C{dial} gets the first answer sooner than C{connect}.  A connection is a
I{link}: an object with C{received} (called with each message), C{send}, C{sendMany}
and C{close}, each of which does what is best with that library; where the library
has requests, C{request} gives what it awaits, and the server answers with the same.
"""
