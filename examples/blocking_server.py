"""
A server without a reactor in sight: it answers each packet, and says who comes
and goes.  Ctrl-C ends it::

    python blocking_server.py [PORT]
"""

import asyncio
import sys
import time

from aesm import ConnectionClosed, ServerNetwork

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765

with ServerNetwork(host="127.0.0.1", port=port) as server:
    print("listening on port", server.address[1], "as", server.publicKey, flush=True)
    try:
        while True:
            activity = server.connections.activity()
            if activity is not None:
                print(activity.event, activity.peer, flush=True)
            address, packet = server.connections.getDataOrdinal()
            if address is not None:
                try:
                    asyncio.run(server.sendTo(f"you said {packet.data!r}", address))
                except ConnectionClosed as reason:
                    print("not answered:", reason, flush=True)
            elif activity is None:
                time.sleep(0.01)
    except KeyboardInterrupt:
        print("stopping", flush=True)
