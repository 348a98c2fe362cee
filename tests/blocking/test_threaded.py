"""
Tests for L{aesm.blocking.threaded}: packets are taken in threads, and the reactor's
hears of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

from twisted.internet.testing import MemoryReactorClock
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase

from aesm import AnyServer
from aesm.blocking.threaded import (
    ReactorStreamOwner,
    ThreadedClientService,
    ThreadedServerFactory,
)
from aesm.errors import ConnectionClosed
from aesm.messages.connection import Connection
from aesm.messages.stream import DataStream
from aesm.testing import MemoryNetwork, connectedPair
from tests.blocking.test_reactorthread import ReactorThreadCase, elsewhere
from tests.client.test_service import ServiceTestCase
from tests.support.helpers import bring
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase
from tests.support.spooled import SpoolTestCase

LONG = 600.0  # seconds; more than any machine needs


def callNow(function: Callable[..., object], *arguments: object) -> None:
    """Call a function in this thread, which in these tests is the reactor's."""
    function(*arguments)


def noteLater(function: Callable[..., object], *arguments: object) -> None:
    """Leave a function to the reactor's thread, which has no time for it."""


class Owner:
    """Takes note of what a stream reports."""

    address = ("127.0.0.1", 1)

    def __init__(self) -> None:
        """Nothing is reported yet."""
        self.reports: list[object] = []

    def packetsTaken(self, cost: int) -> None:
        """Take note."""
        self.reports.append(cost)

    def streamFinished(self) -> None:
        """Take note."""
        self.reports.append("finished")


class ReactorStreamOwnerTests(ReactorThreadCase):
    """L{ReactorStreamOwner}."""

    def setUp(self) -> None:
        """Make a stream with packets whose owner is told by way of the reactor."""
        super().setUp()
        self.owner = Owner()
        self.reporting = ReactorStreamOwner(self.reactor, cast(Any, self.owner))
        self.stream = DataStream(self.reporting, 1)
        bring(self.stream, 0.0, ["one", "two"])

    def test_address(self) -> None:
        """It has the connection's address."""
        self.assertEqual(self.reporting.address, self.owner.address)

    def test_elsewhere(self) -> None:
        """What is taken in another thread is reported in the reactor's."""
        elsewhere(self.stream.getData)
        self.stream.end(ConnectionClosed("over"))
        elsewhere(self.stream.getData)
        self.assertEqual(self.owner.reports, [])
        self.reactor.advance(0)
        self.assertEqual(self.owner.reports, [67, "finished"])

    def test_here(self) -> None:
        """In the reactor's thread, it is reported at once."""
        self.stream.getData()
        self.assertEqual(self.owner.reports, [67])


class WaitingCase(SynchronousTestCase):
    """Has threads that wait; the test's own is the reactor's."""

    def setUp(self) -> None:
        """Make threads."""
        super().setUp()
        self.patch(threadable, "ioThread", threadable.getThreadID())
        self.threads = ThreadPoolExecutor(8)
        self.addCleanup(self.threads.shutdown)

    def wait(self, take: Callable[..., Any]) -> Future[Any]:
        """Have a thread wait, for ever if need be."""
        return self.threads.submit(take, None)

    def assertEnded(self, waiting: Future[Any], code: int) -> None:
        """Check that a thread was told of the end."""
        error: Any = waiting.exception(LONG)
        self.assertIsInstance(error, ConnectionClosed)
        self.assertEqual(error.code, code)

    def assertNamed(self, wrong: Callable[[], object], right: str) -> None:
        """Check that a thread is told what to call instead."""
        error = self.assertRaises(RuntimeError, elsewhere, wrong)
        self.assertIn("reactor's thread", str(error))
        self.assertIn(right, str(error))

    def assertNotElsewhere(self, connection: Connection) -> None:
        """Check that nothing that a connection does can be done in another thread."""
        calls: list[Callable[[], object]] = [
            partial(connection.sendData, "x"),
            partial(connection.request, "x"),
            connection.drain,
            connection.closed,
            connection.close,
            partial(connection.closeWith, 1000, "x"),
            connection.abort,
        ]
        for call in calls:
            self.assertNamed(call, "server.sendTo(data, address)")
        self.assertTrue(connection.isOpen)


