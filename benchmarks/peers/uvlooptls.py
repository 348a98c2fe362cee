"""
C{asyncio.Protocol} over TLS 1.3, on uvloop.
"""

import uvloop

from benchmarks.command import main
from benchmarks.peers.onasyncio import ProtocolPeer


class Peer(ProtocolPeer):
    """The same on another loop."""

    loopFactory = staticmethod(uvloop.new_event_loop)


if __name__ == "__main__":
    main(Peer())
