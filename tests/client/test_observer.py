"""
Tests for L{aesm.client.observer}: a service that tells how it fares.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionRefusedError

from aesm import AnyServer, Connection, ConnectionClosed, NotAuthorized, SessionLost
from aesm.client.observer import FIRST_DELAY, JITTER, WatchedService
from aesm.client.retry import LONGEST_DELAY
from tests.client.test_service import ServiceTestCase
from tests.support.pairs import CLIENT_KEY


class Diary:
    """
    A watcher that remembers.

    @ivar entries: what it was told, in order.
    @ivar greeting: what to send over each connection, if anything.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.entries: list[Any] = []
        self.greeting = ""

    def connecting(self) -> None:
        """Remember an attempt."""
        self.entries.append("connecting")

    def connected(self, connection: Connection) -> None:
        """Remember a connection."""
        self.entries.append(connection)
        if self.greeting:
            connection.sendData(self.greeting)

    def waiting(self, reason: BaseException, delay: float) -> None:
        """
        Remember a failure.

        @param delay: until the next attempt, seconds.
        """
        self.entries.append((reason, delay))

    def take(self) -> list[Any]:
        """Take what there is, with the classes of failures in the place of them."""
        taken, self.entries = self.entries, []
        return [
            type(entry[0]) if isinstance(entry, tuple) else entry for entry in taken
        ]


class WatchedServiceTests(ServiceTestCase):
    """What a watcher is told."""

    def setUp(self) -> None:
        """Have a watcher."""
        super().setUp()
        self.diary = Diary()

    def watched(self, **options: Any) -> WatchedService:
        """Start a service."""
        service = WatchedService(
            self.network.endpoint(),
            self.diary,
            reactor=self.network.clock,
            **{"key": CLIENT_KEY, "trust": AnyServer()} | options,
        )
        service.startService()
        self.network.deliver()
        self.addCleanup(self.stop, service)
        return service

    def test_resumed(self) -> None:
        """A session that goes on keeps its connection."""
        self.listening()
        service = self.watched()
        first = self.successResultOf(service.whenConnected())
        self.assertEqual(self.diary.take(), ["connecting", first])
        self.network.links[0].cut()
        self.network.deliver()
        (failure,) = self.diary.take()
        self.assertTrue(issubclass(failure, ConnectionClosed))
        self.network.advance(1)
        self.assertEqual(self.diary.take(), ["connecting", first])

    def test_ended(self) -> None:
        """After one that has ended there is another connection."""
        server = self.listening()
        service = self.watched()
        first = self.successResultOf(service.whenConnected())
        self.diary.take()
        (connection,) = server.connections.values()
        connection.closeWith(1013, "full")
        self.network.deliver()
        (entry,) = self.diary.entries
        self.assertEqual(entry[0].code, 1013)
        self.diary.take()
        self.network.advance(1)
        attempt, second = self.diary.take()
        self.assertEqual(attempt, "connecting")
        self.assertIs(second, self.successResultOf(service.whenConnected()))
        self.assertIsNot(second, first)

    def test_lost(self) -> None:
        """
        So there is where the server has given the session up, and the former one is
        over then.
        """
        server = self.listening(sessionGrace=0)
        service = self.watched()
        first = self.successResultOf(service.whenConnected())
        self.diary.take()
        self.network.links[0].cut()
        self.network.deliver()
        self.assertEqual(list(server.connections), [])
        self.network.advance(1)
        _, attempt, second = self.diary.take()
        self.assertEqual(attempt, "connecting")
        self.assertIsNot(second, first)
        self.assertIsInstance(self.closedReason(first), SessionLost)

    def test_first(self) -> None:
        """What is sent when there is a connection goes before what waits."""
        service = self.watched()
        service.sendData("second")
        self.diary.greeting = "first"
        server = self.listening()
        self.network.advance(1)
        (connection,) = server.connections.values()
        self.assertEqual([p.data for p in connection.retrieved], ["first", "second"])

    def test_delays(self) -> None:
        """Delays grow up to a bound, and are not the same for all."""
        self.watched()
        for _ in range(300):
            self.network.advance(1)
        delays = [entry[1] for entry in self.diary.entries if entry != "connecting"]
        self.assertTrue(FIRST_DELAY <= delays[0] <= FIRST_DELAY + JITTER)
        self.assertTrue(delays[0] < delays[2] < delays[4], delays)
        self.assertTrue(LONGEST_DELAY <= delays[-1] <= LONGEST_DELAY + JITTER)
        self.assertNotEqual(delays[-1], delays[-2])
        self.assertIn(ConnectionRefusedError, self.diary.take())

    def test_final(self) -> None:
        """Of a failure that will not pass the service itself tells."""
        server = self.listening()
        service = self.watched()
        self.diary.take()
        (connection,) = server.connections.values()
        connection.closeWith(1008, "")
        self.network.deliver()
        self.assertEqual(self.diary.take(), [])
        self.failureResultOf(service.whenConnected(), NotAuthorized)

    def test_readsToTheEnd(self) -> None:
        """
        What the server says before it hears of the end still comes: people see answers
        to all that they have sent.
        """
        server = self.listening()
        service = self.watched()
        server.sendAll("before")
        stopped = service.stopService()
        self.network.deliver()
        self.successResultOf(stopped)
        packet = service.retrieved.getData()
        self.assertEqual(None if packet is None else packet.data, "before")
