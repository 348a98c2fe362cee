"""
From what users write to what a client dials::

    clientEndpoint(reactor, "example.org")              # port 8765
    clientEndpoint(reactor, "[::1]:8765")
    clientEndpoint(reactor, "tcp:example.org:8765:timeout=5")
    clientEndpoint(reactor, "unix:/run/aesm.sock")      # any other of Twisted's

Twisted's C{tcp:} dials the first IPv4 address of a name and no other.  Here a name's
addresses of both families are tried, by Twisted's C{HostnameEndpoint}; an address that
accepts connections and then hangs, or fails in the handshake, comes last the next time
(C{avoid}), which no race of connections can find out.

@see: RFC 8305
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, cast

from twisted.internet._resolver import GAIResolver
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    clientFromString,
)
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import directlyProvides, implementer, providedBy

from aesm.trust.locations import fieldsOf, locationOf

_KEYWORDS = frozenset({"host", "port", "timeout", "bindAddress"})


def clientEndpoint(reactor: Any, text: str) -> IStreamClientEndpoint:
    """
    Make the endpoint that a client's string means.

    @param text: C{HOST}, C{HOST:PORT}, an IPv6 address in brackets or not, or one of
        Twisted's strings.
    @raise ValueError: it means none.
    """
    kind, given, named = fieldsOf(text)
    fields = dict(zip(("host", "port"), given, strict=False)) | named
    if kind != "tcp" or len(given) > 2 or not {"host", "port"} <= fields.keys():
        return IStreamClientEndpoint(clientFromString(reactor, text))
    if not fields.keys() <= _KEYWORDS:  # Twisted says what is wrong with it
        return IStreamClientEndpoint(clientFromString(reactor, text))
    port = int(fields["port"])
    if not 0 < port < 65536:
        raise ValueError(f"a port is 1 to 65535, not {port}")
    timeout = float(fields.get("timeout", 30))
    if not 0 < timeout < math.inf:
        raise ValueError(f"a timeout is seconds, above 0, not {timeout:g}")
    bind = fields.get("bindAddress")
    return HostEndpoint(
        reactor,
        fields["host"],
        port,
        location=locationOf(text, (kind, given, named)),
        timeout=timeout,
        bindAddress=None if bind is None else (bind, 0),
    )


@implementer(IStreamClientEndpoint)
class HostEndpoint:
    """A host and a port, whichever of the host's addresses works."""

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        *,
        location: str,
        timeout: float,
        bindAddress: tuple[str, int] | None,
    ) -> None:
        """@param timeout: seconds for each address."""
        self.location = location
        self._reactor = reactor
        self._host = host
        self._port = port
        self._options = timeout, bindAddress
        self._avoided: dict[str, None] = {}  # the latest last

    def __repr__(self) -> str:
        """Show what it dials."""
        return f"<HostEndpoint {self._host} {self._port}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the first address that takes the connection."""
        make: Callable[..., IStreamClientEndpoint] = HostnameEndpoint
        reactor = self._reactor
        if isIPAddress(self._host):
            make = TCP4ClientEndpoint
        elif isIPv6Address(self._host):
            make = TCP6ClientEndpoint
        else:
            reactor = _Resolving(reactor, self._sorted)
        return make(reactor, self._host, self._port, *self._options).connect(
            protocolFactory
        )

    def avoid(self, address: IAddress) -> None:
        """Begin with other addresses from now on: at this one nothing came about."""
        host = getattr(address, "host", "")
        self._avoided.pop(host, None)
        self._avoided[host] = None

    def _sorted(self, addresses: list[IAddress]) -> list[IAddress]:
        """Sort addresses, those to be avoided last; forget those that are gone."""
        hosts = {getattr(address, "host", "") for address in addresses}
        avoided = [host for host in self._avoided if host in hosts]
        self._avoided = dict.fromkeys(avoided)

        def rank(address: IAddress) -> int:
            host = getattr(address, "host", "")
            return avoided.index(host) if host in avoided else -1

        return sorted(addresses, key=rank)


@implementer(IHostnameResolver)
class _Resolving:
    """A reactor with another resolver: in our order, and without its threads."""

    def __init__(
        self, reactor: Any, order: Callable[[list[IAddress]], list[IAddress]]
    ) -> None:
        self._reactor = reactor
        self._order = order
        mine = IHostnameResolver, IReactorPluggableNameResolver
        directlyProvides(self, providedBy(reactor), *mine)

    def __getattr__(self, name: str) -> Any:
        """All else is the reactor's."""
        return getattr(self._reactor, name)

    @property
    def nameResolver(self) -> IHostnameResolver:
        """What C{HostnameEndpoint} asks."""
        return self

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Look a name up."""
        resolver = self._reactor.nameResolver
        if isinstance(resolver, GAIResolver):  # Twisted's own, on the reactor's threads
            resolver = GAIResolver(self._reactor, cast(Any, _Threads))
        resolution: IHostResolution = resolver.resolveHostName(
            _Sorting(resolutionReceiver, self._order),
            hostName,
            portNumber,
            addressTypes,
            transportSemantics,
        )
        return resolution


@implementer(IResolutionReceiver)
class _Sorting:
    """Hands addresses on once all of them are there, in another order."""

    def __init__(
        self,
        receiver: IResolutionReceiver,
        order: Callable[[list[IAddress]], list[IAddress]],
    ) -> None:
        self._receiver = receiver
        self._order = order
        self._addresses: list[IAddress] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """A look-up has begun."""
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        """There is an address."""
        self._addresses.append(address)

    def resolutionComplete(self) -> None:
        """That was the last one."""
        for address in self._order(self._addresses):
            self._receiver.addressResolved(address)
        self._receiver.resolutionComplete()


class _Threads:
    """
    As much of a thread pool as C{GAIResolver} uses: a look-up that hangs, which nobody
    can cancel, must not hold up the end of the process as the reactor's threads do.
    """

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object],
        function: Callable[..., Any],
        *args: Any,
        **kw: Any,
    ) -> None:
        """Call a function in a thread of its own."""

        def run() -> None:
            from twisted.python.failure import Failure

            try:
                outcome = True, function(*args, **kw)
            except BaseException:
                outcome = False, Failure()
            onResult(*outcome)

        Thread(target=run, name="aesm.lookup", daemon=True).start()
