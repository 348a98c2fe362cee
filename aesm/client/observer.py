"""
A client that stays, and somebody who wants to know how it fares::

    service = WatchedService("tcp:example.org:8765", watcher)
    service.startService()

The watcher is told of each attempt, each connection and each failure: what people
in front of a screen want to see, and programs leave to the log.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from twisted.application.internet import backoffPolicy
from twisted.internet.interfaces import IStreamClientEndpoint

from aesm.client.retry import LONGEST_DELAY, RetryDelays
from aesm.client.service import ClientService
from aesm.messages.connection import Connection

__all__ = ["WatchedService", "Watcher"]

FIRST_DELAY = 0.5  # seconds after an attempt that failed
GROWTH = 1.7  # of the delay, each time
JITTER = 0.3  # seconds at random, so that clients do not come back as one


class Watcher(Protocol):
    """Who wants to know how a client fares; called in the reactor's thread."""

    def connecting(self) -> None:
        """There is an attempt to connect."""

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
    """A service that tells how it fares, and is as patient as people are."""

    early = False  # what the watcher sends goes first
    leaves = False  # people read to the end what the server has to say

    def __init__(
        self, endpoint: str | IStreamClientEndpoint, watcher: Watcher, **options: Any
    ) -> None:
        """
        @param watcher: who is told.
        @param options: as L{ClientService}, but for C{retryPolicy}.
        """
        # The policy multiplies before the first attempt, too.
        policy = backoffPolicy(
            FIRST_DELAY / GROWTH,
            LONGEST_DELAY,
            GROWTH,
            jitter=lambda: random.uniform(0, JITTER),
        )
        super().__init__(endpoint, **options)
        self._delays = RetryDelays(policy, prompt=True)
        self._watcher = watcher

    # ClientService

    def connecting(self) -> None:
        """Tell of an attempt."""
        self._watcher.connecting()

    def attached(self, connection: Connection) -> None:
        """Tell of a connection."""
        self._watcher.connected(connection)

    def retrying(self, reason: BaseException, delay: float) -> None:
        """Tell of a failure."""
        self._watcher.waiting(reason, delay)
