"""
ZeroMQ, DEALER to ROUTER, with CURVE.
"""

from benchmarks.command import main
from benchmarks.peers.onzeromq import ZeroMQPeer

if __name__ == "__main__":
    main(ZeroMQPeer(curve=True))
