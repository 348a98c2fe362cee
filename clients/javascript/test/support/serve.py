"""
Servers for the tests, one for each object of options: they send messages back, and
answer requests with what these say.  It prints where each listens and with which key,
and ends with its standard input.
"""

import json
import sys

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react

from aesm import MessageHandler, PrivateKey, RequestFailed, listen


class Answers(MessageHandler):
    """Answers, refuses, asks back, or never answers."""

    def __init__(self):
        self.withdrawn = 0

    def packetReceived(self, connection, packet):
        connection.sendData(packet.data)

    async def requestReceived(self, connection, packet):
        if packet.data == "refuse":
            raise RequestFailed(404, "no such thing")
        if packet.data == "ask back":
            return await connection.request("who?")
        if packet.data == "never":
            await Deferred(self._withdrawn)
        if packet.data == "withdrawn":
            return str(self.withdrawn)
        return packet.data

    def _withdrawn(self, result):
        self.withdrawn += 1


async def start(reactor, options):
    if "psk" in options:
        options["psk"] = bytes.fromhex(options["psk"])
    server = await listen(
        reactor,
        "tcp:0:interface=127.0.0.1",
        key=PrivateKey.generate(),
        handler=Answers(),
        handshakesPerHost=1e6,
        maxConnections=1000,
        maxConnectionsPerHost=1000,
        **options,
    )
    where = "{}:{}".format(*server.address)
    print(f"listening on {where} with the public key {server.publicKey}", flush=True)
    return server


async def main(reactor, *all):
    servers = [await start(reactor, json.loads(options)) for options in all]
    ended = Deferred()
    lines = Protocol()
    lines.connectionLost = lambda reason: ended.callback(None)
    StandardIO(lines, reactor=reactor)
    await ended
    for server in servers:
        await server.stop()


react(lambda reactor, *all: ensureDeferred(main(reactor, *all)), sys.argv[1:])
