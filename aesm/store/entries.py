"""
What all were told, as one process keeps it, and what a session was to be sent of it::

    entries = Entries()
    entries.add([decoded(entry)])
    entries.find(position)
    batches, following = entries.merged(name, done, place, own)

An entry is a message to all, or something that has happened (L{aesm.store.replicated}
says what is made of that): then it has several messages, each for some, or none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
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
from aesm.store.following import Following, Place
from aesm.store.interface import Blob, Entry, ILogStore
from aesm.store.stream import readBlob

LOG_SIZE: Final = 14 << 20  # bytes of entries that are kept
ENTRY_MEMORY: Final = 256  # bytes of an entry, beside its message
GROUP_MICROS: Final = 1000  # of entries that share a time

EVENT, GONE = "event", "gone"  # what an entry is that is no message
_MESSAGE: Final = "message"


class Row(NamedTuple):
    """
    Something that some sessions are told of what has happened.

    @ivar body: the message; None if they are closed.
    @ivar names: the sessions, sorted.
    """

    body: Body | None
    names: tuple[str, ...]

    def isFor(self, name: str) -> bool:
        """Tell whether it is for a session."""
        at = bisect_left(self.names, name)
        return at < len(self.names) and self.names[at] == name


class Told(NamedTuple):
    """
    An entry of the log.

    @ivar position: of it.
    @ivar name: no other entry has it.
    @ivar micros: when it was sent, microseconds since the Unix epoch.
    @ivar body: the message.
    @ivar exclude: the sessions that it is not for.
    @ivar isSound: whether it makes sense; else it is for nobody, at any process.
    @ivar kind: C{EVENT}, if C{body} says what has happened, C{GONE} if it says which
        session is over; empty for a message to all.
    @ivar rows: what was made of that.
    @ivar memory: the bytes that these take.
    """

    position: int
    name: bytes
    micros: int
    body: Body
    exclude: frozenset[str]
    isSound: bool = True
    kind: str = ""
    rows: tuple[Row, ...] = ()
    memory: int = 0

    def isFor(self, name: str) -> bool:
        """Tell whether it is a message for a session."""
        return self.isSound and not self.kind and name not in self.exclude

    def bodiesFor(self, name: str) -> list[Body]:
        """List its messages for a session, up to where that is closed."""
        if not self.kind:
            return [self.body] if self.isFor(name) else []
        found: list[Body] = []
        for row in self.rows:
            if row.isFor(name):
                if row.body is None:
                    break
                found.append(row.body)
        return found

    def saying(self, body: Body) -> Told:
        """Make an entry of one message that was made of it."""
        return self._replace(body=body, kind="", rows=())

    @property
    def size(self) -> int:
        """The bytes that it takes."""
        return len(self.body) + self.memory + ENTRY_MEMORY


# An entry as it is written: a line of words, and what is behind it as it is.  The words
# are C{message} and the sessions that it is not for, or what else it is, and when.


def encoded(body: Body, exclude: Iterable[str], micros: int) -> bytes:
    """
    Make what is written of a message.

    @param exclude: the sessions that it is not for.
    @param micros: when it is sent, microseconds since the Unix epoch.
    """
    header = " ".join([_MESSAGE, *exclude]).encode()
    return header + b"\n" + encodeMessage(micros, body, type(body))


def encodedEvent(kind: str, data: bytes, micros: int) -> bytes:
    """
    Make what is written of something that has happened.

    @param kind: C{EVENT} or C{GONE}.
    @param data: what, or which session is over.
    @param micros: when it is told, microseconds since the Unix epoch.
    """
    return f"{kind} {micros}\n".encode() + data


def decoded(entry: Entry) -> Told:
    """Read an entry."""
    position, name, data = entry
    try:
        header, frame = data.split(b"\n", 1)
        kind, *words = header.decode("ascii").split(" ")
        if kind == _MESSAGE:
            messages = readBlob(Blob(0, 1, frame))
            body = bodyOf(messages.data[0])
            return Told(position, name, messages.micros, body, frozenset(words))
        if kind not in (EVENT, GONE):
            raise ValueError(f"an entry is no {kind}")
        happened: Body = frame.decode("ascii") if kind == GONE else frame
        micros = int(words[0])
        return Told(position, name, micros, happened, frozenset(), kind=kind)
    except (LookupError, ValueError):
        return Told(position, name, 0, b"", frozenset(), isSound=False)


async def entriesOf(store: ILogStore) -> tuple[dict[int, Entry], int]:
    """
    Read all of a log.

    @return: by position, and the position of the last.
    @raise SpoolError: it cannot be read now.
    """
    there: dict[int, Entry] = {}
    after, name, last = 0, b"", 1
    while after < last:
        page = await store.readLog(after, name)
        if page is None:
            after, name, last, there = 0, b"", 1, {}
            continue
        last = page.last
        if page.entries is None:
            after, name = page.first - 1, b""
            continue
        if not page.entries:
            break
        there |= {entry.position: entry for entry in page.entries}
        after, name = page.entries[-1].position, page.entries[-1].name
    return there, last


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


def batched(entries: Iterable[Told]) -> list[tuple[LoggedBatch, int]]:
    """
    Make batches of some.

    @return: each with the position up to which all is told once it is; where it ends
        within an entry, that is the one of the batch behind it.
    """
    found: list[tuple[LoggedBatch, int]] = []
    first = 0  # position of the first entry of the batch behind
    for group in reversed(grouped(entries)):
        batch, position = together(group)
        found.append((batch, found[-1][1] if position == first else position))
        first = group[0].position
    found.reverse()
    return found


class Entries:
    """
    Entries without a gap.

    @ivar position: of the last, or of that before the first that is to come.
    @ivar name: of the entry there; empty if it is not known.
    """

    def __init__(self) -> None:
        self.position = 0
        self.name = b""
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
        self.position, self.name = news[-1].position, news[-1].name
        self._size += grown
        return grown

    def trim(self) -> None:
        """Drop the oldest, while there is too much."""
        old = 0
        while self._size > LOG_SIZE and old < len(self._entries) - 1:
            self._size -= self._entries[old].size
            old += 1
        del self._entries[:old]

    def restart(
        self, position: int, entries: Sequence[Told] = (), name: bytes = b""
    ) -> None:
        """
        Begin anew.

        @param position: behind which it goes on.
        @param entries: those that are there.
        @param name: of the entry at the position, if it is known.
        """
        self._entries, self._size, self.position = [], 0, position
        self.name = name
        if entries:
            self.add(entries)

    def same(self, names: dict[int, bytes]) -> list[Told]:
        """
        List those that others have, too, by position and name, up to a change; and
        behind that those that were told once more, by name, with their new positions.
        """
        same: list[Told] = []
        for each in self._entries:
            if names.get(each.position) == each.name:
                same.append(each)
            elif same or each.position in names:
                break
        again = {each.name: each for each in self._entries}
        position = same[-1].position if same else min(names, default=1) - 1
        while (told := again.get(names.get(position + 1, b""))) is not None:
            position += 1
            same.append(told._replace(position=position))
        return same

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
        skip = done - place.number  # of the log: its own are stored no more
        behind, within = place.position, 0
        entries: list[Told] = []  # a message each
        for entry in self._entries[index:]:
            bodies = entry.bodiesFor(name)
            if not bodies:
                continue
            if len(bodies) <= skip:
                skip -= len(bodies)
                behind = entry.position
                continue
            if skip:  # it ends within an entry: the place is before that
                within, bodies, skip = skip, bodies[skip:], 0
            if entry.kind:
                entries += map(entry.saying, bodies)
            else:
                entries.append(entry)
        batches: list[Batch] = []
        following = Following(Place(done, behind, place.began))
        number = done

        def fill(some: list[Told]) -> None:
            """Add entries of the log."""
            nonlocal number
            for batch, position in batched(some):
                batch.first = number
                batches.append(batch)
                following.add(number, len(batch.bodies), position)
                number += len(batch.bodies)

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
        following.extend(within)
        return batches, following
