"""
The boss of ../../jobs_boss.py with Socket.IO: a call is told nothing of a client that
is gone, so who is disconnected has its task cancelled, which gives the job back::

    python jobs_boss.py
    python jobs_worker.py, as often as you like
"""

import asyncio

import socketio
from aiohttp import web

jobs = asyncio.Queue()
tasks = {}
server = socketio.AsyncServer()


@server.event
async def connect(sid, environ):
    tasks[sid] = asyncio.create_task(employ(sid))


@server.event
async def disconnect(sid, reason):
    tasks.pop(sid).cancel()


async def employ(worker):
    while True:
        job = await jobs.get()
        try:
            answer = await server.call("job", job, to=worker, timeout=3600)
            print(job, "squared is", answer, flush=True)
        except (asyncio.CancelledError, TimeoutError):
            jobs.put_nowait(job)
            raise
        finally:
            jobs.task_done()


async def main():
    for number in range(20):
        jobs.put_nowait(number)
    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8765).start()
    await jobs.join()
    await runner.cleanup()


asyncio.run(main())
