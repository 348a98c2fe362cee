"""
What has happened at a node and is not in the engine yet, and how it is said::

    gathered = Gathered()
    gathered.of(name).put(state)
    gathered.of(name).append(True, Part(7, 1, frames, cause))
    for call in gathered.calls(fences):
        engine.call(COMMIT, node, number, *call.arguments(grace, inlet, log))

A call is what the engine does in one step, while it does nothing else: so calls are
bounded, L{MAX_SESSIONS} and L{MAX_BYTES}.  But what was caused together is never cut:
that a message was handled, and what its handler sent, wherever to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from twisted.internet.defer import Deferred

__all__ = ["Call", "Changes", "Effect", "Gathered", "Part"]

MAX_SESSIONS, MAX_BYTES = 256, 1 << 20  # of a call

_OVERHEAD = 64  # bytes of a call for what is no message
_DIRECTIONS = ("i", "o")


class Part(NamedTuple):
    """
    Messages that are kept, and discarded, together.

    @ivar number: the number of the first.
    @ivar messages: how many they are.
    @ivar frames: all of them, encoded.
    @ivar cause: the session whose message made us send them, or empty.
    """

    number: int
    messages: int
    frames: bytes
    cause: str = ""


class Effect(NamedTuple):
    """
    What goes to others.

    @ivar operation: C{"send"} or C{"log"}.
    @ivar cause: the session whose message made us do it, or empty.
    @ivar arguments: of the operation.
    @ivar tell: called with both results, unless the cause is another node's by now.
    """

    operation: str
    cause: str
    arguments: tuple[str | bytes, ...]
    tell: Callable[[int, int], object]


class Changes:
    """
    What is to be written of one session.

    @ivar dropped: whether all of it goes.
    @ivar state: what takes the former one's place, or None.
    @ivar before: for each direction, below which number messages are discarded.
    @ivar parts: for each direction, the messages to add.
    @ivar place: whether its client is there, away, or somebody else's to wait for: the
        operation C{"enter"}, C{"wait"} or C{"release"}, or empty.
    @ivar taken: position and name of what was taken out of its inlet.
    """

    __slots__ = ("before", "dropped", "parts", "place", "state", "taken")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.dropped = False
        self.state: bytes | None = None
        self.before = [0, 0]
        self.parts: tuple[deque[Part], deque[Part]] = (deque(), deque())
        self.place = ""
        self.taken: list[tuple[int, bytes]] = []

    def without(self, lost: Iterable[str], shift: int) -> int:
        """
        Leave out outgoing messages, and give the numbers to those behind them.

        @param lost: whose messages caused them.
        @param shift: how many were left out before.
        @return: how many were, in all.
        """
        kept: deque[Part] = deque()
        for part in self.parts[True]:
            if part.cause in lost:
                shift += part.messages
            else:
                kept.append(part._replace(number=part.number - shift))
        self.parts = (self.parts[False], kept)
        return shift

    def operations(self, key: str, keys: Mapping[str, str]) -> Iterator[object]:
        """
        Say it to the engine.

        @param key: what the session is called in the call.
        @param keys: what others are.
        """
        if self.dropped:
            yield from ("drop", key)
            return
        if self.state is not None:
            yield from ("put", key, self.state)
        for direction, before, parts in zip(
            _DIRECTIONS, self.before, self.parts, strict=True
        ):
            if before:
                yield from ("discard", key, direction, before)
            for number, messages, frames, cause in parts:
                yield from ("append", key, direction, keys.get(cause, "0"))
                yield from (number, messages, frames)
        for taken in self.taken:
            yield from ("took", key, *taken)
        if self.place:
            yield from (self.place, key)

    @property
    def size(self) -> int:
        """About how many bytes it takes to say."""
        messages = sum(len(part.frames) for parts in self.parts for part in parts)
        count = sum(map(len, self.parts)) + len(self.taken) + 2
        return len(self.state or b"") + messages + count * _OVERHEAD


class Call:
    """
    A part of what has gathered that is done at once.

    @ivar changes: by the session's name.
    @ivar effects: in their order.
    @ivar fences: of these sessions.
    @ivar size: about how many bytes it is.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.changes: dict[str, Changes] = {}
        self.effects: list[Effect] = []
        self.fences: dict[str, int] = {}
        self.size = 0

    def add(self, other: Call) -> bool:
        """Take in another call, if there is room; else leave it."""
        sessions = len(self.changes) + len(other.changes)
        if self.size + other.size > MAX_BYTES or sessions > MAX_SESSIONS:
            return False
        self.changes |= other.changes
        self.effects += other.effects
        self.size += other.size
        return True

    def arguments(self, grace: int, inlet: int, log: int) -> list[object]:
        """
        Say it to the engine, behind the number of the batch.

        @param grace: milliseconds that clients have to come back.
        @param inlet: bytes that may wait for one session.
        @param log: bytes of what was told all that are kept.
        """
        adds = self.effects or any(any(each.parts) for each in self.changes.values())
        said: list[object] = [int(bool(adds)), grace, inlet, log, len(self.changes)]
        keys = {}
        for index, name in enumerate(self.changes, 1):
            keys[name] = str(index)
            said += (name, self.fences[name])
        for name, changes in self.changes.items():
            said += changes.operations(keys[name], keys)
        for effect in self.effects:
            said += (effect.operation, keys.get(effect.cause, "0"), *effect.arguments)
        return said


