"""
Tests for L{aesm.chat.handler}.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import AnyServer, connect, listen
from aesm.chat.client import ChatClient
from aesm.chat.handler import AWAY_DELAY, ChatHandler, freeNames
from aesm.chat.rules import MAX_LINE
from aesm.interfaces import IMessageHandler, IMessageHandlerMaker, ISessionHandler
from aesm.messages.connection import Connection
from aesm.server.registry import Connections
from aesm.server.service import Server
from aesm.testing import ConnectedPair, MemoryNetwork, connectedPair
from aesm.trust.clients import RELOAD_INTERVAL
from aesm.trust.keys import PrivateKey
from tests.chat.test_client import Recorder


class ChatHandlerTests(SynchronousTestCase):
    """The rules on a server's connections."""

    def makePair(self, **options: Any) -> ConnectedPair:
        """
        Make a chat with one client.

        @param options: of both.
        """
        return connectedPair(Maker(Clock()), **options)

    def join(self, pair: ConnectedPair, nick: str, **options: Any) -> Connection:
        """
        Bring another client into the chat.

        @param pair: the server, and its network.
        @param nick: the client's name.
        @param options: of the client.
        """
        connecting = connect(
            pair.clock,
            pair.network.endpoint(),
            key=PrivateKey.generate(),
            trust=AnyServer(),
            **options,
        )
        pair.deliver()
        client = self.successResultOf(connecting)
        client.sendData(f"/nick {nick}")
        pair.deliver()
        return client

    def linesOf(self, connection: Connection) -> list[object]:
        """
        Take what a client has received.

        @param connection: the client's.
        """
        take: Callable[[], Any] = connection.retrieved.getData
        return [packet.data for packet in iter(take, None)]

    def test_interface(self) -> None:
        """It is a handler."""
        handler = ChatHandler(Connections(), Clock())
        verifyObject(IMessageHandler, handler)
        verifyObject(ISessionHandler, handler)

    def test_conversation(self) -> None:
        """Two clients chat, and each line is acknowledged once it is dealt with."""
        pair = self.makePair()
        pair.client.sendData("/nick alice")
        pair.deliver()
        bob = self.join(pair, "bob")
        self.linesOf(pair.client), self.linesOf(bob)
        sent = bob.sendData("hello")
        pair.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.linesOf(pair.client), ["say lobby bob: hello"])
        pair.client.sendData("/whois bob")
        bob.close()
        pair.deliver()
        (whois, left) = self.linesOf(pair.client)
        self.assertRegex(str(whois), r"^whois bob: [A-Za-z0-9+/]{43}=$")
        self.assertEqual(left, "leave lobby bob")

    def test_twice(self) -> None:
        """A line that is told twice in a row comes twice, to each."""
        pair = self.makePair()
        pair.client.sendData("/nick alice")
        pair.deliver()
        handler = pair.server.factory.manager.handler
        assert isinstance(handler, ChatHandler)
        bob = self.join(pair, "bob")
        alice, other = pair.server.connections.values()
        self.linesOf(pair.client), self.linesOf(bob)
        one, two = alice.session.name, other.session.name
        rows = [("x", (one,)), ("x", (one, two)), ("y", (one,))]
        handler._deliver([*rows, ("z", ("a session that is gone",))])
        pair.deliver()
        self.assertEqual(self.linesOf(pair.client), ["x", "x", "y"])
        self.assertEqual(self.linesOf(bob), ["x"])

    def test_slowPeer(self) -> None:
        """A client that does not read is closed, and holds nobody up."""
        pair = self.makePair(
            server={"sendBuffer": 300_000, "messagesPerKey": 1e6, "bytesPerKey": 1e9}
        )
        pair.client.sendData("/nick alice")
        pair.deliver()
        bob = self.join(pair, "bob", receiveBuffer=70_000)
        said = []
        for _ in range(120):
            sent = pair.client.sendData("x" * MAX_LINE)
            pair.deliver()
            self.successResultOf(sent)
            said += self.linesOf(pair.client)
        reason: Any = self.successResultOf(bob.closed())
        self.assertEqual(reason.code, 4000)
        self.assertEqual(said.count("leave lobby bob"), 1)
        mine = [line for line in said if str(line).startswith("say lobby alice")]
        self.assertEqual(len(mine), 120)
        events = [self.reasonOf(pair) for _ in range(3)]
        self.assertIn("4000", events[-1])

    def reasonOf(self, pair: ConnectedPair) -> str:
        """
        Take the server's next entry in the activity log.

        @param pair: the server.
        @return: the entry's reason.
        """
        activity = pair.server.connections.activity()
        assert activity is not None
        return activity.reason

    def test_smallPeer(self) -> None:
        """A client that takes no message so large is closed, and told why."""
        pair = self.makePair()
        pair.client.sendData("/nick alice")
        pair.deliver()
        bob = self.join(pair, "bob", maxMessage=200)
        pair.client.sendData("x" * 300)
        pair.deliver()
        reason = self.successResultOf(bob.closed())
        self.assertEqual(reason.code, 1009)  # type: ignore[attr-defined]

    def test_floodingPeer(self) -> None:
        """A client that sends and does not read is held back."""
        pair = self.makePair(
            client={"receiveBuffer": 66_000}, server={"sendBuffer": 100_000}
        )
        pair.client.sendData("/nick alice")
        sent = [pair.client.sendData("x" * MAX_LINE) for _ in range(60)]
        pair.deliver()
        self.successResultOf(sent[10])
        self.assertNoResult(sent[-1])
        while self.linesOf(pair.client):
            pair.deliver()
        self.successResultOf(sent[-1])

    def test_goneWhileHeldBack(self) -> None:
        """A client that goes while it is held back is no error."""
        pair = self.makePair(
            client={"receiveBuffer": 66_000}, server={"sendBuffer": 100_000}
        )
        pair.client.sendData("/nick alice")
        for _ in range(60):
            pair.client.sendData("x" * MAX_LINE)
        pair.deliver()
        pair.client.abort()
        pair.deliver()
        self.assertEqual(self.flushLoggedErrors(), [])


