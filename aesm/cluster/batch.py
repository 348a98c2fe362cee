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

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred

from aesm.cluster.sealing import Clear
from aesm.messages.deferred import ignore
from aesm.store.interface import ACKNOWLEDGED, Early, Entry

if TYPE_CHECKING:
    from aesm.cluster.image import Image

MAX_SESSIONS, MAX_BYTES = 256, 1 << 20  # of a call
MAX_INLET = 1 << 20  # bytes that wait to be taken over into one session
MAX_LOG = 16 << 20  # bytes of what was told all

OVERHEAD = 64  # bytes of a call for what is no message
DIRECTIONS = ("i", "o")


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

    @ivar operation: C{"send"}, C{"log"}, C{"gone"} or C{"read"}; C{"skip"} for one
        that is left out.
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


SKIPPED = Effect("skip", "", (), None, ignore)  # one that is left out


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
    @ivar takenSize: how many bytes that is.
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
        "takenSize",
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
        self.takenSize = 0

    @property
    def causes(self) -> Iterator[str]:
        """The sessions whose messages caused any of it."""
        for part in self.parts[True]:
            yield part.cause
        yield from self.removed.values()

    @property
    def adds(self) -> bool:
        """Whether there are messages to be added."""
        incoming, outgoing = self.parts
        return bool(incoming or outgoing or self.requests)

    @property
    def added(self) -> int:
        """About how many bytes these are."""
        parts = chain(*self.parts, self.requests.values())
        return sum([len(part.frames) + OVERHEAD for part in parts])

    def ahead(self, state: bytes) -> Changes | None:
        """
        Take out what the peer has acknowledged, and whether its client is there, but
        nothing else.

        @param state: of the session, as it is without these changes.
        @return: to be done before the rest, whose state says it once more.  None if
            there is nothing, or the session is to be over.
        """
        before, place = self.before[True], self.place
        isPlace = place in ("enter", "wait")
        if self.dropped or place == "over" or not (before or isPlace):
            return None
        ahead = Changes()
        ahead.before[True], self.before[True] = before, 0
        if isPlace:
            ahead.place, self.place = place, ""
        if before and self.state is not None:
            newest = json.loads(self.state)
            done = {part: newest[part] for part in ACKNOWLEDGED if part in newest}
            mixed = json.loads(state) | done
            ahead.state = json.dumps(mixed, separators=(",", ":")).encode()
        return ahead

    def take(self, entry: Entry) -> None:
        """Something was taken out of its inlet."""
        self.taken.append((entry.position, entry.name))
        self.takenSize += len(entry.data) + OVERHEAD

    def followedBy(self, later: Changes) -> Changes:
        """Add what happened later."""
        self.dropped |= later.dropped
        self.state = self.state if later.state is None else later.state
        self.before = [*map(max, self.before, later.before)]
        for parts, more in zip(self.parts, later.parts, strict=True):
            parts += more
        self.requests |= later.requests
        self.removed |= later.removed
        self.taken += later.taken
        self.takenSize += later.takenSize
        if self.place != "over":
            self.place = later.place or self.place
        return self

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
        return size + self.added if self.adds else size


