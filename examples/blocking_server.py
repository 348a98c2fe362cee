"""
A server without a reactor in sight: it answers each packet, and says who comes
and goes.  Ctrl-C ends it::

    python blocking_server.py [PORT]
"""

import asyncio
import sys
from threading import Thread

from aesm import ConnectionClosed, ServerNetwork

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765


def watch(server):
    """Say who comes and goes, until the server is stopped."""
    while True:
        try:
            activity = server.waitForActivity()
        except ConnectionClosed:
            return
        print(activity.event, activity.peer, flush=True)


with ServerNetwork(host="127.0.0.1", port=port) as server:
    print("listening on port", server.address[1], "as", server.publicKey, flush=True)
    Thread(target=watch, args=[server]).start()
    try:
        for address, packet in server.packets():
            try:
                asyncio.run(server.sendTo(f"you said {packet.data!r}", address))
            except ConnectionClosed as reason:
                print("not answered:", reason, flush=True)
    except KeyboardInterrupt:
        print("stopping", flush=True)