class Gathered:
    """
    What has happened and is in no call yet.

    @ivar changes: by the session's name.
    @ivar effects: what goes to others.
    @ivar waiters: to be fired once all of it is in the engine.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.changes: dict[str, Changes] = {}
        self.effects: list[Effect] = []
        self.waiters: list[Deferred[None]] = []

    def of(self, name: str) -> Changes:
        """Find the changes of a session, to be added to."""
        changes = self.changes.get(name)
        if changes is None:
            changes = self.changes[name] = Changes()
        return changes

    def without(self, lost: Iterable[str]) -> dict[str, int]:
        """
        Leave out sessions, and what they caused.

        @return: how many messages others are not to be sent, by their names.
        """
        for name in lost:
            self.changes.pop(name, None)
        self.effects = [each for each in self.effects if each.cause not in lost]
        undone = {name: each.without(lost, 0) for name, each in self.changes.items()}
        return {name: count for name, count in undone.items() if count}

    def calls(self, fences: Mapping[str, int]) -> deque[Call]:
        """
        Cut it into calls.

        @param fences: of the sessions that are ours; all others are left out.
        """
        groups: dict[str, Call] = {}  # what was caused together, by any of its names
        for name in [*self.changes, *self._causes()]:
            if name in fences and name not in groups:
                group = groups[name] = Call()
                changes = group.changes[name] = self.of(name)
                group.size = changes.size
        for name, changes in self.changes.items():
            for part in changes.parts[True]:
                _join(groups, name, part.cause)
        calls: deque[Call] = deque()
        nobodys = Call()
        for effect in self.effects:
            group = groups.get(effect.cause, nobodys)
            group.effects.append(effect)
            group.size += sum(map(len, effect.arguments)) + _OVERHEAD
        for group in dict.fromkeys([*groups.values(), nobodys]):
            if group.size and not (calls and calls[-1].add(group)):
                calls.append(group)
        for call in calls:
            call.fences = {name: fences[name] for name in call.changes}
        return calls

    def _causes(self) -> Iterator[str]:
        """List whose messages caused something."""
        for changes in list(self.changes.values()):
            yield from (part.cause for part in changes.parts[True])
        yield from (effect.cause for effect in self.effects)


def _join(groups: dict[str, Call], name: str, cause: str) -> None:
    """Make two groups one, if there are two."""
    group, other = groups.get(name), groups.get(cause)
    if group is None or other is None or group is other:
        return
    if len(group.changes) < len(other.changes):
        group, other = other, group
    group.changes |= other.changes
    group.size += other.size
    for each in other.changes:
        groups[each] = group
