"""
What a hundred sensors measure, told once a second.  A sensor that is cut off for a
while loses no reading::

    python telemetry_collector.py
    python telemetry_sensors.py
"""

import asyncio
from collections import defaultdict

from aesm import aio

readings = defaultdict(list)


async def take(sensor):
    """Take the readings of one sensor."""
    async for packet in sensor:
        readings[sensor].append(float(packet.data))


async def main():
    async with aio.serve(take, "tcp:8766:interface=127.0.0.1"):
        while True:
            await asyncio.sleep(1)
            every = [reading for each in readings.values() for reading in each]
            mean = sum(every) / max(1, len(every))
            print(len(readings), "sensors,", len(every), f"readings, {mean:.2f} °C")


asyncio.run(main())
