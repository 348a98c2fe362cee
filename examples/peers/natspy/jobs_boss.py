"""
The boss of ../../jobs_boss.py with NATS: jobs are a stream of JetStream's, and one
that nobody acknowledges goes to another worker::

    nats-server --jetstream
    python jobs_boss.py
    python jobs_worker.py, as often as you like
"""

import asyncio

import nats

JOBS = 20


async def main():
    broker = await nats.connect()
    stream = broker.jetstream()
    await stream.add_stream(name="jobs", subjects=["jobs"], retention="workqueue")
    answers = await broker.subscribe("answers")
    for number in range(JOBS):
        await stream.publish("jobs", b"%d" % number)
    done = set()
    async for message in answers.messages:
        job, answer = message.data.split()
        if job not in done:  # a job whose worker died too late is done twice
            done.add(job)
            print(job.decode(), "squared is", answer.decode(), flush=True)
        if len(done) == JOBS:
            break
    await broker.drain()


asyncio.run(main())
