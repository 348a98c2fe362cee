"""
Clients and servers joined in memory, for tests without sockets or waiting.

A test of a handler::

    class GreeterTests(SynchronousTestCase):
        def test_greets(self):
            pair = connectedPair(Greeter())
            sent = pair.client.sendData("Ada")
            pair.deliver()
            self.successResultOf(sent)           # the handler is done with it
            self.assertEqual(pair.client.retrieved.getData().data, "Hello, Ada")

What is sent stays in flight until C{deliver()}.  Time stands still until
C{advance()}.  For more than one client, for clients that misbehave, and for
networks that do, see L{MemoryNetwork}::

    pair.network.chunkSize = 1                   # deliver byte by byte
    link = pair.network.links[0]
    link.toServer.stalled = True                 # the server reads nothing
    link.toClient.corrupt()                      # flips a bit of what is in flight
    link.cut()                                   # as if somebody pulled the plug

The transports are those of L{aesm.testing.transport}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.client.connect import connect
from aesm.messages.connection import Connection
from aesm.server.service import Server, listen
from aesm.testing.transport import BUFFER, IPAddress, MemoryLink
from aesm.trust.keys import PrivateKey
from aesm.trust.servers import AnyServer

SERVER = IPv4Address("TCP", "127.0.0.1", 8765)  # where a network's server is
FIRST_CLIENT_PORT = 50001
MAX_ROUNDS = 1_000_000  # of deliveries without an end

_T = TypeVar("_T")


class MemoryNetwork:
    """
    A network in memory, with room for one server::

        network = MemoryNetwork()
        listen(network.clock, network.endpoint(), ...)
        connect(network.clock, network.endpoint(), ...)
        network.deliver()

    @ivar clock: keeps time for all that is on it.
    @ivar chunkSize: bytes that are delivered at once, at the most.
    @ivar links: the connections that are not over, the oldest first.
    @ivar factory: the server's, while it listens.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.chunkSize = BUFFER
        self.links: list[MemoryLink] = []
        self.factory: IProtocolFactory | None = None
        self._ports = count(FIRST_CLIENT_PORT)

    def endpoint(self, host: str = "127.0.0.1", port: int = 0) -> MemoryEndpoint:
        """
        Make what L{listen<aesm.listen>} and L{connect<aesm.connect>} take.

        @param host: the address that its clients come from, IPv4 or IPv6.
        @param port: the port that they come from; 0 for one of its own for each.
        @return: a stream endpoint, for the server and for clients.
        """
        return MemoryEndpoint(self, host, port)

    def deliver(self) -> None:
        """
        Deliver everything, both ways, and do what is due meanwhile, until
        nothing happens any more; no time passes.

        @raise RuntimeError: that takes for ever.
        """
        for _ in range(MAX_ROUNDS):
            # One piece each way and link by link, not all of one link first: two
            # ends that answer each other without end must not starve the others.
            moved = [link.deliver(self.chunkSize) for link in self.links]
            self.links = [
                link
                for link in self.links
                if not (link.client.lost and link.server.lost)
            ]
            due = self._nextCall() <= self.clock.seconds()
            if due:
                self.clock.advance(0)
            if not due and not any(moved):
                return
        raise RuntimeError(f"still not quiet after {MAX_ROUNDS} rounds")

    def advance(self, seconds: float) -> None:
        """
        Let time pass, and deliver everything as it comes.

        @param seconds: how much time.
        """
        end = self.clock.seconds() + seconds
        self.deliver()
        # From call to call, not with Clock.advance(): what is called at a time, and
        # what that sends, must see the time at which it is due.
        while (time := self._nextCall()) <= end:
            self.clock.rightNow = time
            self.deliver()
        self.clock.rightNow = end

    def newPort(self) -> int:
        """Make up a port for a client, another one each time."""
        return next(self._ports)

    def join(self, protocol: IProtocol, client: IPAddress) -> None:
        """
        Connect a client's protocol with the server.

        @param protocol: the client's.
        @param client: where it comes from.
        @raise ConnectionRefusedError: no server listens.
        """
        if self.factory is None:
            raise error.ConnectionRefusedError()
        link = MemoryLink(self.clock, client, SERVER)
        self.links.append(link)
        accepted = self.factory.buildProtocol(client)
        link.client.protocol = protocol
        link.server.protocol = accepted or Protocol()
        protocol.makeConnection(link.client)
        link.server.protocol.makeConnection(link.server)
        if accepted is None:
            link.server.loseConnection()

    def _nextCall(self) -> float:
        """Say when the clock has something to do, infinity if never."""
        times = [call.getTime() for call in self.clock.getDelayedCalls()]
        return min(times, default=math.inf)


