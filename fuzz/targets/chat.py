"""
The chat: its rules, between members who write what they like; and the views of their
clients, whose server may be hostile, too.

Input: steps, each a byte and what it needs.

Whatever is written: each line of the server is one line of a documented kind, of
bounded size, that can be written in UTF-8 and has nothing in it that a terminal would
act on; what is said bears the name of who said it, and does not reach those who ignore
its author's key; nobody is told anything who is not there, or whose key is banned; one
step tells each member no more than it may, and others little more than was written; all
who are in a room see the same people in it, however people are cut off and come back;
no two names look the same; names, rooms, history, bans and whom one ignores are
bounded, and gone when everybody is, but for bans.  Whoever goes on from a snapshot has
the same chat.  A client shows one line of printable
characters at a time, in rows that are no wider than the terminal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import combinations
from unittest import mock

from aesm.chat import presence, rules
from aesm.chat import view as seen
from aesm.chat.looks import NARROWEST, wrap
from aesm.chat.names import MAX_NAME, looksOf
from aesm.chat.presence import (
    DEFAULT_ROOM,
    HISTORY_BYTES,
    HISTORY_LINES,
    MAX_LISTED,
)
from aesm.chat.replica import ChatReplica
from aesm.chat.rules import MAX_LINE, Chat
from aesm.chat.text import oneLine
from aesm.chat.view import ChatView, Line
from aesm.store.interface import Rows
from aesm.text import cellsOf
from fuzz.failures import noFailures
from fuzz.script import Script

__all__ = ["run", "seeds"]

_MOST_STEPS = 300
_KEYS = ("key 0", "key 1", "key 2", "key 0", "key 1", "key 0")  # of each member
_MEMBERS = len(_KEYS)
_OPERATOR = "key 1"
_FEWER = {  # bounds that a handful of members can reach
    presence: {"MAX_ROOMS": 5, "KEY_NAMES": 2, "KEY_ROOMS": 2},
    rules: {"MAX_IGNORED": 1, "MAX_BANNED": 1},
    seen: {"MAX_PRESENT": 40},
}
_MOST_OTHERS = 20  # lines of help and the like, beside those of a room's history
_MOST_WORDS = 3 * (2 * 4 * MAX_NAME + 20)  # bytes of three lines with two names each
_MAX_ANSWER = MAX_LINE + MAX_LISTED * 4 * (MAX_NAME + 8)  # bytes
_WORDS = (
    "nick",
    "regain",
    "join",
    "leave",
    "msg",
    "who",
    "rooms",
    "whois",
    "help",
    "ignore",
    "unignore",
    "kick",
    "ban",
)
_NAMES = (
    "alice",
    "ALICE",
    "\uff41lice",
    "bob",
    "b.o-b_",
    "lobby",
    "\xdf",
    "ss",
    "\u0130",
    "i\u0307",
    "x" * MAX_NAME,
    "x" * (MAX_NAME + 1),
    "a b",
    "a:",
    "\u202ealice",
    "\u3164",
    "a1ice",
    "coco",
    "\u0441\u043e\u0441\u043e",
)
_HEADS = (
    "say",
    "old",
    "tell",
    "join",
    "leave",
    "name",
    "you are",
    "who",
    "rooms",
    "note",
)
_LINE = re.compile(
    r"say \S+ \S+: .*|old \S+ \S+Z \S+: .*|tell \S+ \S+: .*|join \S+ \S+|leave \S+ \S+"
    r"|name \S+ \S+|you are \S+ in \S+|who \S+ \d+: .*|rooms \d+: .*|whois \S+: .*"
    r"|note: .*|error: .*"
)


def _isOneLine(text: str) -> bool:
    """Tell whether there is nothing in a text that a terminal would act on."""
    return text.isprintable() or oneLine(text) == text


def _checkShown(line: Line | None, width: int) -> None:
    """Check what a client shows, and in how much room."""
    if line is None:
        return
    assert _isOneLine(str(line)), f"what is shown has {str(line)!r}"
    head = f"{line.clock} {line.mark} "
    rows = wrap(head, line.text, width)
    for row in rows[cellsOf(head) > max(width, NARROWEST) :]:
        assert cellsOf(row) <= max(width, NARROWEST), f"{row!r} is too wide"


class _World:
    """Members, the chat, and what they see of it."""

    def __init__(self) -> None:
        """Begin with nobody there."""
        self.replica = ChatReplica()
        self.views: dict[int, ChatView] = {}
        self.closed: set[int] = set()  # of those, whose connections are being closed
        self.away: set[int] = set()  # of those, who are cut off
        self.now = 1.7e9
        self.width = 40

    @property
    def chat(self) -> Chat:
        """What they are in."""
        return self.replica.chat

    # What is checked

    def tell(self, rows: Rows, speaker: int | None, size: int = 0) -> None:
        """
        Give members their lines.

        @param speaker: who caused them.
        @param size: bytes that they wrote, made safe.
        """
        name = "" if speaker is None else self.views[speaker].name
        told: dict[int, list[str]] = {}
        lines = [(int(name), line) for line, names in rows for name in names]
        for member, line in lines:
            assert member in self.views, "somebody is told who is not there"
            assert member not in self.closed, "somebody is told who is banned"
            if line is None:
                assert _KEYS[member] != _OPERATOR, "an operator is banned"
                self.closed.add(member)
                self._unname(member)
                continue
            assert _isOneLine(line), f"not one line: {line!r}"
            assert _LINE.fullmatch(line), f"no line of the chat's: {line!r}"
            assert len(line.encode()) <= _MAX_ANSWER, "too large an answer"
            words = line.partition(": ")[0].split(" ")
            if words[0] == "say":
                assert words[2] == name, "not by its author"
            if speaker is not None and words[0] in ("say", "tell"):
                person = self.chat._people[str(member)]
                assert _KEYS[speaker] not in person.ignored, "it is ignored"
            told.setdefault(member, []).append(line)
            self.see(member, line)
        for member, each in told.items():
            self._checkMost(member, each, speaker, size)

    def _checkMost(
        self, member: int, lines: list[str], speaker: int | None, size: int
    ) -> None:
        """Check that a member is told no more than it may."""
        old = [line.partition(": ")[2] for line in lines if line.startswith("old ")]
        assert len(old) <= HISTORY_LINES, "too much history"
        assert sum(len(text.encode()) for text in old) <= HISTORY_BYTES, "the same"
        assert len(lines) - len(old) <= _MOST_OTHERS, "too many lines"
        key = None if speaker is None else _KEYS[speaker]
        if speaker is not None and key not in (_OPERATOR, _KEYS[member]):
            assert len(lines) <= 3, "too many lines for others"
            written = sum(len(line.encode()) for line in lines)
            assert written <= size + _MOST_WORDS, "too much for others"

    def see(self, member: int, line: str) -> None:
        """Show a line to a member."""
        _checkShown(self.views[member].receive(line, self.now), self.width)
        assert len(self.views[member].present) <= seen.MAX_PRESENT, (
            "too many are remembered"
        )

    def check(self) -> None:
        """Check that all see the same, and the bounds."""
        placed = {
            member: view
            for member, view in self.views.items()
            if view.room and view.name
        }
        rooms = {view.room for view in placed.values()}
        for names in ([view.name for view in placed.values()], rooms):
            for one, other in combinations(names, 2):
                assert not looksOf(one) & looksOf(other), (one, other)
        assert len(rooms | {DEFAULT_ROOM}) <= presence.MAX_ROOMS, "too many rooms"
        made = Counter(room.maker for room in self.chat._rooms.values() if room.maker)
        ofKey = Counter(_KEYS[member] for member in placed)
        assert max(made.values(), default=0) <= presence.KEY_ROOMS, "rooms of one key"
        assert max(ofKey.values(), default=0) <= presence.KEY_NAMES, "names of one key"
        assert len(self.chat._banned) <= rules.MAX_BANNED, "too many are banned"
        for person in self.chat._people.values():
            assert len(person.ignored) <= rules.MAX_IGNORED, "too many are ignored"
        for view in placed.values():
            there = {other.name for other in placed.values() if other.room == view.room}
            assert set(view.present) == there, (view.name, view.present, there)

    # Steps

    def says(self, member: int, data: str | bytes | None) -> None:
        """A member sends something."""
        if member not in self.views:
            return
        # What cannot stand in a line is replaced, by up to three bytes for each.
        size = len(oneLine(data).encode()) if isinstance(data, str) else 0
        self.tell(self.chat.received(str(member), data, self.now), member, size)
        # The names of some may have been taken, by /regain or by an operator.
        for other, view in self.views.items():
            person = self.chat._named.get(view.name)
            if view.name and (person is None or person.member != str(other)):
                self._unname(other)

    def _unname(self, member: int) -> None:
        """A member knows that it has no name, and no room."""
        view = self.views[member]
        view.name = view.room = ""
        view.forget()

    def joins(self, script: Script) -> None:
        """Somebody comes."""
        member = script.number() % _MEMBERS
        if member not in self.views:
            self.views[member] = ChatView()
            self.come(member, self.text(script))

    def come(self, member: int, keyName: str = "") -> None:
        """Somebody has come."""
        key = _KEYS[member]
        self.tell(self.chat.joined(str(member), key, keyName), None)
        self.chat.mark(key, key == _OPERATOR)

    def leaves(self, script: Script) -> None:
        """Somebody is gone."""
        member = script.number() % _MEMBERS
        if member in self.views:
            self._unname(member)
            del self.views[member]
            self.closed.discard(member)
            self.away.discard(member)
            self.tell(self.chat.left(str(member)), None)

    def cut(self, script: Script) -> None:
        """Somebody is cut off, or is back; what they sent before may come yet."""
        member = script.number() % _MEMBERS
        if member not in self.views or member in self.closed:
            return
        if member in self.away:
            self.away.remove(member)
            self.tell(self.chat.back(str(member)), None)
        else:
            self.away.add(member)
            self._unname(member)
            self.tell(self.chat.away(str(member)), None)

    def text(self, script: Script) -> str:
        """Take any text."""
        return script.take(script.number()).decode("utf-8", "replace")

    def writes(self, script: Script) -> None:
        """A member writes a text."""
        self.says(script.number() % _MEMBERS, self.text(script))

    def writesMuch(self, script: Script) -> None:
        """A member writes one character over and over."""
        member, character = script.number() % _MEMBERS, chr(script.number(2) % 0xD800)
        self.says(member, character * (script.number() * 20))

    def writesCode(self, script: Script) -> None:
        """A member writes one character, of all that there are."""
        member, code = script.number() % _MEMBERS, script.number(3) % 0x110000
        if not 0xD800 <= code < 0xE000:
            self.says(member, f"a{chr(code)}b")
            self.says(member, f"/nick a{chr(code)}b")

    def commands(self, script: Script) -> None:
        """A member writes a command."""
        member, word = script.number() % _MEMBERS, script.number() % len(_WORDS)
        which = script.number()
        name = _NAMES[which % len(_NAMES)] if which < 128 else self.text(script)
        self.says(member, f"/{_WORDS[word]} {name} {name * (word == 4)}")

    def sendsBytes(self, script: Script) -> None:
        """A member sends what is no text."""
        self.says(script.number() % _MEMBERS, script.take(3) or None)

    def waits(self, script: Script) -> None:
        """Time passes."""
        self.now += script.number() * 1000.0

    def resizes(self, script: Script) -> None:
        """The terminals have another width."""
        self.width = script.number()

    def lies(self, script: Script) -> None:
        """Somebody's server says what it likes."""
        view = ChatView()
        head, text = script.number(), self.text(script)
        for line in (text, f"{_HEADS[head % len(_HEADS)]} {text}"):
            when = (script.number(2) - 5000) * 1e12
            _checkShown(view.receive(line, when), self.width)

    def crowd(self, script: Script) -> None:
        """A hostile server lists more people than there can be."""
        view = ChatView()
        view.receive("you are a in b", self.now)
        names = " ".join(f"n{number}" for number in range(script.number()))
        view.receive(f"who b 9: {names}", self.now)
        view.receive("join b another", self.now)
        assert len(view.present) <= seen.MAX_PRESENT, "too many are remembered"

    def end(self) -> None:
        """Everybody leaves: nothing is left of them."""
        for member in list(self.views):
            self.leaves(Script(bytes([member])))
        self.views[1] = ChatView()
        self.come(1)
        self.tell(self.chat.received("1", "/nick last", self.now), 1)
        rows = self.chat.received("1", "/rooms", self.now)
        assert rows == [(f"rooms 1: {DEFAULT_ROOM}=1", ("1",))], rows

    def movesOn(self, script: Script) -> None:
        """Another process goes on with the chat."""
        before = self.replica
        self.replica = ChatReplica()
        self.replica.restore(before.snapshot())
        assert self.replica.snapshot() == before.snapshot(), "it is another chat"


