"""
A server in a program of asyncio's: a coroutine for each client, until Ctrl-C::

    python asyncio_server.py [PORT]
"""

import asyncio
import sys
import time

from aesm import aio

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8766


async def talk(connection):
    """Say back what one client says, and answer what it asks."""
    print("here is", connection.address, connection.peer, flush=True)
    async for packet in connection:
        if not isinstance(packet, aio.Request):
            await connection.send(f"you said {packet.data!r}")
        elif packet.data == "what time is it?":
            await packet.answer(time.strftime("%H:%M"))
        else:
            await packet.refuse("ask me the time")
    print("gone is", connection.address, flush=True)


async def main():
    """Serve until Ctrl-C, which ends the coroutines and tells the clients."""
    async with aio.serve(talk, f"tcp:{PORT}:interface=127.0.0.1") as server:
        print("listening on", server.address, flush=True)
        await asyncio.Event().wait()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("stopped")
