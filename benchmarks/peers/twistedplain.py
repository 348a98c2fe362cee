"""
Twisted's C{Int32StringReceiver}, in clear.
"""

from benchmarks.command import main
from benchmarks.peers.onreactor import TwistedPeer

if __name__ == "__main__":
    main(TwistedPeer())
