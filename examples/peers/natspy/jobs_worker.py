"""
A worker of jobs_boss.py; it takes so many seconds for a job.
"""

import asyncio
import sys

import nats
from nats.js.api import ConsumerConfig

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.1


async def main():
    broker = await nats.connect()
    patience = ConsumerConfig(ack_wait=10)  # then the job is another worker's
    jobs = await broker.jetstream().pull_subscribe("jobs", "workers", config=patience)
    while True:
        try:
            [job] = await jobs.fetch(1, timeout=60)
        except TimeoutError:
            continue
        print("working on", job.data.decode(), flush=True)
        await asyncio.sleep(SECONDS)
        await broker.publish("answers", b"%b %d" % (job.data, int(job.data) ** 2))
        await job.ack()


asyncio.run(main())
