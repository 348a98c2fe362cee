"""
C{asyncio.Protocol} over TLS 1.3, on asyncio's own loop.
"""

from benchmarks.command import main
from benchmarks.peers.onasyncio import ProtocolPeer

if __name__ == "__main__":
    main(ProtocolPeer())