class ThreadedServerFactoryTests(WaitingCase, PairTestCase):
    """L{ThreadedServerFactory}."""

    def listening(self) -> tuple[Any, ThreadedServerFactory]:
        """Listen, on a network in memory."""
        network: Any = MemoryNetwork()
        network.clock.callFromThread = callNow
        factory = ThreadedServerFactory(reactor=network.clock, key=SERVER_KEY)
        self.successResultOf(network.endpoint().listen(factory))
        return network, factory

    def test_packets(self) -> None:
        """
        Threads wait for packets of all connections; a Deferred for the same comes
        first, in the reactor's thread, and is refused elsewhere.
        """
        network, factory = self.listening()
        client = self.join(network)
        connections = factory.connections
        first = connections.get()
        waiting = [self.wait(connections.packets.take) for _ in range(2)]
        for data in "abc":
            client.sendData(data)
        network.deliver()
        (address,) = connections
        self.assertEqual(self.successResultOf(first)[1].data, "a")
        taken = [each.result(LONG) for each in waiting]
        self.assertEqual(
            {(whose, packet.data) for whose, packet in taken},
            {(address, "b"), (address, "c")},
        )
        self.assertNamed(connections.get, "server.get()")
        factory.stop()
        network.advance(10)

    def test_activity(self) -> None:
        """Threads wait for activity; a Deferred for it is refused to them."""
        network, factory = self.listening()
        connections = factory.connections
        waiting = self.wait(connections.entries.take)
        self.join(network)
        self.assertEqual(waiting.result(LONG).event, "accepted")
        self.assertNamed(connections.waitForActivity, "server.waitForActivity()")
        factory.stop()
        network.advance(10)

    def test_stopped(self) -> None:
        """Threads that wait are told at once that the server is to stop."""
        network, factory = self.listening()
        self.join(network)
        connections = factory.connections
        connections.activity()
        waiting = [
            self.wait(take)
            for take in (connections.packets.take, connections.entries.take)
        ]
        stopped = factory.stop()
        for each in waiting:
            self.assertEnded(each, 1000)
        self.assertNoResult(stopped)
        network.advance(10)
        self.successResultOf(stopped)

    def test_owner(self) -> None:
        """What is taken of a stream is reported by way of the reactor."""
        network, factory = self.listening()
        self.join(network)
        (connection,) = factory.connections.values()
        self.assertIsInstance(connection.retrieved.owner, ReactorStreamOwner)
        stopped = factory.stop()
        network.advance(10)
        self.successResultOf(stopped)

    def test_listed(self) -> None:
        """So it is of a session that others have left, as soon as it is listed."""
        _, factory = self.listening()
        connection = connectedPair().accepted
        factory.connections.add(connection)
        self.assertIsInstance(connection.retrieved.owner, ReactorStreamOwner)

    def test_guard(self) -> None:
        """
        What a connection does is refused to other threads, and nothing of it is done:
        two of them would encrypt with the same nonce.
        """
        network, factory = self.listening()
        client = self.join(network)
        (connection,) = factory.connections.values()
        self.assertNotElsewhere(connection)
        self.assertNamed(partial(factory.connections.sendAll, "x"), "server.sendAll")
        network.deliver()
        self.assertEqual((len(client.retrieved), connection.nextNumber), (0, 0))
        sent = connection.sendData("here")
        network.deliver()
        self.successResultOf(sent)
        self.assertEqual([packet.data for packet in client.retrieved], ["here"])
        factory.stop()
        network.advance(10)


class RestoredTests(WaitingCase, SpoolTestCase):
    """Sessions that a former process has left in a spool."""

    def test_owner(self) -> None:
        """
        What is taken of them is reported by way of the reactor, before there is a
        connection, and of one that is over, too.
        """
        clock: Any = self.network.clock
        clock.callFromThread = callNow
        for isOver in (False, True):
            self.serving()
            former = self.service(spool=self.clientPath)
            self.accepted.sendData("unread")
            self.settle()
            if isOver:
                self.accepted.closeWith(4000, "")
                self.settle()
            self.killService(former)
            service = ThreadedClientService(
                self.network.endpoint(),  # type: ignore[arg-type]
                lambda: None,
                reactor=clock,
                key=CLIENT_KEY,
                trust=AnyServer(),
                spool=self.clientPath,
            )
            service.startService()
            self.assertEqual(len(service.retrieved), 1)
            for stream in service.retrieved._streams:
                owner: Any = stream.owner
                self.assertIsInstance(owner, ReactorStreamOwner)
                self.assertNamed(owner._connection.closed, "server.sendTo")
            self.services[service] = clock
            self.stopService(service)
            self.stopServer()
            self.clientPath = Path(self.mktemp())
            self.path = Path(self.mktemp())


