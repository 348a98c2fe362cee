"""
A hundred sensors, each with a connection of its own, for telemetry_collector.py.
"""

import asyncio
import random

import nats


async def measure(number):
    broker = await nats.connect()
    for _ in range(50):
        await broker.publish(f"readings.{number}", b"%.2f" % random.gauss(20, 5))
        await asyncio.sleep(0.1)
    await broker.drain()


async def main():
    await asyncio.gather(*(measure(number) for number in range(100)))


asyncio.run(main())
