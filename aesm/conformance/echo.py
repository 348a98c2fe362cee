"""
A client to be tested, such as docs/conformance.md asks for: it comes back whatever
happens, and sends back what it gets::

    python -m aesm.conformance.echo HOST PORT KEY
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater, react
from zope.interface import implementer

from aesm.client.service import ClientService
from aesm.handlers import Echo
from aesm.interfaces import IClientObserver
from aesm.messages.connection import Connection
from aesm.server.registry import Connections
from aesm.trust.keys import PrivateKey
from aesm.trust.servers import Pinned

DELAY = 0.1  # seconds until it comes back
HEARTBEAT = 2.0  # seconds, so that what waits for it does not take long


@implementer(IClientObserver)
class EchoClient:
    """
    A client that comes back whatever happens: also after what others stop for.

    @ivar service: it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: str | IStreamClientEndpoint,
        trust: object,
        **options: Any,
    ) -> None:
        self._clock = clock
        own: dict[str, Any] = {"heartbeat": HEARTBEAT, "key": PrivateKey.generate()}
        self.service = ClientService(
            endpoint,
            reactor=clock,
            trust=trust,
            retryPolicy=lambda failures: DELAY,
            handler=Echo(Connections()),
            observer=self,
            **own | options,
        )
        self.service.startService()

    def onConnected(self, connection: Connection) -> None:
        """The handler knows."""

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """It comes back by itself."""

    def onStopped(self, reason: Exception) -> None:
        """Start anew."""
        deferLater(self._clock, DELAY, self.service.startService)


def main(reactor: Any, host: str, port: str, key: str) -> Deferred[None]:
    """Run one, until the process is stopped."""
    EchoClient(reactor, f"tcp:{host}:{port}", Pinned(key))
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
