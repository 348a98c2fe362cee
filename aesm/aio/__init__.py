"""
aesm for asyncio, for programs that have never heard of Twisted::

    from aesm import aio

    async with aio.connect("tcp:127.0.0.1:8765") as client:
        await client.send("hello")
        async for packet in client:
            print(packet.data)

It runs on whichever loop runs, with no thread of its own.
"""

from aesm.aio.client import Client, ClientOptions, connect
from aesm.aio.cluster import Cluster
from aesm.aio.opening import Opening
from aesm.aio.peer import Request
from aesm.aio.server import Connection, Server, Talk, serve

__all__ = [
    "Client",
    "ClientOptions",
    "Cluster",
    "Connection",
    "Opening",
    "Request",
    "Server",
    "Talk",
    "connect",
    "serve",
]
