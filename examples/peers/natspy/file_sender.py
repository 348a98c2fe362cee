"""
The sender of file_receiver.py.
"""

import asyncio
import os
import sys

import nats


async def main():
    broker = await nats.connect()
    store = await broker.jetstream().create_object_store("files")
    with open(sys.argv[1], "rb") as file:
        info = await store.put(os.path.basename(sys.argv[1]), file)
    print("sent", info.size, "bytes")
    await broker.drain()


asyncio.run(main())
