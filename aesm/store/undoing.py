"""
What is done because of a message whose session another process has by now, and so is to
happen there: whose that is, and what numbers mean once some messages were taken out::

    hasLeft(cause)
    undone = takeOut([batches, outbox.staged], {7})
    former, numbering = numbering, Numbering(connection)
    former.move([(7, 2)], numbering)       # the messages 7 and 8 are none any more
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

from aesm.core.messages.frames import EncodedResponse
from aesm.errors import ConnectionClosed

if TYPE_CHECKING:
    from aesm.core.messages.batch import Batch
    from aesm.messages.acknowledgements import Acknowledgement
    from aesm.messages.connection import Connection


def hasLeft(cause: Connection | None) -> bool:
    """Tell whether what something has caused happens in another process."""
    return getattr(cause, "isLeft", False)


def elsewhere() -> ConnectionClosed:
    """Make the error for what is not sent here."""
    return ConnectionClosed("it was not sent here: its cause is in another process")


def haveAnswers(batches: Iterable[Batch]) -> bool:
    """Tell whether there are answers to requests in some batches."""
    return any(
        type(body) is EncodedResponse for each in batches for body in each.marked
    )


def takeOut(lists: Iterable[list[Batch]], gone: Container[int]) -> list[Batch]:
    """
    Take batches out, and number anew what is behind them.

    @param lists: have the batches, in their order; those are taken out of these.
    @param gone: before how many messages of the session each of them is.
    @return: those that were taken out.
    """
    undone: list[Batch] = []
    shift = 0
    for batches in lists:
        kept = []
        for batch in batches:
            if batch.first in gone:
                undone.append(batch)
                shift += len(batch.bodies)
            else:
                batch.first -= shift
                kept.append(batch)
        batches[:] = kept
    return undone


class Numbering:
    """
    Finds those who wait for acknowledgements when their messages have other numbers
    than when these were sent.
    """

    def __init__(self, connection: Connection) -> None:
        """@param connection: knows what is acknowledged."""
        self._connection = connection
        self._holes: Sequence[tuple[int, int]] = ()
        self._next: Numbering | None = None

    def move(self, holes: Sequence[tuple[int, int]], numbering: Numbering) -> None:
        """
        Messages are taken out.

        @param holes: of those that were behind one another the first, counted from 0,
            and how many, in their order.
        @param numbering: what counts from now on.
        """
        self._holes, self._next = holes, numbering

    def watch(self, acknowledgement: Acknowledgement, count: int) -> None:
        """
        Fire a Deferred once so many messages are acknowledged, as they were counted
        then; it fails if its message was taken out.
        """
        if self._next is None:
            self._connection.watch(acknowledgement, count)
            return
        shift = 0
        for first, size in self._holes:
            if first < count <= first + size:
                acknowledgement.errback(elsewhere())
                return
            shift += size if count > first else 0
        self._next.watch(acknowledgement, count - shift)