class Call:
    """
    A part of what has gathered that is done at once.

    @ivar changes: by the session's name.
    @ivar effects: what goes to others, in the order in which it was said.
    @ivar fences: of these sessions.
    @ivar isWhole: whether it has all that happened to its sessions.
    @ivar isDoubtful: whether an engine may have done it, and went back in time.
    @ivar named: how many effects its node had said before it was said first, or -1:
        they are named by their number, and what was said once keeps its name, since an
        engine that went back in time may have done it, and others have it.
    """

    def __init__(
        self,
        changes: dict[str, Changes],
        effects: list[Effect],
        ours: Mapping[str, Image],
    ) -> None:
        """@param ours: those of which it has changes, at least."""
        self.isWhole = True
        self.isDoubtful = False
        self.named = -1
        self.changes = changes
        self.effects = effects
        self.fences = {name: ours[name].fence for name in changes}

    @classmethod
    def naming(cls, named: int, effects: Iterable[Effect]) -> Call:
        """Make one of just what goes to others, by names that it has already."""
        call = cls({}, list(effects), {})
        call.named = named
        return call

    def without(self, lost: Iterable[str]) -> dict[str, list[Part]]:
        """
        Leave out sessions, and what they caused.

        @return: what of others was left out, by their names.
        """
        for name in lost:
            del self.changes[name], self.fences[name]
        self.effects = [
            SKIPPED if each.cause in lost else each for each in self.effects
        ]
        return {
            name: left
            for name, changes in self.changes.items()
            if (left := changes.without(lost))
        }

    def causedBy(self, names: Collection[str]) -> int:
        """Tell how many messages some sessions caused to be sent over others."""
        parts = [
            part.messages
            for name, changes in self.changes.items()
            for part in changes.parts[True]
            if name not in names and part.cause in names
        ]
        sent = [it for it in self.effects if it.data is not None]
        return sum(parts) + sum([effect.cause in names for effect in sent])

    @property
    def adds(self) -> bool:
        """Whether an engine that is full is to refuse it."""
        added = any(each.adds for each in self.changes.values())
        # That a session is over is said also where there is no room: it makes some.
        return added or any(
            effect.operation not in ("gone", "skip") for effect in self.effects
        )

    def arguments(self, grace: int, sealer: Clear, adds: bool) -> list[object]:
        """
        Say it to the engine, behind the number of the batch.

        @param grace: milliseconds that clients have to come back.
        @param sealer: seals what the engine keeps.
        @param adds: whether an engine that is full is to refuse it.
        """
        said: list[object] = [int(adds), grace, MAX_INLET, MAX_LOG]
        said += (self.named, len(self.changes))
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
    @ivar early: called with sessions of which all is there before that.
    """

    def __init__(self) -> None:
        self.changes: dict[str, Changes] = {}
        self.effects: list[Effect] = []
        self.waiters: list[Deferred[None]] = []
        self.early: list[Early] = []

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

    def putBack(self, call: Call) -> None:
        """What a call was to do is to be done before all that happened since."""
        for name, changes in call.changes.items():
            later = self.changes.get(name)
            self.changes[name] = changes.followedBy(later) if later else changes
        self.effects[:0] = [it for it in call.effects if it is not SKIPPED]

    def calls(self, ours: Mapping[str, Image]) -> deque[Call]:
        """
        Cut it into calls; none has anything in common with another.

        @param ours: the sessions that are ours; all others are left out.
        """
        for cause in self._causes():
            if cause in ours:
                self.of(cause)  # for its fence
        size = sum([each.size for each in self.changes.values()])
        size += sum([effect.size for effect in self.effects])
        if size > MAX_BYTES or len(self.changes) > MAX_SESSIONS:
            return _packed(self._groups(ours), ours)
        # As nearly always: one has all, whatever was caused together.
        changes = {name: it for name, it in self.changes.items() if name in ours}
        isEmpty = not (changes or self.effects)
        return deque(() if isEmpty else (Call(changes, self.effects, ours),))

    def _causes(self) -> set[str]:
        """List the sessions whose messages caused any of it."""
        causes = {effect.cause for effect in self.effects}
        for changes in self.changes.values():
            for part in changes.parts[True]:
                causes.add(part.cause)
            if changes.removed:
                causes.update(changes.removed.values())
        return causes

    def ahead(self, ours: Mapping[str, Image], room: int) -> tuple[deque[Call], int]:
        """
        Take out what an engine can do that is full, to make room.

        @param ours: the sessions that are ours.
        @param room: how many bytes may be added in all beyond what is removed with it.
        @return: calls, and how many bytes may still be.
        """
        acknowledged = Gathered()
        for name, changes in self.changes.items():
            if name in ours:
                ahead = changes.ahead(ours[name].state)
                if ahead is not None:
                    acknowledged.changes[name] = ahead
        first, groups = acknowledged.calls(ours), []
        for call in first:
            call.isWhole = False
        for group in self._groups(ours):
            removed, added = group.balance(ours)
            more = max(0, added - removed)
            if added and (more > room or not removed):
                continue
            room -= more
            groups.append(group)
        for group in groups:
            for name in group.changes:
                del self.changes[name]
        gone = {index for group in groups for index, _ in group.effects}
        self.effects = [it for at, it in enumerate(self.effects) if at not in gone]
        return first + _packed(groups, ours), room

    def _groups(self, ours: Mapping[str, Image]) -> Iterator[_Group]:
        """List what was caused together; all that is not of sessions is one."""
        effects: dict[str, list[tuple[int, Effect]]] = {}  # by cause, with their order
        for numbered in enumerate(self.effects):
            cause = numbered[1].cause
            effects.setdefault(cause if cause in ours else "", []).append(numbered)
        groups: dict[str, list[str]] = {}  # what was caused together, by all its names
        for name, each in self.changes.items():
            for cause in each.causes:
                if cause and cause != name:
                    _join(groups, name, cause)
        done: set[str] = set()
        for name in dict.fromkeys([*self.changes, *effects, *groups]):
            if name in done:
                continue
            names = groups.get(name) or [name]
            done.update(names)
            changes = {each: self.of(each) for each in names if each in ours}
            more = [each for name in names for each in effects.get(name, ())]
            if changes or more:
                yield _Group(changes, more)


class _Group(NamedTuple):
    """
    What was caused together, and is never cut.

    @ivar changes: by the session's name.
    @ivar effects: what goes to others, with its order.
    """

    changes: dict[str, Changes]
    effects: list[tuple[int, Effect]]

    @property
    def size(self) -> int:
        """About how many bytes it takes to say."""
        size = sum([each.size for each in self.changes.values()])
        return size + sum([effect.size for _, effect in self.effects])

    def call(self, ours: Mapping[str, Image]) -> Call:
        """Make a call of it."""
        effects = [effect for _, effect in sorted(self.effects, key=itemgetter(0))]
        return Call(self.changes, effects, ours)

    def balance(self, ours: Mapping[str, Image]) -> tuple[int, int]:
        """Tell about how many bytes it removes, and how many it adds."""
        removed = sum([ours[name].freed(it) for name, it in self.changes.items()])
        added = sum([each.added for each in self.changes.values()])
        for _, effect in self.effects:
            if effect.data is None:
                removed += effect.size
            elif effect.operation != "gone":
                added += effect.size
        return removed, added


def _packed(groups: Iterable[_Group], ours: Mapping[str, Image]) -> deque[Call]:
    """Make calls of what was caused together."""
    calls: deque[Call] = deque()
    together = _Group({}, [])
    size = 0
    for group in groups:
        more = group.size
        count = len(together.changes) + len(group.changes)
        if size and (size + more > MAX_BYTES or count > MAX_SESSIONS):
            calls.append(together.call(ours))
            together, size = _Group({}, []), 0
        together.changes.update(group.changes)
        together.effects.extend(group.effects)
        size += more
    if size:
        calls.append(together.call(ours))
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
