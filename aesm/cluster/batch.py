"""
What has happened at a node and is not in the engine yet, and how it is said::

    gathered = Gathered()
    gathered.of(name).put(state)
    gathered.of(name).append(True, Part(7, 1, frames, cause))
    for call in gathered.calls(ours):
        engine.call(COMMIT, node, number, *call.arguments(grace, sealer))

A call is what the engine does in one step, while it does nothing else: so calls are
bounded, L{MAX_SESSIONS} and L{MAX_BYTES}.  But what was caused together is never cut:
that a message was handled, and what its handler sent, wherever to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from aesm.cluster.sealing import Clear

__all__ = ["DIRECTIONS", "OVERHEAD", "Call", "Changes", "Effect", "Gathered", "Part"]

MAX_SESSIONS, MAX_BYTES = 256, 1 << 20  # of a call
MAX_INLET = 1 << 20  # bytes that wait to be taken over into one session
MAX_LOG = 16 << 20  # bytes of what was told all

OVERHEAD = 64  # bytes of a call for what is no message
DIRECTIONS = ("i", "o")


class Fenced(Protocol):
    """
    A session that is ours.

    @ivar fence: what makes it so.
    """

    fence: int


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

    @property
    def end(self) -> int:
        """The number behind the last."""
        return self.number + self.messages

    def sealed(self, sealer: Clear, name: str, kind: str) -> tuple[object, ...]:
        """Say it to the engine: C{"i"}, C{"o"} or C{"r"}, numbers and frames."""
        frames = sealer.seal(self.frames, name, kind, self.number, self.messages)
        return kind, self.number, self.messages, frames


class Effect(NamedTuple):
    """
    What goes to others.

    @ivar operation: C{"send"}, C{"log"}, C{"gone"} or C{"read"}.
    @ivar cause: the session whose message made us do it, or empty.
    @ivar where: the key, in text form, where it goes to one; or what was read; or the
        session that is over.
    @ivar data: what goes there, if anything.
    @ivar tell: called with both results, unless the cause is another node's by then.
    """

    operation: str
    cause: str
    where: tuple[str | int, ...]
    data: bytes | None
    tell: Callable[[int, int], object]

    @property
    def place(self) -> tuple[str | int, ...]:
        """Where its data are kept."""
        isLogged = self.operation in ("log", "gone")
        return ("log",) if isLogged else (self.operation, *self.where)

    @property
    def size(self) -> int:
        """About how many bytes it takes to say."""
        return len(self.data or b"") + 2 * OVERHEAD


class Changes:
    """
    What is to be written of one session.

    @ivar dropped: whether all of it goes.
    @ivar state: what takes the former one's place, or None.
    @ivar before: for each direction, below which number messages are discarded.
    @ivar parts: for each direction, the messages to add.
    @ivar requests: the open requests to add, by number.
    @ivar removed: the numbers of those to remove, each with the session whose message
        made us answer it, or empty.
    @ivar place: whether its client is there, away, somebody else's to wait for, or gone
        for good: the operation C{"enter"}, C{"wait"}, C{"release"} or C{"over"}, or
        empty.
    @ivar taken: position and name of what was taken out of its inlet.
    """

    __slots__ = (
        "before",
        "dropped",
        "parts",
        "place",
        "removed",
        "requests",
        "state",
        "taken",
    )

    def __init__(self) -> None:
        """Begin with nothing."""
        self.dropped = False
        self.state: bytes | None = None
        self.before = [0, 0]
        self.parts: tuple[deque[Part], deque[Part]] = (deque(), deque())
        self.requests: dict[int, Part] = {}
        self.removed: dict[int, str] = {}
        self.place = ""
        self.taken: list[tuple[int, bytes]] = []

    @property
    def causes(self) -> Iterator[str]:
        """The sessions whose messages caused any of it."""
        for part in self.parts[True]:
            yield part.cause
        yield from self.removed.values()

    @property
    def adds(self) -> bool:
        """Whether there are messages to be added."""
        return any(self.parts) or bool(self.requests)

    def without(self, lost: Iterable[str], shift: int = 0) -> list[Part]:
        """
        Leave out outgoing messages, and give the numbers to those behind them; and what
        was answered by them is not.

        @param lost: whose messages caused them.
        @param shift: how many were left out before.
        @return: what was left out.
        """
        kept: deque[Part] = deque()
        left = []
        for part in self.parts[True]:
            if part.cause in lost:
                left.append(part)
                shift += part.messages
            else:
                kept.append(part._replace(number=part.number - shift))
        self.parts = (self.parts[False], kept)
        for number in [it for it, cause in self.removed.items() if cause in lost]:
            del self.removed[number]
        return left

    def say(self, said: list[object], key: str, name: str, sealer: Clear) -> None:
        """
        Say it to the engine.

        @param said: what is added to.
        @param key: what the session is called in the call.
        @param name: what it is called.
        @param sealer: seals it.
        """
        if self.dropped:
            said += ("drop", key)
            return
        if self.state is not None:
            said += ("put", key, sealer.seal(self.state, name, "t"))
        for outgoing, direction in enumerate(DIRECTIONS):
            if self.before[outgoing]:
                said += ("discard", key, direction, self.before[outgoing])
            for part in self.parts[outgoing]:
                said += ("append", key, *part.sealed(sealer, name, direction))
        for part in self.requests.values():
            said += ("append", key, *part.sealed(sealer, name, "r"))
        for number in self.removed:
            said += ("remove", key, number)
        for taken in self.taken:
            said += ("took", key, *taken)
        if self.place:
            said += (self.place, key)

    @property
    def size(self) -> int:
        """About how many bytes it takes to say."""
        others = len(self.taken) + len(self.removed)
        size = len(self.state or b"") + OVERHEAD * (2 + others)
        for parts in (*self.parts, self.requests.values()):
            for part in parts:
                size += len(part.frames) + OVERHEAD
        return size


class Call:
    """
    A part of what has gathered that is done at once.

    @ivar changes: by the session's name.
    @ivar fences: of these sessions.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.changes: dict[str, Changes] = {}
        self.fences: dict[str, int] = {}
        self._effects: list[tuple[int, Effect]] = []
        self._size = 0

    def hasRoom(self, size: int, sessions: int) -> bool:
        """Tell whether so much more fits."""
        return (
            self._size + size <= MAX_BYTES
            and len(self.changes) + sessions <= MAX_SESSIONS
        )

    def add(
        self, size: int, changes: dict[str, Changes], effects: list[tuple[int, Effect]]
    ) -> None:
        """Take more in, whether it fits or not."""
        self._size += size
        self.changes |= changes
        self._effects += effects

    @property
    def effects(self) -> list[Effect]:
        """What goes to others, in the order in which it was said."""
        return [effect for _, effect in sorted(self._effects, key=itemgetter(0))]

    def without(self, lost: Iterable[str]) -> dict[str, list[Part]]:
        """
        Leave out sessions, and what they caused.

        @return: what of others was left out, by their names.
        """
        for name in lost:
            del self.changes[name], self.fences[name]
        self._effects = [each for each in self._effects if each[1].cause not in lost]
        return {
            name: left
            for name, changes in self.changes.items()
            if (left := changes.without(lost))
        }

    def arguments(self, grace: int, sealer: Clear) -> list[object]:
        """
        Say it to the engine, behind the number of the batch.

        @param grace: milliseconds that clients have to come back.
        @param sealer: seals what the engine keeps.
        """
        adds = any(each.adds for each in self.changes.values())
        # That a session is over is said also where there is no room: it makes some.
        adds = adds or any(effect.operation != "gone" for _, effect in self._effects)
        said: list[object] = [int(bool(adds)), grace, MAX_INLET, MAX_LOG]
        said.append(len(self.changes))
        for name in self.changes:
            said += (name, self.fences[name])
        for key, (name, changes) in enumerate(self.changes.items(), 1):
            changes.say(said, str(key), name, sealer)
        for effect in self.effects:
            said += (effect.operation, *effect.where)
            if effect.data is not None:
                said.append(sealer.seal(effect.data, *effect.place))
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

    def without(self, lost: Iterable[str], undone: dict[str, list[Part]]) -> None:
        """
        Leave out sessions, and what they caused.

        @param undone: what of others was left out before this; what is now is added.
        """
        for name in lost:
            self.changes.pop(name, None)
        self.effects = [each for each in self.effects if each.cause not in lost]
        for name, changes in self.changes.items():
            before = undone.get(name, [])
            left = changes.without(lost, sum(part.messages for part in before))
            if left:
                undone[name] = before + left

    def calls(self, ours: Mapping[str, Fenced]) -> deque[Call]:
        """
        Cut it into calls.

        @param ours: the sessions that are ours; all others are left out.
        """
        effects: dict[str, list[tuple[int, Effect]]] = {}  # by cause, with their order
        for numbered in enumerate(self.effects):
            cause = numbered[1].cause
            effects.setdefault(cause if cause in ours else "", []).append(numbered)
        groups: dict[str, list[str]] = {}  # what was caused together, by all its names
        for name, each in self.changes.items():
            for cause in each.causes:
                if cause and cause != name:
                    _join(groups, name, cause)
        calls: deque[Call] = deque()
        done: set[str] = set()
        for name in dict.fromkeys([*self.changes, *effects, *groups]):
            if name in done:
                continue
            group = groups.get(name) or [name]
            done.update(group)
            changes = {each: self.of(each) for each in group if each in ours}
            more = [each for name in group for each in effects.get(name, ())]
            size = sum([each.size for each in changes.values()])
            size += sum([effect.size for _, effect in more])
            if not size:
                continue
            if not calls or not calls[-1].hasRoom(size, len(changes)):
                calls.append(Call())
            calls[-1].add(size, changes, more)
        for call in calls:
            call.fences = {name: ours[name].fence for name in call.changes}
        return calls


def _join(groups: dict[str, list[str]], name: str, cause: str) -> None:
    """Make two groups one, if they are two."""
    group = groups.setdefault(name, [name])
    other = groups.setdefault(cause, [cause])
    if group is not other:
        if len(group) < len(other):
            group, other = other, group
        group += other
        for each in other:
            groups[each] = group
