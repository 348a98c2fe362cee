"""
The server: a L{Server} puts a factory on one endpoint or on several.  It is a
service, for C{.tac} files and whatever else Twisted starts and stops::

    server = Server("tcp:8765", handler=MyHandler())
    server.setServiceParent(application)

L{listen} makes one that listens already::

    server = await listen(reactor, "tcp:8765:interface=127.0.0.1")
    address, packet = server.connections.getDataOrdinal()
    await server.sendTo("hi", address)
    await server.stop()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.core.messages.batch import Message
from aesm.errors import SpoolError
from aesm.messages.address import Address
from aesm.messages.deferred import ReactorDeferred, resultNow
from aesm.secure.announce import announce
from aesm.secure.listening import listenOn, serverEndpoint
from aesm.secure.options import endpointOf
from aesm.server.broadcast import Peers
from aesm.server.cluster import Cluster
from aesm.server.factory import STOP_DEADLINE, AESMServerFactory, checkStop
from aesm.server.registry import Connections
from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.server")

_T = TypeVar("_T")

# Starting and stopping
#
# Two Deferreds say how far a server is, and neither ever fails: C{_started} fires once
# it has tried to listen, with what did not work, and C{_stopped} once all that was
# ever stopped is gone.  A start waits for C{_stopped}; a stop cancels C{_started},
# which ends the wait or the attempts to listen, and makes a new C{_stopped} that waits
# for the former one, too.  So both may be called in any order, any number of times.
# Callers get Deferreds of their own that follow these: to cancel that of a start stops
# the server, to cancel that of a stop only ends the waiting.


class Server(Service):
    """
    A server: it listens on all of its endpoints, or on none.

    As a service it ends the start of the daemon if it cannot listen, and keeps its
    end waiting until the clients are gone.  A server that has stopped can be
    started again; one that is still stopping listens when that is done.

    @ivar factory: builds the protocols.
    @ivar addresses: where each port listens, or did last: C{(host, port)} for TCP,
        else a string.  Empty until it listens.
    """

    def __init__(
        self,
        endpoint: str | IStreamServerEndpoint,
        *others: str | IStreamServerEndpoint,
        factory: AESMServerFactory | None = None,
        reactor: IReactorTime | None = None,
        **options: Any,
    ) -> None:
        """
        @param endpoint: a Twisted server endpoint, or its string.
        @param others: more of them.
        @param factory: builds the protocols; None for one made of the options.
        @param reactor: the reactor; None for the one that is installed, or that of
            the factory.
        @param options: as L{AESMServerFactory}.
        @raise KeyFileError: a file cannot be used; says why.
        @raise TypeError: an option is of the wrong type, or there is no such.
        @raise ValueError: an option has a value that it cannot have.
        """
        if factory is None:
            factory = AESMServerFactory(reactor=reactor, **options)
        elif options:
            raise TypeError(f"give these to the factory: {', '.join(options)}")
        self.factory = factory
        if factory.connections.ofCluster is not None:
            factory.connections.ofCluster.drained = self.stopService
        self.addresses: list[Address] = []
        self._endpoints = [
            serverEndpoint(reactor or factory.clock, each)
            if isinstance(each, str)
            else endpointOf(IStreamServerEndpoint, each)
            for each in (endpoint, *others)
        ]
        self._ports: list[IListeningPort] = []  # those that listen
        self._started: Deferred[list[Failure]] = succeed([])
        self._stopped: Deferred[None] = succeed(None)

    @property
    def address(self) -> Address:
        """
        Where the first port listens, or did last.

        @raise IndexError: it has not listened yet.
        """
        return self.addresses[0]

    @property
    def publicKey(self) -> PublicKey:
        """The server's own key."""
        return self.factory.publicKey

    @property
    def connections(self) -> Connections:
        """Who is connected, and the activity log."""
        return self.factory.connections

    @property
    def cluster(self) -> Cluster:
        """
        All nodes of the cluster, as one server.

        @raise RuntimeError: sessions are not kept in an engine.
        """
        return self.factory.cluster

    def sendTo(self, data: Message, address: Address) -> Deferred[None]:
        """Send a message to one peer, as L{AESMServerFactory.sendTo}."""
        return self.factory.sendTo(data, address)

    def request(
        self, data: Message, address: Address, timeout: float | None = None
    ) -> Deferred[str | bytes]:
        """Ask one peer, as L{AESMServerFactory.request}."""
        return self.factory.request(data, address, timeout)

    def sendAll(
        self, data: Message, to: Peers | None = None, exclude: Peers = ()
    ) -> Deferred[int]:
        """Send to all, or to several, as L{aesm.Connections.sendAll}."""
        return self.factory.connections.sendAll(data, to, exclude)

    def start(self) -> Deferred[Server]:
        """
        Listen, unless it does.

        @return: fires once it listens; fails as the first endpoint that cannot, or
            with C{CancelledError} if it is stopped before.  Cancelling it stops
            the server.
        """
        if not self.running:
            super().startService()
            after = _follow(self._stopped)
            self._started = after.addCallbacks(self._listen, lambda failure: [failure])
        starting = _follow(self._started, self._cancel)
        return starting.addCallback(self._cbStarted)

    def stop(
        self, reason: str = "", deadline: float = STOP_DEADLINE, spread: float = 0.0
    ) -> Deferred[None]:
        """
        Stop listening, tell every client (code 1001), send what is queued, and
        abort what is left at the deadline.

        @param reason: words for the clients.
        @param deadline: seconds.
        @param spread: seconds over which clients are to come back, each at a moment
            of its own; 0 leaves it to them.
        @return: fires when all ports and connections are gone; fails with
            L{SpoolError<aesm.errors.SpoolError>} if there is a spool that could not
            be written to the end.
        @raise ValueError: C{spread} is not from 0 to an hour, or C{deadline} no time.
        """
        checkStop(deadline, spread)
        super().stopService()
        self._started.cancel()
        ports, self._ports = self._ports, []
        ending: list[Deferred[Any]] = [
            maybeDeferred(port.stopListening).addErrback(self._ebNotClosed)
            for port in ports
        ]
        failures: list[Failure] = []
        ended = self.factory.stop(reason, deadline, spread).addErrback(failures.append)
        ending += [self._stopped, ended]
        self._stopped = gatherResults(ending).addCallback(lambda results: None)
        return _follow(self._stopped).addCallback(
            lambda nothing: failures[0] if failures else None
        )

    # For a server that is replaced

    def lend(self) -> list[IListeningPort]:
        """
        Leave the ports to the caller, whose sockets other processes use as well: to
        close one would end it for all of these.

        @return: the ports, for C{takeBack}.
        """
        ports, self._ports = self._ports, []
        return ports

    def takeBack(self, ports: list[IListeningPort]) -> None:
        """Have the ports again that were lent."""
        self._ports = ports

    # IService

    def privilegedStartService(self) -> None:
        """
        Listen, before C{twistd} gives away what rights it has.

        @raise Exception: what an endpoint fails with.  If that turns out later, it
            is logged.
        @see: C{twisted.application.internet.StreamServerEndpointService}
        """
        # twistd wants what fails now raised, not returned: it ends the daemon's start.
        super().privilegedStartService()
        starting = self.start()
        if starting.called:
            resultNow(starting)
        else:
            starting.addErrback(self._ebLate)

    def startService(self) -> None:
        """
        Listen, unless C{privilegedStartService} has begun to.

        @raise Exception: as C{privilegedStartService}.
        """
        if not self.running:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """
        Stop in order, for who could do nothing about a failure: the log has it.

        @return: as C{stop}, but it never fails.
        """
        return self.stop().addErrback(tellNotWritten)

    # Parts

    def _listen(self, nothing: None) -> Deferred[list[Failure]]:
        """Listen on all endpoints; fires with what did not work."""
        trying: list[Deferred[Any]] = [
            listenOn(endpoint, self.factory) for endpoint in self._endpoints
        ]
        # Not on it itself: once it has fired, it does not cancel what a callback of its
        # own waits for.
        tried: Deferred[Any] = succeed(None).addCallback(
            lambda nothing: gatherResults(trying, consumeErrors=True)
        )
        return tried.addCallbacks(
            self._cbBound, self._ebCannotListen, errbackArgs=(trying,)
        )

    def _cbBound(self, ports: list[IListeningPort]) -> Deferred[list[Failure]]:
        """Wait until those can be let in who come; as C{_listen}."""
        self._ports = ports
        opened = self.factory.manager.opened()
        return opened.addCallbacks(
            lambda nothing: self._cbListens(ports), self._ebNotOpened
        )

    def _ebNotOpened(self, failure: Failure) -> list[Failure]:
        """Listen nowhere: nobody can be let in."""
        self.stopService()
        return [failure]

    def _cbListens(self, ports: list[IListeningPort]) -> list[Failure]:
        """Say what the operator should know; returns that all worked."""
        hosts = [port.getHost() for port in ports]
        self.addresses = [listeningAddress(host) for host in hosts]
        for host in hosts:
            announce(host, self.publicKey, self.factory.isOpen)
        return []

    def _ebCannotListen(
        self, failure: Failure, trying: list[Deferred[Any]]
    ) -> list[Failure]:
        """Listen nowhere, if not everywhere."""
        # An attempt that has worked gives its port, for C{stop} to close; one that has
        # not is cancelled, and its failure is consumed: it gives None.
        for attempt in trying:
            attempt.cancel()
            attempt.addCallback(self._ports.append)
        self._ports = [port for port in self._ports if port is not None]
        self.stopService()
        return [failure.value.subFailure]  # type: ignore[union-attr]

    def _cancel(self, starting: Deferred[Any]) -> None:
        """Stop, since nobody wants to know any more."""
        self.stopService()

    def _cbStarted(self, failures: list[Failure]) -> Server | Failure:
        """Give the first failure, or this server."""
        return failures[0] if failures else self

    def _ebLate(self, failure: Failure) -> None:
        """It turns out later that it cannot listen."""
        if not failure.check(CancelledError):
            _log.failure("the server cannot listen", failure)

    def _ebNotClosed(self, failure: Failure) -> None:
        """A port does not close: the rest does."""
        _log.failure("a port cannot be closed", failure)


