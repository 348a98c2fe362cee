"""
The handlers of C{twistd aesm}, and the plugins that make them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.chat.handler import ChatHandler
from aesm.client.connect import connect
from aesm.errors import RequestFailed
from aesm.handlers import Echo, Relay
from aesm.interfaces import IMessageHandler, IMessageHandlerMaker, IRequestHandler
from aesm.messages.connection import Connection
from aesm.messages.stream import Packet
from aesm.plugins import HandlerMaker
from aesm.server.registry import Connections
from aesm.server.service import Server, listen
from aesm.testing import MemoryNetwork
from aesm.trust.keys import PrivateKey
from aesm.trust.servers import AnyServer


def maker(name: str) -> IMessageHandlerMaker:
    """
    Find the plugin of a handler.

    @param name: what the operator types.
    """
    makers = {plugin.name: plugin for plugin in getPlugins(IMessageHandlerMaker)}
    return makers[name]


def texts(connection: Connection) -> list[str | bytes]:
    """
    Take what has arrived.

    @param connection: a client's.
    @return: the data of all packets.
    """
    taken = []
    while (packet := connection.retrieved.getData()) is not None:
        taken.append(packet.data)
    return taken


class HandlerTestCase(SynchronousTestCase):
    """A server in memory, with a handler."""

    def setUp(self) -> None:
        """Make a network."""
        self.network = MemoryNetwork()

    def serve(self, name: str, **options: Any) -> Server:
        """
        Start a server.

        @param name: of its handler.
        @param options: more of its options.
        """
        listening = listen(
            self.network.clock,
            self.network.endpoint(),
            handler=maker(name),
            key=PrivateKey.generate(),
            **options,
        )
        return self.successResultOf(listening)

    def join(self, **options: Any) -> Connection:
        """
        Connect a client.

        @param options: of C{connect}.
        """
        connecting = connect(
            self.network.clock,
            self.network.endpoint(),
            key=PrivateKey.generate(),
            trust=AnyServer(),
            **options,
        )
        self.network.deliver()
        return self.successResultOf(connecting)


class MakerTests(SynchronousTestCase):
    """The handlers are plugins."""

    def test_interface(self) -> None:
        """A maker is a plugin."""
        for name in ("relay", "echo", "inbox"):
            verifyObject(IMessageHandlerMaker, maker(name))
            verifyObject(IPlugin, maker(name))
            self.assertIsInstance(maker(name), HandlerMaker)

    def test_makes(self) -> None:
        """It makes what it is named after."""
        connections = Connections()
        self.assertIsInstance(maker("relay").makeHandler(connections), Relay)
        self.assertIsInstance(maker("echo").makeHandler(connections), Echo)
        self.assertIsNone(maker("inbox").makeHandler(connections))
        for name in ("chat", "chat-free-names"):
            self.assertIsInstance(maker(name).makeHandler(connections), ChatHandler)

    def test_description(self) -> None:
        """It says in one line what its handler does."""
        for plugin in getPlugins(IMessageHandlerMaker):
            self.assertRegex(plugin.description, r"\A\S.*\S\Z")


class RelayTests(HandlerTestCase):
    """Each message goes to every other client."""

    def test_interface(self) -> None:
        """It is a handler."""
        verifyObject(IMessageHandler, Relay(Connections()))

    def test_everyOther(self) -> None:
        """All but the sender get it: text as text, bytes as bytes, in order."""
        self.serve("relay")
        first, second, third = self.join(), self.join(), self.join()
        sent = first.sendData("text")
        first.sendData(b"bytes")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(texts(first), [])
        self.assertEqual(texts(second), ["text", b"bytes"])
        self.assertEqual(texts(third), ["text", b"bytes"])

    def test_alone(self) -> None:
        """With nobody else there the message is handled all the same."""
        self.serve("relay")
        sent = self.join().sendData("anybody?")
        self.network.deliver()
        self.assertIsNone(self.successResultOf(sent))

    def test_slow(self) -> None:
        """
        A client that does not read is closed with code 4000, and the others wait
        for nothing.
        """
        server = self.serve("relay", sendBuffer=100_000)
        first, second, third = self.join(), self.join(), self.join()
        self.network.links[1].toClient.stalled = True
        for _ in range(20):
            first.sendData(b"x" * 10_000)
            self.network.deliver()
        self.assertEqual(len(texts(third)), 20)
        self.network.advance(30)
        self.assertEqual(len(server.connections), 2)
        self.network.links[1].toClient.stalled = False
        self.network.deliver()
        self.successResultOf(second.closed())

    def test_tooBig(self) -> None:
        """
        A client that takes no messages of that size is closed with code 1009; the
        others get it.
        """
        self.serve("relay")
        first, second, third = self.join(), self.join(maxMessage=10), self.join()
        first.sendData("x" * 11)
        self.network.deliver()
        self.assertEqual(texts(third), ["x" * 11])
        reason = self.successResultOf(second.closed())
        self.assertEqual(reason.code, 1009)  # type: ignore[attr-defined]

    def test_goneMeanwhile(self) -> None:
        """
        A client that leaves while a message is on its way to it is nobody's error.
        """
        self.serve("relay")
        first, second = self.join(), self.join()
        second.abort()
        sent = first.sendData("too late")
        self.network.deliver()
        self.assertIsNone(self.successResultOf(sent))


class EchoTests(HandlerTestCase):
    """Each message goes back."""

    def test_interface(self) -> None:
        """It is a handler."""
        for interface in (IMessageHandler, IRequestHandler):
            verifyObject(interface, Echo(Connections()))

    def test_requests(self) -> None:
        """A request is answered with the same; the others refuse it."""
        self.serve("echo")
        answers = [self.join().request(each) for each in ("text", b"bytes")]
        self.network.deliver()
        self.assertEqual([*map(self.successResultOf, answers)], ["text", b"bytes"])
        for name in ("relay", "chat"):
            self.network = MemoryNetwork()
            self.serve(name)
            refused = self.join().request("?")
            self.network.deliver()
            error = self.failureResultOf(refused, RequestFailed).value
            self.assertEqual(error.code, 1003)

    def test_back(self) -> None:
        """The sender gets it, nobody else does."""
        self.serve("echo")
        first, second = self.join(), self.join()
        sent = first.sendData("text")
        first.sendData(b"bytes")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(texts(first), ["text", b"bytes"])
        self.assertEqual(texts(second), [])

    def test_holdsBack(self) -> None:
        """
        A client that sends and takes nothing is held back, and goes on when it
        takes again.
        """
        server = self.serve("echo", sendBuffer=100_000, receiveBuffer=20_000)
        client = self.join(receiveBuffer=20_000)
        last: Deferred[None] | None = None
        for _ in range(40):
            last = client.sendData(b"x" * 10_000)
        assert last is not None
        self.network.deliver()
        self.assertNoResult(last)
        self.assertEqual(len(server.connections), 1)
        answers = 0
        for _ in range(40):
            answers += len(texts(client))
            self.network.deliver()
        self.assertEqual(answers, 40)
        self.successResultOf(last)

    def test_goneWhileHeldBack(self) -> None:
        """A client that leaves while it is held back is nobody's error."""
        server = self.serve("echo", sendBuffer=10_000)
        client = self.join(receiveBuffer=1_000)
        for _ in range(5):
            client.sendData(b"x" * 3_000)
        self.network.deliver()
        client.abort()
        self.network.deliver()
        self.assertEqual(len(server.connections), 0)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_tooBig(self) -> None:
        """A client that does not take what it sends is closed with code 1009."""
        self.serve("echo")
        client = self.join(maxMessage=10)
        client.sendData("x" * 11)
        self.network.deliver()
        reason = self.successResultOf(client.closed())
        self.assertEqual(reason.code, 1009)  # type: ignore[attr-defined]


class InboxTests(HandlerTestCase):
    """Messages stay in the server."""

    def test_stay(self) -> None:
        """They are in the streams of the server's connections."""
        server = self.serve("inbox")
        sent = self.join().sendData("kept")
        self.network.deliver()
        self.successResultOf(sent)
        _, packet = server.connections.getDataOrdinal()
        self.assertIsInstance(packet, Packet)
        self.assertEqual(packet.data, "kept")
