"""
The encrypted byte stream for any Twisted protocol: endpoints that put a secure
channel between an endpoint and a protocol factory that knows nothing of it::

    site = wrapServerEndpoint(serverFromString(reactor, "tcp:8443"))
    site.listen(Site(resource))

    endpoint = wrapClientEndpoint("tcp:example.org:8443", trust=Pinned(key))
    protocol = await endpoint.connect(Factory.forProtocol(MyProtocol))
    protocol.transport.getPeer().publicKey

The protocol is built once the handshake is done and the peer is let in, with a
L{SecureAddress<aesm.secure.transport.SecureAddress>} that carries the peer's key, and
finds a L{SecureTransport<aesm.secure.transport.SecureTransport>} that behaves as TCP's
does.  A client that is not let in sees the stream end in order, as if its server had
nothing to say: before that the server has no way to speak to a protocol that it does
not know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from aesm.core.channel.settings import Layer
from aesm.secure.announce import announce
from aesm.secure.factory import HANDSHAKE_TIMEOUT, checkTimeout
from aesm.secure.hosts import clientEndpoint
from aesm.secure.listening import listenOn
from aesm.secure.options import ChannelOptions, channelSettings, reactorOr
from aesm.secure.places import HANDSHAKES_PER_HOST, Places
from aesm.secure.wrapping import ClientFactory, ServerFactory, canYield
from aesm.trust.locations import locationOf
from aesm.trust.policies import clientPolicy, trustPolicy


def wrapServerEndpoint(
    endpoint: IStreamServerEndpoint,
    *,
    authorizedKeys: object = None,
    maxConnections: int | None = None,
    maxConnectionsPerHost: int | None = None,
    handshakesPerHost: float = HANDSHAKES_PER_HOST,
    handshakeTimeout: float = HANDSHAKE_TIMEOUT,
    reactor: IReactorTime | None = None,
    **channel: Unpack[ChannelOptions],
) -> IStreamServerEndpoint:
    """
    Put secure channels on what an endpoint accepts.

    @param endpoint: where to listen.
    @param authorizedKeys: a path, an
        L{IClientPolicy<aesm.interfaces.IClientPolicy>}, a callable like its
        C{checkClient}, or None to let any key in.  A key that is taken out of
        the file is disconnected.
    @param maxConnections: connections in all; None for as many as the limit on open
        files allows, and no more than 65,536.
    @param maxConnectionsPerHost: connections of one host, IPv6 by /64; None for a
        quarter of C{maxConnections}, and at least 8.
    @param handshakesPerHost: handshakes of one host, a second.
    @param handshakeTimeout: seconds from a connection's start to its opening.
    @param reactor: keeps time; None for the installed one.
    @param channel: C{key}, C{name}, C{psk} and C{suites}, as
        L{ChannelOptions<aesm.secure.options.ChannelOptions>}.
    @return: an endpoint that any factory can listen on.
    @raise KeyFileError: a file cannot be used; says why.
    @raise TypeError: an option is of the wrong type, or there is no such.
    @raise ValueError: an option has a value that it cannot have.
    """
    if not IStreamServerEndpoint.providedBy(endpoint):
        raise TypeError(f"{endpoint!r} is no IStreamServerEndpoint")
    makeFactory = partial(
        ServerFactory,
        clock=reactorOr(reactor),
        handshakeTimeout=checkTimeout(handshakeTimeout),
        settings=channelSettings("server.key", Layer.STREAM, **channel),
        policy=clientPolicy(authorizedKeys),
        places=Places(
            maxConnections, maxConnectionsPerHost, handshakesPerHost, canYield=canYield
        ),
    )
    return _ServerEndpoint(IStreamServerEndpoint(endpoint), makeFactory)


def wrapClientEndpoint(
    endpoint: str | IStreamClientEndpoint,
    *,
    trust: object = None,
    handshakeTimeout: float = HANDSHAKE_TIMEOUT,
    reactor: IReactorTime | None = None,
    **channel: Unpack[ChannelOptions],
) -> IStreamClientEndpoint:
    """
    Put a secure channel on what an endpoint connects.

    The Deferred of its C{connect} fires with the protocol, once that has its
    transport.  It fails with what the endpoint fails with, with the
    L{AESMError<aesm.errors.AESMError>} that says why there is no channel, or with
    what the factory fails with (C{NoProtocol} if it builds none).  Cancelling it
    closes what was begun.

    @param endpoint: where to connect to, or its string.  What the known servers
        call a server is what its string says, else its address.
    @param trust: an L{ITrustPolicy<aesm.interfaces.ITrustPolicy>}; None for
        L{KnownServers<aesm.trust.servers.KnownServers>} in the state directory.
    @param handshakeTimeout: seconds from a connection's start to its opening.
    @param reactor: keeps time; None for the installed one.
    @param channel: C{key}, C{name}, C{psk} and C{suites}, as
        L{ChannelOptions<aesm.secure.options.ChannelOptions>}.
    @return: an endpoint that any factory can connect to.
    @raise KeyFileError: a file cannot be used; says why.
    @raise TypeError: an option is of the wrong type, or there is no such.
    @raise ValueError: an option has a value that it cannot have.
    """
    clock = reactorOr(reactor)
    location = None
    if isinstance(endpoint, str):
        location = locationOf(endpoint)
        endpoint = clientEndpoint(clock, endpoint)
    if not IStreamClientEndpoint.providedBy(endpoint):
        raise TypeError(f"{endpoint!r} is no IStreamClientEndpoint")
    makeFactory = partial(
        ClientFactory,
        clock=clock,
        handshakeTimeout=checkTimeout(handshakeTimeout),
        settings=channelSettings("client.key", Layer.STREAM, **channel),
        policy=trustPolicy(trust),
        location=location,
    )
    return _ClientEndpoint(IStreamClientEndpoint(endpoint), makeFactory)


@implementer(IStreamServerEndpoint)
class _ServerEndpoint:
    """Listens for secure channels."""

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        makeFactory: Callable[[IProtocolFactory], ServerFactory],
    ) -> None:
        self._endpoint = endpoint
        self._makeFactory = makeFactory

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen; builds the protocols inside of the channels."""
        factory = self._makeFactory(protocolFactory)
        listening = listenOn(self._endpoint, factory)
        return listening.addCallback(self._cbListening, factory)

    def _cbListening(
        self, port: IListeningPort, factory: ServerFactory
    ) -> IListeningPort:
        """Log the address and our public key."""
        announce(port.getHost(), factory.publicKey, factory.isOpen)
        return port


@implementer(IStreamClientEndpoint)
class _ClientEndpoint:
    """Connects secure channels."""

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        makeFactory: Callable[[IProtocolFactory], ClientFactory],
    ) -> None:
        self._endpoint = endpoint
        self._makeFactory = makeFactory

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, as L{wrapClientEndpoint} says."""
        return self._makeFactory(protocolFactory).connect(self._endpoint)
