"""
A client in a program of asyncio's: sends, asks, and takes what comes::

    python asyncio_server.py
    python asyncio_program.py [PORT]
"""

import asyncio
import sys

from aesm import RequestFailed, aio

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8766
WORDS = ["one", "two", "three"]


async def main():
    """Talk to the server for as long as there is something to say."""
    async with aio.connect(f"tcp:127.0.0.1:{PORT}") as client:
        async with asyncio.TaskGroup() as group:
            for word in WORDS:
                group.create_task(client.send(word))  # in order; done once it has them
        try:
            async with asyncio.timeout(30):
                print("it answers", await client.request("what time is it?"))
        except RequestFailed as refused:
            print("it does not say:", refused.reason)
        left = len(WORDS)
        async for packet in client:
            print(packet.data, flush=True)
            left -= 1
            if not left:
                break


asyncio.run(main())
