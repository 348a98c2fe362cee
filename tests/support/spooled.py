"""
What the tests of spools share: servers and clients on a network in memory that can
be killed, with all that they have in memory, and started again with their spools.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.application.internet import backoffPolicy
from twisted.internet import error
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.python.log import FileLogObserver, theLogPublisher
from zope.interface import implementer

from aesm import AnyServer, ClientService, Connection, PrivateKey, Server, listen
from aesm.errors import AESMError, SpoolError
from aesm.store import spool
from aesm.store.connection import DurableConnection
from aesm.store.interface import Stored
from aesm.store.sqlite import SpoolFile
from aesm.testing import MemoryNetwork
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase

__all__ = ["AtOnce", "ByHand", "Mortal", "SpoolTestCase", "noRoom"]


@contextmanager
def noRoom(size: int = 0) -> Iterator[None]:
    """
    Let no write to a file, behind so many bytes of it, succeed in the meantime; of what
    is logged nothing goes into files, whose observers would fail.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    observers = [
        each
        for each in theLogPublisher.observers
        if isinstance(getattr(each, "__self__", None), FileLogObserver)
    ]
    for each in observers:
        theLogPublisher.removeObserver(each)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        for each in observers:
            theLogPublisher.addObserver(each)


class AtOnce:
    """
    A worker that needs no thread.

    @ivar room: whether the disk has any.
    @ivar stopped: whether there will be no more calls.
    """

    room = True
    stopped = False

    def run(self, function: Callable[..., None], *arguments: Any) -> Deferred[None]:
        """
        Call a function at once.

        @see: L{aesm.store.spool.Worker}
        """
        if self.room:
            return execute(function, *arguments)
        with noRoom():
            return execute(function, *arguments)

    def stop(self) -> None:
        """
        Record the call.

        @see: L{aesm.store.spool.Worker}
        """
        self.stopped = True


