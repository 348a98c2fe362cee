from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react
from zope.interface import implementer

from aesm import IMessageHandler, listen


@implementer(IMessageHandler)
class Greeter:
    def connectionAccepted(self, connection):
        print("here is", connection.address, connection.peer)

    async def packetReceived(self, connection, packet):
        await connection.sendData(f"you said {packet.data!r}")

    def connectionLost(self, connection, reason):
        print("gone is", connection.address, reason)


async def main(reactor):
    server = await listen(reactor, "tcp:8766:interface=127.0.0.1", handler=Greeter())
    reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    await Deferred()  # until Ctrl-C, which lets the server say goodbye


react(lambda reactor: ensureDeferred(main(reactor)))
