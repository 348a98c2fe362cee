"""
The sessions of a server that wait for their clients to come back, docs/protocol.md,
section 8::

    sessions.wait(connection)                     # its transport is gone
    sessions.find(hello, publicKey)               # a client names it
    sessions.resumed(connection)

One that nobody came back to in time is over.  When there are too many, it is one of the
key that has most of them: one with nothing in it, if there is any among those that have
waited longest, else the first of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from aesm.core.messages.hello import Hello
from aesm.errors import CloseCode, ConnectionClosed, SessionLost
from aesm.messages.budget import heldBy
from aesm.messages.connection import Connection
from aesm.secure.places import Shares, hostOf
from aesm.trust.keys import PublicKey

SESSION_GRACE = 60.0  # seconds, docs/protocol.md, section 8
MOST_LOOKED = 128  # that wait, for one with nothing in it


def isResumed(connection: Connection, hello: Hello) -> bool:
    """
    Tell whether a client goes on with a connection's session: it names it, says of it
    what can be, and nobody is ending it.

    @param connection: one of the client's key.
    @see: docs/protocol.md, section 8
    """
    session = connection.session
    return (
        session.name == hello.session
        and not hello.early  # else it is to begin
        and session.outbox.canResume(hello)
        and not connection.isEnding
    )


class Sessions:
    """Finds sessions by name, and ends those that waited too long."""

    def __init__(
        self,
        clock: IReactorTime,
        grace: float,
        most: int,
        waitsOn: Callable[[Connection], bool] = lambda connection: False,
    ) -> None:
        """
        @param grace: seconds to wait for a client; 0 not to.
        @param most: how many may wait.
        @param waitsOn: asked when that time is over: whether it is for others to say
            that it is, so that it waits as long again.
        @raise ValueError: the grace is negative, or no number.
        """
        if not 0 <= grace < math.inf:
            raise ValueError(f"sessionGrace must be 0 or more seconds, not {grace}")
        self.grace = grace
        self._clock = clock
        self._most = most
        self._waitsOn = waitsOn
        self._byName: dict[str, Connection] = {}
        # Until when; all wait equally long, so that the first one's time is up first.
        self._waiting: dict[Connection, float] = {}
        # Whose they are.
        self._keys: Shares[Connection, PublicKey] = Shares()
        self._hosts: Shares[Connection, str] = Shares()
        self._timer: IDelayedCall | None = None

    def add(self, connection: Connection) -> None:
        """Know a session that has begun."""
        self._byName[connection.session.name] = connection

    def discard(self, connection: Connection) -> None:
        """Forget a session that is over, if it is known."""
        self._byName.pop(connection.session.name, None)
        self.resumed(connection)

    def knows(self, connection: Connection) -> bool:
        """Tell whether a session is one of ours that is not over."""
        return connection.session.name in self._byName

    def find(self, hello: Hello, peer: PublicKey) -> Connection | None:
        """
        Find the session that a client goes on with, or None.

        @param peer: the key that it has proved: no other key's session is found.
        """
        connection = self._byName.get(hello.session)
        if connection is None or connection.peer != peer:
            return None
        return connection if isResumed(connection, hello) else None

    def __len__(self) -> int:
        """Count those that wait for their clients."""
        return len(self._waiting)

    def isWaiting(self, connection: Connection) -> bool:
        """Tell whether a client is known to be away."""
        return connection in self._waiting

    def graceLeft(self, connection: Connection) -> float | None:
        """Tell how many seconds a client still has; None if it is not away."""
        until = self._waiting.get(connection)
        return None if until is None else max(0.0, until - self._clock.seconds())

    def wait(self, connection: Connection) -> None:
        """Give the client of a connection that was lost time to come back."""
        self._waiting.pop(connection, None)  # it goes behind all others
        self._waiting[connection] = self._clock.seconds() + self.grace
        self._keys.add(connection, connection.peer)
        self._hosts.add(connection, _hostOf(connection))
        if len(self._waiting) > self._most:
            self.end(self._leastMissed(), "too many sessions wait for their clients")
        self._schedule()

    def resumed(self, connection: Connection) -> None:
        """Wait no longer for a client."""
        if self._waiting.pop(connection, None) is not None:
            self._keys.discard(connection)
            self._hosts.discard(connection)
            self._schedule()

    def _leastMissed(self) -> Connection:
        """Tell which session is to make room for another."""
        key, host = self._keys.largest, self._hosts.largest
        # Where no key has more than one, that says little: anybody may make keys.
        several = self._keys.count(key) > 1
        waiting = (
            self._keys.of(key, MOST_LOOKED)
            if several
            else self._hosts.of(host, MOST_LOOKED)
        )
        return next((each for each in waiting if not heldBy(each)), waiting[0])

    def stop(self, stored: bool) -> None:
        """
        Wait for nobody any more.

        @param stored: whether the sessions outlive the process.
        """
        for connection in list(self._waiting):
            if connection not in self._waiting:  # what hears of one may end others
                continue
            if stored:
                self.resumed(connection)
                connection.finish(
                    ConnectionClosed(
                        "the server is stopping; the session is stored",
                        CloseCode.GOING_AWAY,
                    )
                )
            else:
                self.end(connection, "the server is stopping")

    def _schedule(self) -> None:
        """Look again when the next one has waited long enough."""
        if not self._waiting:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            until = next(iter(self._waiting.values()))
            delay = max(0.0, until - self._clock.seconds())
            self._timer = self._clock.callLater(delay, self._expire)

    def _expire(self) -> None:
        """End those that have waited long enough."""
        self._timer = None
        now = self._clock.seconds()
        while self._waiting:
            connection, until = next(iter(self._waiting.items()))
            if until > now:
                break
            if self._waitsOn(connection):
                del self._waiting[connection]
                self._waiting[connection] = now + max(self.grace, 1.0)
                continue
            self.end(
                connection, f"the client did not come back in {self.grace:g} seconds"
            )
        self._schedule()

    def end(self, connection: Connection, why: str) -> None:
        """
        End a session that waits.

        @param why: for its client's messages that may not have arrived.
        """
        # It waits no more when others are told of it: they may end sessions, too.
        self.resumed(connection)
        connection.finish(
            SessionLost(
                f"the session was given up: {why}; what the client did not acknowledge "
                "may not have arrived"
            )
        )


def _hostOf(connection: Connection) -> str:
    """Tell which host a connection came from, or its name if it came from none."""
    address = connection.address
    return hostOf(address[0]) if isinstance(address, tuple) else address
