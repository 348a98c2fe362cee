"""
A hundred sensors, each with a connection of its own, for telemetry_collector.py.
"""

import asyncio
import random

import socketio


async def measure():
    client = socketio.AsyncClient()
    await client.connect("http://127.0.0.1:8765")
    for _ in range(50):
        await client.emit("reading", round(random.gauss(20, 5), 2))
        await asyncio.sleep(0.1)
    await client.disconnect()


async def main():
    await asyncio.gather(*(measure() for _ in range(100)))


asyncio.run(main())