class ThreadedClientServiceTests(WaitingCase, ServiceTestCase):
    """L{ThreadedClientService}."""

    def setUp(self) -> None:
        """Count how often it has stopped."""
        super().setUp()
        clock: Any = self.network.clock
        clock.callFromThread = noteLater
        self.stops = 0

    def stopped(self) -> None:
        """Count."""
        self.stops += 1

    def threaded(self) -> ThreadedClientService:
        """Start a service."""
        endpoint: Any = self.network.endpoint()
        service = ThreadedClientService(
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
        What is taken is reported by way of the reactor, over each connection, and what
        this does is refused to other threads.
        """
        self.listening()
        service = self.threaded()
        for _ in range(2):
            connection = self.successResultOf(service.whenConnected())
            self.assertIsInstance(connection.retrieved.owner, ReactorStreamOwner)
            self.assertNotElsewhere(connection)
            self.network.links[0].cut()
            self.network.advance(3)
        self.stop(service)
        self.assertEqual(self.stops, 1)

    def test_waiting(self) -> None:
        """
        Threads wait for packets, over whichever connection; a Deferred for one is
        refused to them.
        """
        server = self.listening()
        service = self.threaded()
        for data in "ab":
            waiting = self.wait(service.retrieved.take)
            server.sendAll(data)
            self.network.deliver()
            self.assertEqual(waiting.result(LONG).data, data)
            self.network.links[0].cut()
            self.network.advance(3)
        self.assertNamed(service.retrieved.get, "client.get()")
        self.assertNoResult(service.retrieved.get().addErrback(lambda failure: None))
        self.stop(service)

    def test_stopTells(self) -> None:
        """Threads that wait are told at once that it is to stop, and nothing before."""
        self.listening()
        service = self.threaded()
        waiting = [self.wait(service.retrieved.take) for _ in range(3)]
        stopping = service.stop(1.0)
        for each in waiting:
            self.assertEnded(each, 1000)
        self.assertNoResult(stopping)
        self.network.deliver()
        self.successResultOf(stopping)

    def test_failureTells(self) -> None:
        """So they are of a failure that will not pass."""
        server = self.listening()
        service = self.threaded()
        waiting = self.wait(service.retrieved.take)
        (connection,) = server.connections.values()
        connection.closeWith(1008, "not any more")
        self.network.deliver()
        self.assertEnded(waiting, 1006)
        self.assertIn("public key", str(waiting.exception(0)))

    def test_byItself(self) -> None:
        """It is told, too, that the service stops by itself."""
        server = self.listening()
        self.threaded()
        (connection,) = server.connections.values()
        connection.closeWith(1008, "")
        self.network.deliver()
        self.assertEqual(self.stops, 1)

    def test_inTime(self) -> None:
        """A connection that closes in time is not aborted."""
        self.listening()
        service = self.threaded()
        stopping = service.stop(1.0)
        self.network.deliver()
        self.successResultOf(stopping)
        self.assertEqual(self.delays(), [])

    def test_deadline(self) -> None:
        """One that does not is, at the deadline."""
        self.listening()
        service = self.threaded()
        self.network.links[0].toServer.stalled = True
        service.sendData("unacknowledged")
        stopping = service.stop(1.0)
        self.network.advance(0.9)
        self.assertNoResult(stopping)
        self.network.advance(0.2)
        self.successResultOf(stopping)

    def test_noConnection(self) -> None:
        """Without a connection there is nothing to wait for, nor to abort."""
        service = self.threaded()
        self.successResultOf(service.stop(0.0))
        service = ThreadedClientService(
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
        service = self.threaded()
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
        self,
        service: ThreadedClientService,
        isOver: Callable[[], bool],
        into: list[Any],
    ) -> None:
        """
        Look and take until there is no more: a thread's main function.

        @param isOver: tells whether no more will come.
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
