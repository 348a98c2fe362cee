"""
The server: L{listen} puts a factory on an endpoint::

    server = await listen(reactor, "tcp:8765:interface=127.0.0.1")
    address, packet = server.connections.getDataOrdinal()
    await server.sendTo("hi", address)
    await server.stop()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)

from aesm.announce import announce
from aesm.factory import STOP_DEADLINE, AESMServerFactory, Message
from aesm.keys import PublicKey
from aesm.registry import Address, Connections

__all__ = ["AESMServerFactory", "Server", "listen", "listening"]


class Server:
    """
    A factory and the ports that it listens on.

    @ivar factory: builds the protocols.
    @ivar addresses: where each port listens: C{(host, port)} for TCP, else a
        string.
    """

    def __init__(
        self, factory: AESMServerFactory, ports: Sequence[IListeningPort]
    ) -> None:
        """
        @param factory: builds the protocols.
        @param ports: at least one.
        """
        self.factory = factory
        self.addresses = [listeningAddress(port.getHost()) for port in ports]
        self._ports = list(ports)  # those that listen

    @property
    def address(self) -> Address:
        """
        Where the first port listens.
        """
        return self.addresses[0]

    @property
    def publicKey(self) -> PublicKey:
        """
        The server's own key.
        """
        return self.factory.publicKey

    @property
    def connections(self) -> Connections:
        """
        Who is connected, and the activity log.
        """
        return self.factory.connections

    def sendTo(self, data: Message, address: Address) -> Deferred[None]:
        """
        Send a message to one peer.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param address: whose, as in C{connections}.
        @return: as L{AESMServerFactory.sendTo}.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        return self.factory.sendTo(data, address)

    def sendAll(self, data: Message) -> Deferred[int]:
        """
        Send a message to every peer.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @return: as L{AESMServerFactory.sendAll}.
        @raise TypeError: C{data} is neither text nor bytes.
        """
        return self.factory.sendAll(data)

    def stop(self, reason: str = "", deadline: float = STOP_DEADLINE) -> Deferred[None]:
        """
        Stop listening, tell every client (code 1001), send what is queued, and
        abort what is left at the deadline.

        @param reason: words for the clients.
        @param deadline: seconds.
        @return: fires when all ports and connections are gone.
        """
        waiting: list[Deferred[Any]] = [self.factory.stop(reason, deadline)]
        while self._ports:  # a second time would be an error of theirs
            waiting.append(maybeDeferred(self._ports.pop().stopListening))
        return gatherResults(waiting, consumeErrors=True).addCallback(
            lambda results: None
        )


def listeningAddress(address: IAddress) -> Address:
    """
    Name where a port listens.

    @param address: the port's, as Twisted says.
    @return: C{(host, port)} for TCP, a path for a UNIX socket, else text.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if isinstance(host, str) and isinstance(port, int):
        return (host, port)
    name = getattr(address, "name", None)
    return name.decode(errors="replace") if isinstance(name, bytes) else str(address)


def listening(factory: AESMServerFactory, ports: Iterable[IListeningPort]) -> Server:
    """
    Put a factory and its ports together, and say what the operator should know.

    @param factory: builds the protocols.
    @param ports: those that listen with it.
    @return: the server.
    """
    ports = list(ports)
    for port in ports:
        announce(port.getHost(), factory.publicKey, factory.isOpen)
    return Server(factory, ports)


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
    factory = AESMServerFactory(reactor=reactor, **options)
    if isinstance(endpoint, str):
        endpoint = serverFromString(reactor, endpoint)
    port = IStreamServerEndpoint(endpoint).listen(factory)
    return port.addCallback(lambda port: listening(factory, [port]))