@implementer(IStreamServerEndpoint, IStreamClientEndpoint)
class MemoryEndpoint:
    """The way to a L{MemoryNetwork}, for its server and for clients."""

    def __init__(self, network: MemoryNetwork, host: str, port: int) -> None:
        """
        @param host: the address that clients come from.
        @param port: the port that they come from; 0 for one of its own for each.
        """
        self._network = network
        self._host = host
        self._port = port

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen, in place of any other server.

        @return: fires at once.
        """
        port = MemoryPort(self._network, protocolFactory)
        port.startListening()
        return succeed(port)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect to the server.

        @return: fires at once; fails with C{ConnectionRefusedError} if nobody
            listens, C{NoProtocol} if the factory does not want to.
        """
        kind = IPv6Address if ":" in self._host else IPv4Address
        client = kind("TCP", self._host, self._port or self._network.newPort())
        protocol = protocolFactory.buildProtocol(SERVER)
        if protocol is None:
            return fail(error.NoProtocol())
        try:
            self._network.join(protocol, client)
        except error.ConnectionRefusedError:
            return fail()
        return succeed(protocol)


@implementer(IListeningPort)
class MemoryPort:
    """What listens on a L{MemoryNetwork}."""

    def __init__(self, network: MemoryNetwork, factory: IProtocolFactory) -> None:
        """@param factory: builds the server's protocols."""
        self._network = network
        self._factory = factory

    def startListening(self) -> None:
        """Accept connections."""
        self._factory.doStart()
        self._network.factory = self._factory

    def stopListening(self) -> Deferred[None]:
        """
        Accept no more connections.

        @return: fires at once.
        """
        if self._network.factory is self._factory:
            self._network.factory = None
            self._factory.doStop()
        return succeed(None)

    def getHost(self) -> IPAddress:
        """Say where it listens."""
        return SERVER


@dataclass(frozen=True)
class ConnectedPair:
    """
    A client and its server.

    @ivar network: what joins them.
    @ivar server: the server.
    @ivar client: the client's connection.
    @ivar accepted: the server's connection to that client.
    """

    network: MemoryNetwork
    server: Server
    client: Connection
    accepted: Connection

    @property
    def clock(self) -> Clock:
        """What keeps time for both."""
        return self.network.clock

    def deliver(self) -> None:
        """Deliver everything, as L{MemoryNetwork.deliver}."""
        self.network.deliver()

    def advance(self, seconds: float) -> None:
        """
        Let time pass, as L{MemoryNetwork.advance}.

        @param seconds: how much time.
        """
        self.network.advance(seconds)


def connectedPair(
    handler: object = None,
    *,
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **both: Any,
) -> ConnectedPair:
    """
    Make a server and a client that it has accepted.  Both have fresh keys
    and take each other's, unless told otherwise; no file is touched.

    @param handler: the server's, as L{AESMServerFactory<aesm.AESMServerFactory>}
        takes it.
    @param client: more options of L{connect<aesm.connect>}.
    @param server: more options of C{AESMServerFactory}.
    @param both: options of either.
    @return: client and server, with nothing in flight.
    @raise AESMError: the server did not accept the client; says why.
    """
    network = MemoryNetwork()
    ours: dict[str, Any] = {"key": PrivateKey.generate(), "handler": handler}
    theirs: dict[str, Any] = {"key": PrivateKey.generate(), "trust": AnyServer()}
    ours |= both | dict(server or {})
    theirs |= both | dict(client or {})
    listening = listen(network.clock, network.endpoint(), **ours)
    connecting = connect(network.clock, network.endpoint(), **theirs)
    network.deliver()
    connection, listener = _resultOf(connecting), _resultOf(listening)
    (accepted,) = listener.connections.values()
    return ConnectedPair(network, listener, connection, accepted)


def _resultOf(deferred: Deferred[_T]) -> _T:
    """Take the result of a Deferred that has one by now."""
    results: list[_T | Failure] = []
    deferred.addBoth(results.append)
    if not results:
        raise RuntimeError("the client waits for what needs time to pass")
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
