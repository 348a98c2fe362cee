"""
A client that stays, and somebody who wants to know how it fares::

    service = WatchedService("tcp:example.org:8765", watcher)
    service.startService()

The watcher is told of each attempt, each connection and each failure: what people
in front of a screen want to see, and programs leave to the log.
"""

from __future__ import annotations

import random
from typing import Any, Protocol, cast

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.python.failure import Failure

from aesm.client.service import LONGEST_DELAY, ClientService
from aesm.errors import AESMError
from aesm.messages.connection import Connection

__all__ = ["WatchedService", "Watcher"]

FIRST_DELAY = 0.5  # seconds until a connection that was lost is made again
GROWTH = 1.7  # of the delay, each time
JITTER = 0.3  # seconds at random, so that clients do not come back as one


class Watcher(Protocol):
    """
    Who wants to know how a client fares; called in the reactor's thread.
    """

    def connecting(self) -> None:
        """
        There is an attempt to connect.
        """

    def connected(self, connection: Connection) -> None:
        """
        The server has accepted.  What is sent now goes before all that waits.

        @param connection: the former one if its session goes on, else a new one.
        """

    def waiting(self, reason: BaseException, delay: float) -> None:
        """
        There is no connection, and it is not time to try again.

        @param reason: why.
        @param delay: when it is, seconds.
        """


class WatchedService(ClientService):
    """
    A service that tells how it fares, and is as patient as people are.
    """

    def __init__(
        self, endpoint: str | IStreamClientEndpoint, watcher: Watcher, **options: Any
    ) -> None:
        """
        @param endpoint: as L{ClientService}.
        @param watcher: who is told.
        @param options: as L{ClientService}, but for C{retryPolicy}.
        """
        super().__init__(endpoint, retryPolicy=self._tellDelay, **options)
        self._watcher = watcher
        self._why: BaseException = AESMError("never connected")
        self._delays = backoffPolicy(
            FIRST_DELAY / GROWTH,
            LONGEST_DELAY,
            GROWTH,
            jitter=lambda: random.uniform(0, JITTER),
        )

    # For the endpoint

    def dial(self) -> Deferred[Connection]:
        """
        Try once.

        @return: as L{ClientService.dial}.
        """
        self._watcher.connecting()
        return super().dial()

    def attached(self, connection: Connection, line: IProtocol) -> None:
        """
        There is a connection.

        @param connection: the connection, a new one or C{former}.
        @param line: what stands for its transport.
        """
        if connection is not self.former:
            connection.closed().addCallback(self._cbEnded)
        super().attached(connection, line)
        self._watcher.connected(connection)

    def detached(self, connection: Connection, reason: AESMError) -> None:
        """
        The transport under a connection is gone.

        @param connection: whose.
        @param reason: why.
        """
        self._why = reason
        super().detached(connection, reason)

    def failed(self, failure: Failure) -> Failure:
        """
        An attempt failed.

        @param failure: why.
        @return: the same.
        """
        self._why = cast(BaseException, failure.value)
        return super().failed(failure)

    # Parts

    def _cbEnded(self, reason: AESMError) -> None:
        """
        A session is over.

        @param reason: why.
        """
        self._why = reason

    def _tellDelay(self, failures: int) -> float:
        """
        Say how long to wait before trying again, and tell the watcher.

        @param failures: in a row.
        @return: seconds.
        """
        delay = self._delays(failures)
        self._watcher.waiting(self._why, delay)
        return delay
