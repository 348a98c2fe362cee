"""
A server with a coroutine for each client, who is to guess a number.  A client that is
cut off and comes back goes on where it was::

    python examples/coroutine_server.py 8766
    aesm connect tcp:127.0.0.1:8766
"""

import random
import sys

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from aesm import listen


async def play(connection):
    number = random.randint(1, 100)
    connection.sendData("guess a number from 1 to 100")
    async for packet in connection.retrieved:  # ends when the client leaves
        guess = int(packet.data) if str(packet.data).isdecimal() else 0
        if guess == number:
            connection.sendData("yes!")
            return  # closes the connection, behind what was sent
        await connection.sendData("more" if guess < number else "less")


async def main(reactor, port):
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    server = await listen(reactor, endpoint, handler=play)
    reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    await Deferred()  # until Ctrl-C


react(lambda reactor, port: ensureDeferred(main(reactor, port)), sys.argv[1:])
