"""
Twisted's C{Int32StringReceiver} over TLS 1.3, both sides with certificates: the client
proves a key as well, as with aesm.
"""

from benchmarks.command import main
from benchmarks.peers.twistedtls import TLSPeer

if __name__ == "__main__":
    main(TLSPeer(mutual=True))
