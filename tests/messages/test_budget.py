"""
Tests for L{aesm.messages.budget}, and for what a server does with it.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from aesm import PrivateKey
from aesm.core.messages.frames import FrameType, encodeFrame
from aesm.errors import SendBufferFull
from aesm.messages.budget import Budget
from aesm.messages.connection import Connection
from aesm.messages.stream import Arrivals
from aesm.server.factory import AESMServerFactory
from aesm.server.registry import Connections
from aesm.testing import MemoryNetwork
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase, Recorder


class BudgetTests(PairTestCase):
    """All connections together have a bound."""

    def test_bound(self) -> None:
        """The bound is a number of bytes above 0."""
        for bound in (0, -1):
            error = self.assertRaises(
                ValueError, Budget, bound, Connections(), Arrivals()
            )
            self.assertIn("totalBuffer", str(error))
        self.assertRaises(ValueError, AESMServerFactory, key=SERVER_KEY, totalBuffer=0)

    def test_unacknowledged(self) -> None:
        """
        What peers do not acknowledge counts; when there is no room left, who
        holds more than its share is refused, and the others are not.
        """
        network, server = self.serve(totalBuffer=10_000)
        greedy, modest = self.join(network), self.join(network)
        first, second = server.connections.values()
        link = network.links[0]
        link.toServer.stalled = True  # acknowledgements do not come
        for _ in range(9):
            first.sendData(bytes(1000))
        network.deliver()
        self.assertFalse(server.factory._manager.budget.full)
        first.sendData(bytes(1000))
        network.deliver()
        self.assertTrue(server.factory._manager.budget.full)
        self.failureResultOf(first.sendData("more"), SendBufferFull)
        sent = second.sendData("fine")
        network.deliver()
        self.successResultOf(sent)
        link.toServer.stalled = False
        network.deliver()
        sent = first.sendData("fine again")
        network.deliver()
        self.successResultOf(sent)
        self.assertFalse(server.factory._manager.budget.full)
        self.assertEqual([len(greedy.retrieved), len(modest.retrieved)], [11, 1])

    def test_unread(self) -> None:
        """
        So does what the application does not read: the connection that brings
        too much is closed with 1013.  What it brought before is not lost.
        """
        network, server = self.serve(totalBuffer=10_000)
        greedy, modest = self.join(network), self.join(network)
        for _ in range(10):
            greedy.sendData(bytes(1000))
            network.deliver()
        sent = modest.sendData("fine")
        network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.code(greedy), 1013)
        self.assertFalse(modest.isOver)
        taken = []
        while (found := server.connections.getDataOrdinal())[0] is not None:
            taken.append(found[1].data)
        self.assertEqual(taken, [bytes(1000)] * 10 + ["fine"])
        self.assertEqual(server.connections.arrivals.held, 0)

    def test_notWhole(self) -> None:
        """
        So does what has come of a large message that is not whole, as long as it is
        not; whoever brings too much of these is closed, and nothing more is kept.
        """
        network, server = self.serve(totalBuffer=10_000)
        budget = server.factory._manager.budget
        body = bytes(3000)
        start = encodeFrame(FrameType.BINARY, 1, body)[:-1000]
        evil: Any = [self.join(network, key=CLIENT_KEY) for _ in range(5)]
        key = PrivateKey.generate()
        modest: Any = self.join(network, key=key)
        for number, client in enumerate(evil):
            self.assertEqual(budget.used, 2000 * number)
            client._protocol.transport.write(start)
            network.deliver()
        self.assertEqual(budget.used, 8000)  # the oldest made room
        self.assertEqual([each.isOver for each in evil], [True] + 4 * [False])
        self.assertEqual(self.code(evil[0]), 1013)
        evil[1].abort()
        network.deliver()
        self.assertEqual(budget.used, 6000)
        modest._protocol.transport.write(start[:-500])
        network.deliver()
        self.assertEqual(budget.used, 7500)
        modest._protocol.transport.write(body[:1500])
        network.deliver()
        self.assertEqual(budget.used, 6000 + 3064)
        (connection,) = server.connections.byPeer(key.publicKey)
        packet: Any = connection.retrieved.getData()
        self.assertEqual(packet.data, body)
        self.assertEqual(budget.used, 6000)

    def test_deaf(self) -> None:
        """What still comes over such a connection is neither taken nor acknowledged."""
        network, server = self.serve(totalBuffer=10_000)
        greedy = self.join(network)
        link = network.links[0]
        link.toClient.stalled = True  # it does not hear of the close
        for _ in range(10):
            greedy.sendData(bytes(1000))
        network.deliver()
        late = greedy.sendData("late")
        network.deliver()
        link.toClient.stalled = False
        network.deliver()
        self.assertClosed(late, 1013)
        self.assertEqual(server.connections.arrivals.held, 10_640)

    def stalledJoin(self, network: MemoryNetwork, **options: Any) -> Connection:
        """Connect a client that acknowledges nothing."""
        client = self.join(network, **options)
        network.links[-1].toServer.stalled = True
        return client

    def test_byKey(self) -> None:
        """
        One key holds no more than its share, over however many connections: its oldest
        makes room, at once, and is told so; those of others stay.
        """
        network, server = self.serve(Recorder(), totalBuffer=10_000)
        innocent = [self.join(network, key=PrivateKey.generate()) for _ in range(2)]
        for number, connection in enumerate(list(server.connections.values())):
            network.links[number].toServer.stalled = True
            connection.sendData(bytes(500))
            network.deliver()
        evil = [self.stalledJoin(network, key=CLIENT_KEY) for _ in range(4)]
        known = server.connections.byPeer(CLIENT_KEY.publicKey)
        for connection in known[:3]:
            connection.sendData(bytes(2900))
        network.deliver()
        budget = server.factory._manager.budget
        self.assertEqual(budget.used, 2 * 756 + 3 * 3156)
        self.assertTrue(budget.full)
        kept: Any = server.connections.values()
        self.failureResultOf(known[3].send(b"more", False), SendBufferFull)
        modest = [*kept][1]
        server.factory._manager.overfull(modest)
        self.assertFalse(budget.full)
        self.assertEqual(budget.used, 2 * 756 + 2 * 3156)
        for link in network.links:
            link.toServer.stalled = False
        network.deliver()
        self.assertEqual([c.isOver for c in evil], [True, False, False, False])
        self.assertEqual(self.code(evil[0]), 1013)
        self.assertFalse(modest.isOver)
        self.assertEqual(len(server.connections), 5)
        self.assertFalse(innocent[1].isOver)

    def test_notAgainAndAgain(self) -> None:
        """Where nobody can make room, it is not looked for with each message."""
        network, server = self.serve(totalBuffer=10_000)
        manager = server.factory._manager
        clients = [self.join(network, key=PrivateKey.generate()) for _ in range(3)]
        looks = count()
        look = Budget.richest
        self.patch(Budget, "richest", lambda budget: (next(looks), look(budget))[1])
        for _ in range(3):
            for client in clients:
                client.sendData(bytes(1000))
                network.deliver()
        manager.budget.account(1000)
        before = next(looks)
        for _ in range(100):
            clients[0].sendData("")
            network.deliver()
        self.assertLess(next(looks) - before, 50)
        manager.budget.account(-1000)

    def test_handled(self) -> None:
        """
        What waits for a handler counts until the handler is done, or the
        connection is gone.
        """
        handler: Any = Recorder()
        network, server = self.serve(handler, totalBuffer=10_000)
        client = self.join(network)
        budget = server.factory._manager.budget
        for _ in range(9):
            client.sendData(bytes(1000))
        network.deliver()
        self.assertFalse(budget.full)
        client.abort()
        network.deliver()
        budget.account(10_000)
        self.assertTrue(budget.full)
        budget.account(-1)
        self.assertFalse(budget.full)
        budget.account(-9_999)

    def code(self, connection: Connection) -> int:
        """
        Get the code with which a connection was closed.

        @param connection: the connection.
        """
        code: int = self.closedReason(connection).code
        return code
