"""
A worker of C{jobs_boss.py}; it takes so many seconds for a job::

    python jobs_worker.py [SECONDS]
"""

import asyncio
import sys

from aesm import aio

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.1


async def main():
    async with aio.connect("tcp:127.0.0.1:8766") as boss:
        async for job in boss:
            print("working on", job.data, flush=True)
            await asyncio.sleep(SECONDS)
            await job.answer(str(int(job.data) ** 2))


asyncio.run(main())