class ByHand(AtOnce):
    """
    A worker that makes each call when the test says so.

    @ivar waiting: the calls that were not made yet.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.waiting: list[Callable[[], Any]] = []

    def run(self, function: Callable[..., None], *arguments: Any) -> Deferred[None]:
        """
        Keep a call.

        @see: L{aesm.store.spool.Worker}
        """
        done: Deferred[None] = Deferred()
        work = partial(super().run, function, *arguments)
        self.waiting.append(lambda: work().chainDeferred(done))
        return done

    def work(self) -> None:
        """Make the call that has waited longest."""
        self.waiting.pop(0)()


@implementer(IReactorTime)
class Mortal:
    """
    The clock of a process that can be killed: what it was to call it does not call
    then.
    """

    def __init__(self, clock: Clock) -> None:
        """ """
        self._clock = clock
        self._calls: list[IDelayedCall] = []

    def seconds(self) -> float:
        """
        Tell the time.

        @see: C{IReactorTime}
        """
        return self._clock.seconds()

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> IDelayedCall:
        """
        Call a function later, unless the process is killed before.

        @see: C{IReactorTime}
        """
        self._calls = [call for call in self._calls if call.active()]
        self._calls.append(self._clock.callLater(delay, callable, *args, **kwargs))
        return self._calls[-1]

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """
        Show what is to be called.

        @see: C{IReactorTime}
        """
        return [call for call in self._calls if call.active()]

    def advance(self, seconds: float) -> None:
        """Let time pass, for all."""
        self._clock.advance(seconds)

    def kill(self) -> None:
        """Call nothing any more."""
        for call in self.getDelayedCalls():
            call.cancel()


class SpoolTestCase(PairTestCase):
    """
    A server and clients with spools.

    @ivar network: where they are.
    @ivar path: the server's spool.
    @ivar server: the server, while it runs.
    @ivar workers: of all spools that were opened, the newest last.
    @ivar byHand: whether workers are to wait until told.
    """

    def setUp(self) -> None:
        """Make the network, and let spools need no threads."""
        self.network = MemoryNetwork()
        self.path = Path(self.mktemp())
        self.clientPath = Path(self.mktemp())
        self.server: Server | None = None
        self.services: dict[ClientService, Mortal] = {}
        self.workers: list[AtOnce] = []
        self.byHand = False
        self.patch(spool, "_OwnThread", self.makeWorker)
        self.addCleanup(self.endAll)

    def makeWorker(self, reactor: object) -> AtOnce:
        """Make the worker of a spool."""
        self.workers.append(ByHand() if self.byHand else AtOnce())
        return self.workers[-1]

    @property
    def worker(self) -> ByHand:
        """The worker of the spool that was opened last."""
        return cast(ByHand, self.workers[-1])

    def endAll(self) -> None:
        """Stop clients and server; nothing is left then."""
        for service in list(self.services):
            self.stopService(service)
        if self.server is not None:
            self.stopServer()
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    # The server

    def serving(self, handler: object = None, **options: Any) -> Server:
        """
        Start the server.

        @param options: as L{listen}.
        """
        self.process = Mortal(self.network.clock)
        settings: dict[str, Any] = {"key": SERVER_KEY, "spool": self.path}
        self.server = self.successResultOf(
            listen(
                self.process,
                self.network.endpoint(),
                handler=handler,
                **(settings | options),
            )
        )
        return self.server

    def cannotServe(self, path: Path | None = None) -> str:
        """
        Start a server that cannot be.

        @param path: its spool, if it is another one.
        @return: the error's text.
        """
        starting = listen(
            self.network.clock,
            self.network.endpoint(),
            key=SERVER_KEY,
            spool=path or self.path,
        )
        return self.assertFails(starting, SpoolError)

    def stopServer(self) -> None:
        """Stop the server in order."""
        server, self.server = self.server, None
        assert server is not None
        stopped = server.stop()
        self.settle()
        self.successResultOf(stopped)

    def killServer(self) -> None:
        """Kill the server: what it has not written is gone."""
        server, self.server = self.server, None
        assert server is not None
        self.process.kill()
        self.network.factory = None
        if server.factory._manager.journal is not None:
            self.closeStore(server.factory._manager.journal)
        for link in self.network.links:
            link.server.lost = True
            link.client.lose(error.ConnectionLost())
        self.network.links.clear()

    def closeStore(self, journal: Any) -> None:
        """Let go of what a server that is killed writes to."""
        closeFile(journal)

    @property
    def accepted(self) -> Connection:
        """The server's only connection."""
        assert self.server is not None
        (connection,) = self.server.connections.values()
        return connection

    # Clients

    def service(
        self, key: PrivateKey = CLIENT_KEY, deliver: bool = True, **options: Any
    ) -> ClientService:
        """
        Start a client.

        @param options: as L{ClientService}.
        """
        process = Mortal(self.network.clock)
        settings: dict[str, Any] = {
            "trust": AnyServer(),
            "retryPolicy": backoffPolicy(jitter=lambda: 0.0),
        }
        service = ClientService(
            self.network.endpoint(),
            reactor=process,
            key=key,
            **(settings | options),
        )
        self.services[service] = process
        service.startService()
        if deliver:
            self.network.deliver()
        return service

    def stopService(self, service: ClientService) -> None:
        """Stop a client in order."""
        del self.services[service]
        stopped = service.stopService()
        self.settle()
        self.successResultOf(stopped)

    def killService(self, service: ClientService) -> None:
        """Kill a client."""
        process = self.services.pop(service)
        process.kill()
        if service._journal is not None:
            closeFile(service._journal)
        for link in list(self.network.links):
            if link.client.protocol.factory.clock is process:  # type: ignore[attr-defined]
                link.client.lost = True
                link.server.lose(error.ConnectionLost())
                self.network.links.remove(link)

    # Spools

    def stored(self, path: Path) -> list[Stored]:
        """Read a spool that nobody has open."""
        file = SpoolFile(path, full=False)
        try:
            return file.load()
        finally:
            file.close()

    def settle(self) -> None:
        """Write everything, deliver everything, and let time pass."""
        for seconds in (0, 20, 0):
            self.network.advance(seconds)
            for worker in self.workers:
                self.onDisk(worker)
        self.network.deliver()

    def onDisk(self, worker: AtOnce) -> None:
        """Make all calls of a worker that waits to be told."""
        while isinstance(worker, ByHand) and worker.waiting:
            worker.work()
            self.network.deliver()

    def durable(self, connection: Any) -> DurableConnection:
        """Check that a connection is a durable one."""
        self.assertIsInstance(connection, DurableConnection)
        return cast(DurableConnection, connection)

    def taking(self, stream: Any) -> list[Any]:
        """Take all data of a stream."""
        data = []
        while (packet := stream.getData()) is not None:
            data.append(packet.data)
        return data

    def assertFails(self, sent: Any, kind: type[AESMError]) -> str:
        """
        Check that a Deferred has failed.

        @return: the error's text.
        """
        return str(self.failureResultOf(sent, kind).value)


def closeFile(journal: Any) -> None:
    """Close a spool's file, as the system does for one who is killed."""
    spool = journal.store
    spool._file.close()
    if isinstance(spool._worker, ByHand):
        spool._worker.waiting.clear()
