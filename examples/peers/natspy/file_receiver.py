"""
The receiver of ../../file_receiver.py with NATS: JetStream's object store has the
file in between, whole::

    nats-server --jetstream
    python file_sender.py FILE
    python file_receiver.py NAME
"""

import asyncio
import sys

import nats


async def main():
    broker = await nats.connect()
    store = await broker.jetstream().object_store("files")
    with open(sys.argv[1], "xb") as file:
        found = await store.get(sys.argv[1], writeinto=file)
    print("received", found.info.size, "bytes")
    await broker.drain()


asyncio.run(main())
