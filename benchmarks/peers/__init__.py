"""
The programs that are compared: one small module for each, all with the same
command line::

    python -m benchmarks.peers.twistedtls server --directory DIR
    python -m benchmarks.peers.twistedtls client --directory DIR --port PORT ...

A module has a C{Peer} with what L{benchmarks.client} and L{benchmarks.server}
need: C{listen}, C{connect} and C{sendAll}, and the event loop's C{run},
C{spawn}, C{signal} and C{gather}.  A connection is a I{link}: an
object with C{received} (called with each message), C{send}, C{sendMany} and
C{close}, each of which does what is best with that library.
"""
