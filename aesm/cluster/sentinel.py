"""
Which server is the primary now, as sentinels say it::

    endpoint = SentinelEndpoint(ask, address, reactor)
    endpoint.connect(factory)       # to the primary of this moment

Who loses its connection, or finds that a server is a replica, connects again, and they
are asked again.  What a sentinel says may be old; but a replica takes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from aesm.errors import SpoolError

if TYPE_CHECKING:
    from aesm.cluster.address import EngineAddress

Ask = Callable[[IStreamClientEndpoint, str], Awaitable["tuple[str, int]"]]


@implementer(IStreamClientEndpoint)
class SentinelEndpoint:
    """Connects to the server that is the primary now."""

    def __init__(self, ask: Ask, address: EngineAddress, reactor: object) -> None:
        """
        @param ask: asks a sentinel for the primary of a name; raises L{SpoolError} if
            it does not know.
        @param address: where sentinels are, and the name.
        @param reactor: connects.
        """
        self._ask = ask
        self._address = address
        self._reactor = reactor
        self._sentinels = list(address.hosts)  # who has answered last is the first

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, as with any endpoint."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        """Ask one sentinel after the other; C{ConnectError} if none knows."""
        reasons = []
        for sentinel in list(self._sentinels):
            endpoint = self._address.endpointAt(self._reactor, *sentinel)
            try:
                primary = await self._ask(endpoint, self._address.path)
            except SpoolError as error:
                reasons.append(f"{sentinel[0]}:{sentinel[1]}: {error}")
                continue
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            found = self._address.endpointAt(self._reactor, *primary)
            return await found.connect(factory)
        raise ConnectError(string=f"no sentinel tells; {'; '.join(reasons)}")
