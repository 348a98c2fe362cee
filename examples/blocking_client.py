"""
A client without a reactor in sight: it sends one message, and prints the answer::

    python blocking_client.py [PORT]
"""

import sys

from aesm import ClientNetwork

port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765

with ClientNetwork(host="127.0.0.1", port=port) as client:
    client.sendData("hello").result(timeout=30)  # the server has it
    print(client.get(timeout=30).data)
