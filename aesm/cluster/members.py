"""
What the engine keeps, as it is read there::

    members = Members(sealer)
    members.blob(member, session, "o")              # messages that are kept together
    members.entry(position, member, "send", key)    # what others sent to a session
    members.told([position, member, position, ...]) # what all were told
    members.heard(position, sizes, members)         # the same, as it is published
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted.logger import Logger

from aesm.cluster.sealing import Clear
from aesm.errors import SpoolError
from aesm.store.interface import Blob, Entry, Work

_log = Logger(namespace="aesm.cluster")


class Members:
    """
    Reads what was sealed for a cluster, or was not sealed.

    @ivar sealer: opens it.
    """

    def __init__(self, sealer: Clear) -> None:
        self.sealer = sealer
        self._open = sealer.open

    def blob(self, member: bytes, name: str, kind: str) -> Blob:
        """
        Read messages that are kept together.

        @param name: the session.
        @param kind: as L{Part.sealed<aesm.cluster.batch.Part.sealed>} has it.
        @raise SpoolError: they were sealed for another place, or by somebody else.
        """
        first, count, frames = member.split(b" ", 2)
        number, messages = int(first), int(count)
        opened = self._open(frames, name, kind, number, messages)
        return Blob(number, messages, opened)

    def work(self, found: Sequence[bytes]) -> list[Work]:
        """Read what there is to read for a node; raises as C{blob}."""
        parts = zip(*(found[part::4] for part in range(4)), strict=True)
        return [self._lent(*each) for each in parts]

    def _lent(self, session: bytes, peer: bytes, member: bytes, read: bytes) -> Work:
        """Read one of these."""
        name = session.decode()
        return Work(name, peer.decode(), self.blob(member, name, "i"), int(read))

    def entry(self, position: bytes | int, member: bytes, *place: str) -> Entry:
        """Read what others left; raises as C{blob}."""
        name, data = member.split(b" ", 1)
        return Entry(int(position), name, self._open(data, *place))

    def told(self, found: Sequence[bytes]) -> list[Entry]:
        """Read what all were told: position, member, position and so on."""
        return list(map(self._toldEntry, found[::2], found[1::2]))

    def heard(
        self, position: int, sizes: Sequence[int], members: bytes
    ) -> Iterator[Entry]:
        """
        Read what all were told by one commit.

        @param position: of the first.
        @param sizes: bytes of each.
        @param members: all of them.
        """
        start = 0
        for index, size in enumerate(sizes):
            yield self._toldEntry(position + index, members[start : start + size])
            start += size

    def _toldEntry(self, position: bytes | int, member: bytes) -> Entry:
        """Read something that all were told; what makes no sense is empty."""
        try:
            return self.entry(position, member, "log")
        except SpoolError as error:
            _log.error("{reason}: nobody is told", reason=str(error))
            return Entry(int(position), member.split(b" ", 1)[0], b"")
