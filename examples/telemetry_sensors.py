"""
A hundred sensors, each with a connection of its own, for C{telemetry_collector.py}::

    python telemetry_sensors.py
"""

import asyncio
import random

from aesm import aio


async def measure():
    async with aio.connect("tcp:127.0.0.1:8766") as collector:
        for _ in range(50):
            await collector.send(f"{random.gauss(20, 5):.2f}")
            await asyncio.sleep(0.1)


async def main():
    await asyncio.gather(*(measure() for _ in range(100)))


asyncio.run(main())
