"""
What all were told, as one process keeps it, and what a session was to be sent of it::

    entries = Entries()
    entries.add([decoded(entry)])
    entries.find(position)
    batches, following = entries.merged(name, done, place, own)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from aesm.core.messages.batch import (
    MAX_COST,
    Batch,
    Body,
    LoggedBatch,
    bodyOf,
    encodeMessage,
)
from aesm.core.messages.frames import MESSAGE_OVERHEAD
from aesm.store.following import Following, Place, Places
from aesm.store.interface import Blob, Entry
from aesm.store.stream import readBlob

__all__ = [
    "ENTRY_MEMORY",
    "LOG_SIZE",
    "Entries",
    "Told",
    "decoded",
    "encoded",
    "grouped",
    "together",
]

LOG_SIZE: Final = 14 << 20  # bytes of entries that are kept
ENTRY_MEMORY: Final = 256  # bytes of an entry, beside its message
GROUP_MICROS: Final = 1000  # of entries that share a time


class Told(NamedTuple):
    """
    An entry of the log.

    @ivar position: of it.
    @ivar name: no other entry has it.
    @ivar micros: when it was sent, microseconds since the Unix epoch.
    @ivar body: the message.
    @ivar exclude: the sessions that it is not for.
    @ivar isSound: whether it makes sense; else it is for nobody, at any process.
    """

    position: int
    name: bytes
    micros: int
    body: Body
    exclude: frozenset[str]
    isSound: bool = True

    def isFor(self, name: str) -> bool:
        """Tell whether it is for a session."""
        return self.isSound and name not in self.exclude

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.body) + ENTRY_MEMORY


def encoded(body: Body, exclude: Iterable[str], micros: int) -> bytes:
    """
    Make what is written of a message.

    @param exclude: the sessions that it is not for.
    @param micros: when it is sent, microseconds since the Unix epoch.
    """
    header = json.dumps({"exclude": list(exclude)}).encode()
    return header + b"\n" + encodeMessage(micros, body, type(body))


def decoded(entry: Entry) -> Told:
    """Read an entry."""
    position, name, data = entry
    try:
        header, frame = data.split(b"\n", 1)
        messages = readBlob(Blob(0, 1, frame))
        exclude: Collection[str] = json.loads(header)["exclude"]
        body = bodyOf(messages.data[0])
        return Told(position, name, messages.micros, body, frozenset(exclude))
    except (LookupError, TypeError, ValueError):
        return Told(position, name, 0, b"", frozenset(), isSound=False)


def grouped(entries: Iterable[Told]) -> list[list[Told]]:
    """Put those together that fit one batch."""
    groups: list[list[Told]] = []
    room = micros = 0
    for entry in entries:
        cost = len(entry.body) + MESSAGE_OVERHEAD
        if cost > room or abs(entry.micros - micros) >= GROUP_MICROS:
            groups.append([])
            room, micros = MAX_COST, entry.micros
        groups[-1].append(entry)
        room -= cost
    return groups


def together(group: Sequence[Told]) -> tuple[LoggedBatch, int]:
    """Make one batch of some, and say the position of the last."""
    batch = LoggedBatch(group[0].micros)
    batch.fill([entry.body for entry in group])
    return batch, group[-1].position


class Entries:
    """
    Entries without a gap.

    @ivar position: of the last, or of that before the first that is to come.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.position = 0
        self._entries: list[Told] = []
        self._size = 0

    @property
    def first(self) -> int:
        """The position of the first that is kept, or will be."""
        return self._entries[0].position if self._entries else self.position + 1

    def find(self, position: int) -> Told | None:
        """Find an entry, if it is kept."""
        index = position - self.first
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def has(self, place: Place) -> bool:
        """Tell whether all that is behind a place is kept."""
        return place.position >= self.first - 1

    def add(self, news: Sequence[Told]) -> int:
        """
        Add some, which follow.

        @return: how many bytes they take.
        """
        grown = sum([each.size for each in news])
        self._entries += news
        self.position = news[-1].position
        self._size += grown
        return grown

    def trim(self) -> None:
        """Drop the oldest, while there is too much."""
        old = 0
        while self._size > LOG_SIZE and old < len(self._entries) - 1:
            self._size -= self._entries[old].size
            old += 1
        del self._entries[:old]

    def restart(self, position: int, entries: Sequence[Told] = ()) -> None:
        """
        Begin anew.

        @param position: behind which it goes on.
        @param entries: those that are there.
        """
        self._entries, self._size, self.position = [], 0, position
        if entries:
            self.add(entries)

    def same(self, names: dict[int, bytes]) -> list[Told]:
        """List those that others have, too, by position and name."""
        return [each for each in self._entries if names.get(each.position) == each.name]

    def merged(
        self, name: str, done: int, place: Place, own: Iterable[tuple[int, Batch]]
    ) -> tuple[list[Batch], Following]:
        """
        Find out what a session was to be sent.

        @param name: the session.
        @param done: how many messages of it are acknowledged.
        @param place: where it was in the log.
        @param own: its own batches, each with the number of its first message.
        @return: all of its batches that are not acknowledged, and where it is.
        @raise LookupError: entries are missing.
        """
        index = place.position + 1 - self.first
        if index < 0:
            raise LookupError("the log has not what follows")
        entries = [each for each in self._entries[index:] if each.isFor(name)]
        skip = done - place.number  # of the log: its own are stored no more
        behind = entries[skip - 1].position if skip else place.position
        del entries[:skip]
        batches: list[Batch] = []
        places: Places = []
        number = done

        def fill(some: list[Told]) -> None:
            """Add entries of the log."""
            nonlocal number
            for group in grouped(some):
                batch, position = together(group)
                batch.first = number
                batches.append(batch)
                places.append((number, len(group), position))
                number += len(group)

        for first, batch in own:
            gap = max(0, first - number)
            if gap > len(entries):
                raise LookupError(
                    f"{gap - len(entries)} entries of the log are missing"
                )
            fill(entries[:gap])
            del entries[:gap]
            batch.first = first
            number = first + len(batch.bodies)
            if first < done:  # some of those that were sent together
                batch.cut(done - first)
            batches.append(batch)
        fill(entries)
        return batches, Following(Place(done, behind, place.began), places)
