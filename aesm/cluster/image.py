"""
What an engine has of the sessions that are ours, kept here as well: an engine that lost
power, or a replica that took its place, may be behind what it said that it had::

    image = Image(peer, state, fence=1)
    image.apply(changes, number)     # the engine has batch "number"
    image.say(said, key, name, sealer)    # all of it, once more

It is what its peer has not acknowledged and nobody has taken, and so next to nothing
for most sessions.  That of a session which was claimed is what was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aesm.cluster.batch import DIRECTIONS, OVERHEAD, Changes, Part
from aesm.cluster.sealing import Clear


class Image:
    """
    What the engine has of a session of ours.

    @ivar peer: its public key, in text form.
    @ivar state: as it was written last.
    @ivar fence: what makes it ours.
    @ivar written: the number of the batch in which it was written last.
    @ivar taken: up to which number it has taken what a node sent to it, by that node.
    """

    __slots__ = (
        "_parts",
        "_place",
        "_requests",
        "_seen",
        "fence",
        "peer",
        "state",
        "taken",
        "written",
    )

    def __init__(
        self,
        peer: str,
        state: bytes,
        fence: int,
        kept: Sequence[Iterable[Part]] = ((), (), ()),
        taken: Mapping[bytes, int] | None = None,
    ) -> None:
        """
        @param kept: incoming messages, outgoing ones, and open requests.
        @param taken: as the attribute.
        """
        self.peer = peer
        self.state = state
        self.fence = fence
        self.written = 0
        self.taken = dict(taken or ())
        self._seen = self.taken.copy()  # the same, with what the engine does not know
        # Lists, since an empty deque takes more room than all else.
        self._parts = [list(parts) for parts in kept[:2]]
        self._requests = {part.number: part for part in kept[2]}
        self._place = "wait"

    def take(self, name: bytes) -> None:
        """Note what is taken out of its inlet, with the next batch."""
        node, _, number = name.rpartition(b":")
        self._seen[node] = int(number)

    def has(self, name: bytes) -> bool:
        """Tell whether something was taken out of its inlet."""
        node, _, number = name.rpartition(b":")
        return int(number) <= self._seen.get(node, 0)

    def read(self, last: int) -> None:
        """Somebody has read what came up to a number, together."""
        kept = self._parts[False]
        kept[:] = [part for part in kept if part.end - 1 != last]

    @property
    def unread(self) -> list[tuple[int, int]]:
        """What came and nobody has read: the first and the last of each."""
        return [(part.number, part.end - 1) for part in self._parts[False]]

    def apply(self, changes: Changes, number: int) -> None:
        """Take over what a batch has changed."""
        self.written = number
        if changes.state is not None:
            self.state = changes.state
        for kept, before, more in zip(
            self._parts, changes.before, changes.parts, strict=True
        ):
            done = 0
            while done < len(kept) and kept[done].end <= before:
                done += 1
            del kept[:done]
            kept += more
        for _, name in changes.taken:
            node, _, last = name.rpartition(b":")
            self.taken[node] = int(last)
        self._requests |= changes.requests
        for gone in changes.removed:
            self._requests.pop(gone, None)
        self._place = changes.place or self._place

    def freed(self, changes: Changes) -> int:
        """Tell about how many bytes of it changes remove."""
        if changes.dropped:
            return self.size + OVERHEAD
        size = changes.takenSize
        for parts, before in zip(self._parts, changes.before, strict=True):
            size += sum([_sizeOf(part) for part in parts if part.end <= before])
        gone = self._requests.keys() & changes.removed.keys()
        return size + sum([_sizeOf(self._requests[number]) for number in gone])

    def say(self, said: list[object], key: str, name: str, sealer: Clear) -> None:
        """
        Say all of it to the engine.

        @param said: what is added to.
        @param key: what the session is called in the call.
        @param name: what it is called.
        @param sealer: seals it.
        """
        said += ("restore", key, self.peer, self.fence)
        said += ("put", key, sealer.seal(self.state, name, "t"))
        kinds = [*zip(DIRECTIONS, self._parts, strict=True)]
        for kind, parts in (*kinds, ("r", self._requests.values())):
            for part in parts:
                said += ("append", key, *part.sealed(sealer, name, kind))
        for node, last in self.taken.items():
            said += ("had", key, node, last)
        said += (self._place, key)

    @property
    def size(self) -> int:
        """About how many bytes it takes to say."""
        size = len(self.state) + OVERHEAD * (4 + len(self.taken))
        for parts in (*self._parts, self._requests.values()):
            size += sum(map(_sizeOf, parts))
        return size


def _sizeOf(part: Part) -> int:
    """Tell about how many bytes some messages take."""
    return len(part.frames) + OVERHEAD