def tellNotWritten(failure: Failure) -> None:
    """Say that a server has stopped, and could not write all before."""
    failure.trap(SpoolError)
    _log.error(
        "the server has stopped, and could not write all before: {reason}; nothing of "
        "that was acknowledged",
        reason=failure.getErrorMessage(),
    )


def _follow(
    leader: Deferred[_T], canceller: Callable[[Deferred[Any]], None] | None = None
) -> Deferred[_T]:
    """Wait for what others wait for as well, and may be cancelled alone."""
    follower: Deferred[_T] = ReactorDeferred(canceller)

    def tell(result: _T) -> _T:
        """Pass the result on, unless who was told before has cancelled the follower."""
        if not follower.called:
            follower.callback(result)
        return result

    leader.addCallback(tell)
    return follower


def listeningAddress(address: IAddress) -> Address:
    """Name where a port listens: C{(host, port)}, a UNIX socket's path, else text."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if isinstance(host, str) and isinstance(port, int):
        return (host, port)
    name = getattr(address, "name", None)
    return name.decode(errors="replace") if isinstance(name, bytes) else str(address)


def listen(
    reactor: IReactorTime, endpoint: str | IStreamServerEndpoint, **options: Any
) -> Deferred[Server]:
    """
    Listen on an endpoint.

    @param reactor: the reactor.
    @param endpoint: a Twisted server endpoint, or its string.
    @param options: as L{AESMServerFactory}.
    @return: fires once it listens; fails as the endpoint does.
    @raise KeyFileError: a file cannot be used; says why.
    @raise TypeError: an option is of the wrong type, or there is no such.
    @raise ValueError: an option has a value that it cannot have.
    """
    return Server(endpoint, reactor=reactor, **options).start()
