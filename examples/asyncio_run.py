"""
A client in a program that keeps its C{asyncio.run}: aesm works in a thread of its
own, and what it hands out asyncio can await::

    python twisted_server.py
    python asyncio_run.py [PORT]
"""

import asyncio
import sys

from aesm import ClientNetwork

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8766


async def main():
    """Send a message, and print the answer."""
    client = await asyncio.to_thread(ClientNetwork, host="127.0.0.1", port=PORT)
    try:
        await asyncio.wrap_future(client.sendData("hello"))  # the server has it
        packet = await asyncio.to_thread(client.get, timeout=30)
        print(packet.data)
    finally:
        await asyncio.to_thread(client.stop)


asyncio.run(main())
