"""
What the entries of the activity log say of a client that is in, beside what all say:
the fields of docs/operating.md, section "Logs"::

    details = visits.begin(connection, agent, back=False)     # it was let in
    details = visits.end(connection, reason, kept=True)       # its transport is gone

A visit lasts from one to the other.  A session that goes on over several transports
has one after another, and each counts its own messages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.internet.interfaces import IReactorTime

from aesm.core.messages.frames import MESSAGE_OVERHEAD
from aesm.core.messages.session import Session
from aesm.errors import AESMError, SessionMoved
from aesm.messages.connection import Connection
from aesm.text import escape


class _Counts(NamedTuple):
    """Messages that came, and that the client has acknowledged; their cost."""

    received: int
    receivedCost: int
    sent: int
    sentCost: int

    @classmethod
    def of(cls, session: Session) -> _Counts:
        """Look at a session."""
        inbox, outbox = session.inbox, session.outbox
        return cls(
            inbox.received,
            inbox.receivedCost,
            outbox.acknowledged,
            outbox.acknowledgedCost,
        )


class Visits:
    """Those who are in, since when, and what was counted by then."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._begun: dict[Connection, tuple[float, _Counts]] = {}

    def begin(self, connection: Connection, agent: str, back: bool) -> dict[str, Any]:
        """
        Begin a visit.

        @param agent: the client's software, as it says.
        @param back: whether its session goes on.
        @return: fields of its entry.
        """
        # One that came back before it was missed goes on.
        counts = _Counts.of(connection.session)
        self._begun.setdefault(connection, (self._clock.seconds(), counts))
        return {
            **_whose(connection),
            "suite": connection.suite,
            "agent": escape(agent),
            "back": back,
        }

    def end(
        self, connection: Connection, reason: AESMError, kept: bool
    ) -> dict[str, Any]:
        """
        End a visit, or a session whose client was away.

        @param reason: why.
        @param kept: whether the client may come back to its session.
        @return: fields of its entry.
        """
        details = {
            **_whose(connection),
            "code": getattr(reason, "code", None),
            "kept": kept or isinstance(reason, SessionMoved),
        }
        begun = self._begun.pop(connection, None)
        if begun is None:
            return details
        since, before = begun
        after = _Counts.of(connection.session)
        received, sent = after.received - before.received, after.sent - before.sent
        receivedCost = after.receivedCost - before.receivedCost
        sentCost = after.sentCost - before.sentCost
        return details | {
            "duration": round(self._clock.seconds() - since, 3),
            "received": received,
            "receivedBytes": receivedCost - received * MESSAGE_OVERHEAD,
            "sent": sent,
            "sentBytes": sentCost - sent * MESSAGE_OVERHEAD,
        }


def _whose(connection: Connection) -> dict[str, Any]:
    """Say whose session it is, and which."""
    return {"name": connection.peerName, "session": connection.session.name}
