"""
A queue of jobs: each is a request to a worker.  A worker that dies in the middle loses
none, another one has it::

    python jobs_boss.py
    python jobs_worker.py, as often as you like
"""

import asyncio

from aesm import ConnectionClosed, aio

jobs = asyncio.Queue()


async def employ(worker):
    """Give a worker one job after another."""
    while True:
        job = await jobs.get()
        try:
            answer = await worker.request(job)
            print(job, "squared is", answer, flush=True)
        except (asyncio.CancelledError, ConnectionClosed):
            jobs.put_nowait(job)
            raise
        finally:
            jobs.task_done()


async def main():
    for number in range(20):
        jobs.put_nowait(str(number))
    listen = "tcp:8766:interface=127.0.0.1"
    async with aio.serve(employ, listen, sessionGrace=5):  # seconds to come back in
        await jobs.join()


asyncio.run(main())
