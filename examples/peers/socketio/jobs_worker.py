"""
A worker of jobs_boss.py; it takes so many seconds for a job.
"""

import asyncio
import sys

import socketio

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.1
client = socketio.AsyncClient()


@client.event
async def job(number):
    print("working on", number, flush=True)
    await asyncio.sleep(SECONDS)
    return number**2


async def main():
    await client.connect("http://127.0.0.1:8765")
    await client.wait()


asyncio.run(main())
