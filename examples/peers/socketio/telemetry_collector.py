"""
The collector of ../../telemetry_collector.py with Socket.IO::

    python telemetry_collector.py
    python telemetry_sensors.py
"""

import asyncio
from collections import defaultdict

import socketio
from aiohttp import web

readings = defaultdict(list)
server = socketio.AsyncServer()


@server.event
async def reading(sid, data):
    readings[sid].append(data)


async def main():
    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8765).start()
    while True:
        await asyncio.sleep(1)
        every = [reading for each in readings.values() for reading in each]
        mean = sum(every) / max(1, len(every))
        print(len(readings), "sensors,", len(every), f"readings, {mean:.2f} °C")


asyncio.run(main())
