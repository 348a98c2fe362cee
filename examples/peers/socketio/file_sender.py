"""
The sender of file_receiver.py.
"""

import asyncio
import hashlib
import os
import sys

import socketio

client = socketio.AsyncClient()


async def main():
    await client.connect("http://127.0.0.1:8765", transports=["websocket"])
    with open(sys.argv[1], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(await client.call("offer", os.path.basename(sys.argv[1])))
        while piece := file.read(1 << 20):
            await client.call("piece", piece)
        if not await client.call("done", digest):
            raise SystemExit("the file came to be another one")
        print("sent", file.tell(), "bytes")
    await client.disconnect()


asyncio.run(main())
