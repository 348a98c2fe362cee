"""
Tests for L{aesm.blocking.threaded}: packets are taken in threads, and the reactor's
hears of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from aesm import AnyServer
from aesm.blocking.reactorthread import Reporter
from aesm.blocking.threaded import SharedFactory, SharedService
from aesm.testing import MemoryNetwork
from tests.client.test_service import ServiceTestCase
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase


def callNow(function: Callable[..., object], *arguments: object) -> None:
    """
    Call a function in this thread, which in these tests is the reactor's.

    @param function: what to call.
    @param arguments: with what.
    """
    function(*arguments)


def noteLater(function: Callable[..., object], *arguments: object) -> None:
    """
    Leave a function to the reactor's thread, which has no time for it.

    @param function: what to call.
    @param arguments: with what.
    """


class SharedFactoryTests(PairTestCase):
    """
    L{SharedFactory}.
    """

    def test_owner(self) -> None:
        """
        What is taken of a stream is reported by way of the reactor.
        """
        network: Any = MemoryNetwork()
        network.clock.callFromThread = callNow
        factory = SharedFactory(reactor=network.clock, key=SERVER_KEY)
        self.successResultOf(network.endpoint().listen(factory))
        self.join(network)
        (connection,) = factory.connections.values()
        self.assertIsInstance(connection.retrieved.owner, Reporter)
        stopped = factory.stop()
        network.advance(10)
        self.successResultOf(stopped)


class SharedServiceTests(ServiceTestCase):
    """
    L{SharedService}.
    """

    def setUp(self) -> None:
        """
        Count how often it has stopped.
        """
        super().setUp()
        clock: Any = self.network.clock
        clock.callFromThread = noteLater
        self.stops = 0

    def stopped(self) -> None:
        """
        Count.
        """
        self.stops += 1

    def shared(self) -> SharedService:
        """
        Start a service.
        """
        endpoint: Any = self.network.endpoint()
        service = SharedService(
            endpoint,
            self.stopped,
            reactor=self.network.clock,
            key=CLIENT_KEY,
            trust=AnyServer(),
        )
        service.startService()
        self.network.deliver()
        return service

    def test_owner(self) -> None:
        """
        What is taken is reported by way of the reactor, over each connection.
        """
        self.listening()
        service = self.shared()
        for _ in range(2):
            connection = self.successResultOf(service.whenConnected())
            self.assertIsInstance(connection.retrieved.owner, Reporter)
            self.network.links[0].cut()
            self.network.advance(3)
        self.stop(service)
        self.assertEqual(self.stops, 1)

    def test_byItself(self) -> None:
        """
        It is told, too, that the service stops by itself.
        """
        server = self.listening()
        self.shared()
        (connection,) = server.connections.values()
        connection.closeWith(1008, "")
        self.network.deliver()
        self.assertEqual(self.stops, 1)

    def test_inTime(self) -> None:
        """
        A connection that closes in time is not aborted.
        """
        self.listening()
        service = self.shared()
        stopping = service.stop(1.0)
        self.network.deliver()
        self.successResultOf(stopping)
        self.assertEqual(self.delays(), [])

    def test_deadline(self) -> None:
        """
        One that does not is, at the deadline.
        """
        self.listening()
        service = self.shared()
        self.network.links[0].toServer.stalled = True
        stopping = service.stop(1.0)
        self.network.advance(0.9)
        self.assertNoResult(stopping)
        self.network.advance(0.2)
        self.successResultOf(stopping)

    def test_noConnection(self) -> None:
        """
        Without a connection there is nothing to wait for, nor to abort.
        """
        service = self.shared()
        self.successResultOf(service.stop(0.0))
        service = SharedService(
            "tcp:127.0.0.1:1", self.stopped, reactor=MemoryReactorClock()
        )
        service.startService()
        service._abort()
        self.successResultOf(service.stop(1.0))

    def test_threads(self) -> None:
        """
        Threads that take and look at the same time, while sessions come to an end and
        others begin, get each packet once.
        """
        server = self.listening(sessionGrace=0)
        service = self.shared()
        taken: list[list[Any]] = [[], []]
        total, over = 0, threading.Event()
        threads = [
            threading.Thread(target=self.takeAll, args=(service, over.is_set, each))
            for each in taken
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                self.network.advance(35)
                for _ in range(10):
                    server.sendAll(str(total))
                    total += 1
                self.network.deliver()
                self.network.links[0].cut()
                self.network.deliver()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        self.assertEqual(sorted(map(int, chain(*taken))), list(range(total)))
        for each in taken:
            self.assertEqual(each, sorted(each, key=int))
        self.stop(service)

    def takeAll(
        self, service: SharedService, isOver: Callable[[], bool], into: list[Any]
    ) -> None:
        """
        Look and take until there is no more: a thread's main function.

        @param service: from where.
        @param isOver: tells whether no more will come.
        @param into: where to.
        """
        while True:
            last = isOver()
            stream = service.retrieved
            for index in (0, -1):
                with contextlib.suppress(IndexError):
                    stream[index]
            list(stream)
            packet = stream.getData()
            if packet is not None:
                into.append(packet.data)
            elif last:
                return