@implementer(IMessageHandlerMaker)
class Maker:
    """Makes chats on a clock of its own."""

    name = "chat"
    description = "a chat"

    def __init__(self, clock: Clock) -> None:
        """@param clock: keeps time."""
        self.clock = clock

    def makeHandler(self, connections: Connections) -> ChatHandler:
        """Make the handler of one server."""
        return ChatHandler(connections, self.clock)


class ListedTests(SynchronousTestCase):
    """A chat whose server has a list of keys, and clients that come back."""

    def setUp(self) -> None:
        """Start a server with three clients, the first an operator."""
        self.network = MemoryNetwork()
        self.serverKey = PrivateKey.generate()
        self.keys = [PrivateKey.generate() for _ in range(3)]
        self.list = Path(self.mktemp())
        ann, bob, cec = (key.publicKey for key in self.keys)
        self.write(f"operator {ann} ann", f"{bob} bob", f"{cec} cec")
        self.server = self.serve()
        self.clients = [self.join(key) for key in self.keys]
        self.ann, self.bob, self.cec = self.clients

    def write(self, *lines: str) -> None:
        """Write the list of keys."""
        self.list.write_text("".join(f"{line}\n" for line in lines))
        self.list.chmod(0o600)

    def serve(self, **options: Any) -> Server:
        """Start a server."""
        listening = listen(
            self.network.clock,
            self.network.endpoint(),
            handler=Maker(self.network.clock),
            authorizedKeys=self.list,
            key=self.serverKey,
            **options,
        )
        return self.successResultOf(listening)

    def join(self, key: PrivateKey) -> Recorder:
        """Bring a client into the chat, and make its display."""
        display = Recorder()
        client = display.client = ChatClient(
            self.network.clock,
            self.network.endpoint(),
            "nick",
            display,
            key=key,
            trust=AnyServer(),
        )
        running = client.run()
        running.addErrback(lambda failure: client.tell(failure.getErrorMessage()))
        self.addCleanup(self.network.deliver)
        self.addCleanup(client.leave)
        self.network.deliver()
        return display

    def cut(self, display: Recorder) -> None:
        """Cut a client off; none can connect until C{mend}."""
        self.network.links[self.clients.index(display)].cut()
        self.factory, self.network.factory = self.network.factory, None
        self.network.deliver()

    def mend(self) -> None:
        """Let clients connect again."""
        self.network.factory = self.factory

    def test_names(self) -> None:
        """Clients have the names of their keys at once, and no other."""
        nick = "! your name goes with your key: it is"
        self.assertEqual(
            [line for line in self.bob.take() if line.startswith(("* you are", "!"))],
            ["* you are bob in lobby", f"{nick} bob"],
        )
        self.assertEqual(self.ann.client.view.present, ["ann", "bob", "cec"])

    def test_freeNames(self) -> None:
        """In the other chat they choose."""
        pair = connectedPair(
            freeNames(Connections()), server={"authorizedKeys": lambda key, who: "ann"}
        )
        pair.client.sendData("/nick bob")
        pair.deliver()
        lines = [packet.data for packet in iter(pair.client.retrieved.getData, None)]
        self.assertIn("you are bob in lobby", lines)

    def test_unnoticed(self) -> None:
        """Nobody notices that somebody is cut off for less than a while."""
        self.ann.take(), self.bob.take()
        self.cut(self.bob)
        self.network.advance(AWAY_DELAY / 3)
        self.mend()
        self.network.advance(AWAY_DELAY / 2)
        self.assertEqual(self.bob.client.state, "connected")
        self.network.advance(3 * AWAY_DELAY)
        self.assertEqual(self.ann.take(), [])
        self.assertEqual(
            [line for line in self.bob.take() if not line.startswith("! ")],
            ["* connected again"],
        )

    def test_away(self) -> None:
        """
        Who is cut off for longer has left, then and not at once; who comes back then,
        to the same session, is there again without a word, and has missed nothing.
        """
        self.bob.client.send("/join den")
        self.cec.client.send("/join den")
        self.network.deliver()
        self.cec.take()
        self.cut(self.bob)
        self.network.advance(AWAY_DELAY - 0.1)
        self.assertEqual(self.cec.take(), [])
        self.network.advance(0.1)
        self.assertEqual(self.cec.take(), ["* bob has left den"])
        self.cec.client.send("meanwhile")
        self.bob.take()
        self.mend()
        self.network.advance(AWAY_DELAY)
        self.assertEqual(self.cec.take(), ["cec: meanwhile", "* bob has come into den"])
        self.assertEqual(
            [line for line in self.bob.take() if not line.startswith("! ")],
            [
                "* connected again",
                *("* you are bob in den", "cec: meanwhile", "* in den, 2: cec bob"),
            ],
        )

    def test_goneWhileAway(self) -> None:
        """Who is gone for good while missed, or before, leaves once; no timer stays."""
        self.cut(self.bob)
        (gone,) = [c for c in self.server.connections.values() if not c.isAttached]
        gone.closeWith(1013, "")
        self.network.deliver()
        self.assertEqual(self.ann.take()[-1], "* bob has left lobby")
        self.network.links[1].cut()  # of cec
        self.network.advance(2 * AWAY_DELAY)
        self.assertEqual(self.ann.take(), ["* cec has left lobby"])
        for client in self.clients:
            client.client.leave()
        self.network.deliver()
        self.mend()
        self.successResultOf(self.server.stop())
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def test_operators(self) -> None:
        """Who is an operator is what the list says now."""
        ann, bob, _ = (key.publicKey for key in self.keys)
        self.bob.take()
        self.bob.client.send("/kick cec")
        self.network.deliver()
        self.assertEqual(self.bob.take(), ["! only operators may /kick"])
        self.write(f"{ann} ann", f"operator {bob} bob")
        self.network.advance(2 * RELOAD_INTERVAL)
        self.bob.client.send("/kick ann")
        self.network.deliver()
        self.assertIn("* ann was sent away by bob", self.bob.take())

    def test_ban(self) -> None:
        """
        Who is banned is closed, in order and with the reason, and does not come back,
        nor if they try.
        """
        self.ann.client.send("/ban bob flood")
        self.network.deliver()
        *_, why, closed = self.bob.lines
        self.assertEqual(why, "! you were banned by ann: flood")
        self.assertIn("banned from the chat", closed)
        self.assertEqual(self.bob.client.state, "over")
        again = self.join(self.keys[1])
        self.assertIn("! your key is banned here", again.take()[0])
        self.assertEqual(again.client.state, "over")
        self.assertEqual(len(self.server.connections), 2)
