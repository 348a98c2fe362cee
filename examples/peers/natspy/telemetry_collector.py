"""
The collector of ../../telemetry_collector.py with NATS::

    nats-server
    python telemetry_collector.py
    python telemetry_sensors.py
"""

import asyncio
from collections import defaultdict

import nats


async def main():
    readings = defaultdict(list)

    async def take(message):
        readings[message.subject].append(float(message.data))

    broker = await nats.connect()
    await broker.subscribe("readings.*", cb=take)
    while True:
        await asyncio.sleep(1)
        every = [reading for each in readings.values() for reading in each]
        mean = sum(every) / max(1, len(every))
        print(len(readings), "sensors,", len(every), f"readings, {mean:.2f} °C")


asyncio.run(main())