_STEPS: tuple[Callable[[_World, Script], None], ...] = (
    _World.joins,
    _World.leaves,
    _World.writes,
    _World.writesMuch,
    _World.writesCode,
    _World.commands,
    _World.sendsBytes,
    _World.waits,
    _World.resizes,
    _World.lies,
    _World.crowd,
    _World.cut,
    _World.movesOn,
)


def run(data: bytes) -> None:
    """
    Let members write what the input says.

    @param data: the input.
    """
    script, steps = Script(data), 0
    with ExitStack() as stack:
        stack.enter_context(noFailures())
        for module, bounds in _FEWER.items():
            stack.enter_context(mock.patch.multiple(module, **bounds))
        world = _World()
        while script.more and steps < _MOST_STEPS:
            _STEPS[script.number() % len(_STEPS)](world, script)
            world.check()
            steps += 1
        world.end()


def seeds() -> Iterator[bytes]:
    """Make chats: polite ones, loud ones, and some who try to look like others."""

    def do(step: Callable[[_World, Script], None], *arguments: int) -> bytes:
        """Make one step."""
        return bytes([_STEPS.index(step), *arguments])

    def say(member: int, text: str) -> bytes:
        """Let a member write."""
        written = text.encode()
        return do(_World.writes, member, len(written)) + written

    come = b"".join(do(_World.joins, member, 0) for member in range(_MEMBERS))
    named = come + b"".join(
        do(_World.commands, member, 0, member) for member in range(5)
    )
    yield named + say(0, "hello") + say(3, "//x") + say(4, "/nosuch") + say(5, "hello")
    for word in range(len(_WORDS)):
        yield named + b"".join(
            do(_World.commands, member, word, name)
            for member in (0, 3)
            for name in range(len(_NAMES))
        )
    for forged in (
        "a\nsay lobby bob: b",
        "\x1b[2J\x07",
        "a\u202eb",
        "a\u2028b",
        "\u200d",
    ):
        yield (
            named
            + say(0, forged)
            + say(3, f"/nick {forged}")
            + say(3, f"/msg bob {forged}")
        )
        lie = forged.encode()
        for head in range(len(_HEADS)):
            yield named + do(_World.lies, head, len(lie)) + lie
    much = do(_World.writesMuch, 0, 0, 65, 190) * 6 + do(
        _World.writesMuch, 0, 0, 0xE9, 240
    )
    yield (
        named
        + much
        + do(_World.writesMuch, 3, 0x4E, 0, 40) * 60
        + do(_World.commands, 4, 2, 3)
    )
    yield (
        named
        + say(0, "x") * 60
        + do(_World.leaves, 3)
        + do(_World.joins, 3, 0)
        + do(_World.commands, 3, 0, 7)
    )
    yield (
        named + b"".join(do(_World.commands, m, 2, 6 + m) for m in range(_MEMBERS)) * 2
    )
    yield (
        come
        + do(_World.commands, 0, 0, 0)
        + do(_World.commands, 3, 1, 0)
        + say(0, "gone")
    )
    yield named + do(_World.sendsBytes, 0) + b"abc" + do(_World.sendsBytes, 3)
    given = b"".join(
        do(_World.joins, member, len(name)) + name
        for member, name in ((0, b"alice"), (3, b"alice"), (2, b"b o b"), (5, b"alice"))
    )
    yield given + say(5, "/regain alice") + say(3, "/nick alice") + say(0, "/regain b")
    looks = [_NAMES.index(name) for name in ("alice", "a1ice", "coco", _NAMES[-1])]
    for word in (0, 2):
        yield named + b"".join(
            do(_World.commands, member, word, name)
            for member, name in zip((2, 4, 2, 4), looks, strict=True)
        )
    for command in ("/ignore", "/unignore bob", "/ignore b.o-b_", "/ignore nobody"):
        yield (
            named
            + say(3, "hello")
            + say(4, "/ignore bob")
            + say(4, command)
            + say(3, "hello")
            + say(3, "/msg b.o-b_ hello")
            + do(_World.cut, 4) * 2
        )
    for command in ("/kick bob: go", "/ban bob enough", "/ban b.o-b_", "/kick nobody"):
        yield (
            named
            + say(0, command)
            + say(4, command)
            + say(3, "still here")
            + say(3, "/nick bob")
            + do(_World.leaves, 3)
            + do(_World.joins, 3, 0)
            + say(4, "/ban ALICE")
            + do(_World.cut, 3) * 2
        )
    for between in (b"", say(3, "/nick other"), say(2, "/nick bob")):
        yield (
            named
            + do(_World.commands, 3, 2, 6)
            + say(3, "x")
            + do(_World.cut, 3)
            + between
            + say(0, "y")
            + do(_World.cut, 3)
            + say(3, "z")
        )
    yield (
        named
        + say(4, "/ignore bob")
        + do(_World.movesOn)
        + say(3, "hello")
        + do(_World.cut, 3)
        + say(4, "/kick alice")
        + do(_World.movesOn)
        + do(_World.cut, 3)
        + say(3, "x")
    )
    yield do(_World.crowd, 200) + do(_World.resizes, 3) + named + do(_World.resizes, 12)
    for code in (
        0x00,
        0x1B,
        0x9B,
        0xAD,
        0x202E,
        0x2028,
        0xFEFF,
        0xE0001,
        0x1F600,
        0x3164,
    ):
        yield named + do(_World.writesCode, 0, *code.to_bytes(3, "big"))
