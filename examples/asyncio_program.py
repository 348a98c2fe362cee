"""
An asyncio program, on a loop of its own, that talks to a server::

    python twisted_server.py
    python asyncio_program.py [PORT]

Twisted's reactor runs on the program's loop, so that both worlds work side by side
in one thread.  A coroutine awaits what belongs to one of them: in asyncio's,
C{asFuture} makes of Twisted's Deferreds what asyncio awaits; C{fromCoroutine} starts
one of Twisted's, which awaits Deferreds and takes packets with C{async for}.
"""

import asyncio
import sys

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from aesm import connect

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8766
WORDS = ["one", "two", "three"]


async def take(client):
    """Print as many packets as there are words; a coroutine of Twisted's."""
    left = len(WORDS)
    async for packet in client.retrieved:
        print(packet.data, flush=True)
        left -= 1
        if not left:
            return


async def main(reactor, loop):
    """Send words, and print the answers; a coroutine of asyncio's."""
    client = await connect(reactor, f"tcp:127.0.0.1:{PORT}").asFuture(loop)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        taking = Deferred.fromCoroutine(take(client)).asFuture(loop)
        for word in WORDS:
            group.create_task(send(client, word, loop))
        await taking
    await client.close().asFuture(loop)


async def send(client, word, loop):
    """Send a word, and wait until the server has it."""
    await client.sendData(word).asFuture(loop)


loop = asyncio.new_event_loop()
asyncioreactor.install(loop)
react(lambda reactor: Deferred.fromFuture(loop.create_task(main(reactor, loop))))
