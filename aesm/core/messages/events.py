"""
The events that C{Conversation.receive} returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aesm.core.messages.frames import Messages, Requests, Responses
from aesm.core.messages.hello import Hello
from aesm.errors import AESMError

MANY: Final = 64  # small frames, or withdrawals
DENSE: Final = 64  # bytes of each


@dataclass(frozen=True)
class Accepted:
    """
    The server's WELCOME arrived: messages can be sent.

    @ivar resumed: whether the requested session was resumed.
    """

    hello: Hello
    resumed: bool


class Acknowledged(NamedTuple):
    """
    The peer has acknowledged more messages; a tuple, because it is made often.

    @ivar count: messages acknowledged from the session's start (cumulative).
    """

    count: int  # type: ignore[assignment]  # instead of a tuple's method


class Asked(NamedTuple):
    """
    Requests came.

    @ivar first: the number of the first of them; the others follow without a gap.
    @ivar requests: as they came; they count as kept once they are begun, and as taken
        once they are answered.
    """

    first: int
    requests: Requests


class Answered(NamedTuple):
    """
    Responses came, which are messages, too.

    @ivar first: the number of the first of them; the others follow without a gap.
    @ivar messages: as they came.
    @ivar waiters: who waits for each, as L{Outbox.answered} tells; for those that
        withdraw a request of the peer's None.
    """

    first: int
    messages: Responses
    waiters: list[object]


@dataclass(frozen=True)
class PeerClosed:
    """
    The peer closes in order: it acknowledges no more, and reads no more.

    @ivar code: docs/protocol.md, section 9; 1005 if it gave none.
    @ivar after: milliseconds over which a peer that goes away (1001) wants those whom
        it leaves to come back; 0 if it did not say.
    """

    code: int
    reason: str
    after: int = 0


@dataclass(frozen=True)
class Broken:
    """
    The conversation has failed.  C{takeFrames} may still have a CLOSE for the peer,
    after which the stream is to be ended.  The event is repeated if the peer does not
    let it end in time: then the transport is to be aborted.
    """

    error: AESMError


# C{Messages} came, which the application is to C{keep} and C{take}, or one of these.
Event = Messages | Asked | Answered | Accepted | Acknowledged | PeerClosed | Broken


def areDense(events: Sequence[Event], size: int) -> bool:
    """Tell whether so many bytes held so much to be done that others wait for it."""
    count = len(events)
    for event in events:
        if isinstance(event, Answered):
            count += event.waiters.count(None)
    return count > MANY and count * DENSE > size
