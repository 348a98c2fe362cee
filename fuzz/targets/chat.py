"""
The chat: its rules, between members who write what they like; and the view and the
terminal of one of them, whose server may be hostile, too.

Input: steps, each a byte and what it needs.

Whatever is written: each line of the server is one line of a documented kind, of
bounded size, that can be written in UTF-8 and has nothing in it that a terminal would
act on; what is said bears the name of who said it; nobody is told anything who is not
there, and one step tells each member no more than it may; all who are in a room see the
same people in it; no two names look the same by case or width; rooms and history are
bounded, and gone when everybody is.  The terminal gets, beside the control sequences
that draw the line, one line of printable characters at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from twisted.internet.testing import StringTransport

from aesm.chat import client, rules
from aesm.chat.client import ChatView
from aesm.chat.rules import (
    DEFAULT_ROOM,
    HISTORY_BYTES,
    HISTORY_LINES,
    MAX_LINE,
    MAX_LISTED,
    Chat,
)
from aesm.chat.screen import ChatTerminal, KeyReader
from aesm.chat.text import MAX_NAME, foldName, oneLine
from fuzz.failures import noFailures
from fuzz.script import Script

__all__ = ["run", "seeds"]

_MOST_STEPS = 300
_MEMBERS = 6
_MAX_ROOMS = 5
_MAX_PRESENT = 40
_MOST_OTHERS = 60  # lines of help and the like, beside those of a room's history
_MAX_ANSWER = MAX_LINE + MAX_LISTED * 4 * (MAX_NAME + 8)  # bytes
_WORDS = ("nick", "regain", "join", "leave", "msg", "who", "rooms", "whois", "help")
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
# What the terminal may get beside text: erase, go to a column, clear, go home.
_CONTROL = re.compile(rb"\x1b\[([JK]|2J|H|\d+C)")


def _isOneLine(text: str) -> bool:
    """Tell whether there is nothing in a text that a terminal would act on."""
    return text.isprintable() or oneLine(text) == text


class _Reader(KeyReader):
    """The way to a terminal, which looks at what is written."""

    def write(self, data: bytes) -> None:
        """Check what is written: a control sequence of ours, or text in a line."""
        if not _CONTROL.fullmatch(data):
            text = data.decode().removeprefix("\r").removesuffix("\n")
            assert _isOneLine(text), f"the terminal gets {data!r}"
        super().write(data)


class _Me:
    """Whose terminal it is: what C{ChatTerminal} asks of a client."""

    def __init__(self, send: Callable[[str], None]) -> None:
        """@param send: called with each line that is typed."""
        self.view = ChatView()
        self.state = "connected"
        self.send = send

    def leave(self) -> None:
        """Stay: the script says who leaves."""


class _World:
    """Members, the chat, and the terminal of member 0."""

    def __init__(self) -> None:
        """Begin with nobody there."""
        self.chat = Chat()
        self.views: dict[int, ChatView] = {}
        self.now = 1.7e9
        self.width = 40
        self.me = _Me(lambda line: self.says(0, line))
        self.terminal = ChatTerminal(lambda: self.width)
        self.terminal.client = self.me  # type: ignore[assignment]
        self.transport: Any = StringTransport()
        self.reader = _Reader(self.terminal)
        self.reader.makeConnection(self.transport)

    # What is checked

    def tell(self, lines: list[tuple[Any, str]], speaker: int | None) -> None:
        """
        Give members their lines.

        @param speaker: who caused them.
        """
        most = 4 * len(self.views) + HISTORY_LINES + _MOST_OTHERS
        assert len(lines) <= most, "too many lines"
        name = "" if speaker is None else self.views[speaker].name
        old = [line.partition(": ")[2] for _, line in lines if line.startswith("old ")]
        assert len(old) <= HISTORY_LINES, "too much history"
        assert sum(len(text.encode()) for text in old) <= HISTORY_BYTES, "the same"
        for member, line in lines:
            assert member in self.views, "somebody is told who is not there"
            assert _isOneLine(line), f"not one line: {line!r}"
            assert _LINE.fullmatch(line), f"no line of the chat's: {line!r}"
            assert len(line.encode()) <= _MAX_ANSWER, "too large an answer"
            if line.startswith("say "):
                assert line.partition(": ")[0].split(" ")[2] == name, (
                    "not by its author"
                )
            self.see(member, line)

    def see(self, member: int, line: str) -> None:
        """Show a line to a member."""
        shown = self.views[member].receive(line, self.now)
        assert _isOneLine(shown), f"what is shown has {shown!r}"
        assert len(self.views[member].present) <= _MAX_PRESENT, (
            "too many are remembered"
        )
        if member == 0:
            self.terminal.show(shown)
            self.terminal.changed()

    def check(self) -> None:
        """Check that all see the same."""
        placed = [view for view in self.views.values() if view.room and view.name]
        names = [foldName(view.name) for view in placed]
        assert len(set(names)) == len(names), "two names look the same"
        rooms = {view.room for view in placed}
        assert len({foldName(room) for room in rooms}) == len(rooms), "two rooms do"
        assert len(rooms | {DEFAULT_ROOM}) <= _MAX_ROOMS, "too many rooms"
        for view in placed:
            there = {other.name for other in placed if other.room == view.room}
            assert set(view.present) == there, (view.name, view.present, there)

    # Steps

    def says(self, member: int, data: str | bytes | None) -> None:
        """A member sends something."""
        if member in self.views:
            self.tell(self.chat.received(member, data, self.now), member)
            for view in self.views.values():  # one whose name was taken by /regain
                if view.name and not self._isNamed(view):
                    view.name = view.room = ""
                    view.forget()

    def _isNamed(self, view: ChatView) -> bool:
        """Tell whether somebody has the name that they believe to have."""
        person = self.chat._named.get(foldName(view.name))
        return person is not None and self.views.get(person.member) is view  # type: ignore[call-overload]

    def joins(self, script: Script) -> None:
        """Somebody comes."""
        member = script.number() % _MEMBERS
        if member not in self.views:
            self.views[member] = self.me.view if member == 0 else ChatView()
            identity = f"key {member % 3} {self.text(script)}"
            self.tell(self.chat.joined(member, identity), None)

    def leaves(self, script: Script) -> None:
        """Somebody is gone."""
        member = script.number() % _MEMBERS
        view = self.views.pop(member, None)
        if view is not None:
            view.name = view.room = ""
            view.forget()
            self.tell(self.chat.left(member), None)

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

    def types(self, script: Script) -> None:
        """Somebody presses keys, or pastes."""
        self.reader.dataReceived(script.take(script.number()))

    def resizes(self, script: Script) -> None:
        """The terminal has another width, or takes no more for a while."""
        self.width = script.number()
        if self.width & 1:
            self.terminal.pauseProducing()
        self.terminal.resumeProducing()

    def lies(self, script: Script) -> None:
        """The server of somebody's terminal says what it likes."""
        view = ChatView()
        head, text = script.number(), self.text(script)
        for line in (text, f"{_HEADS[head % len(_HEADS)]} {text}"):
            shown = view.receive(line, (script.number(2) - 5000) * 1e12)
            assert _isOneLine(shown), f"what is shown has {shown!r}"
            self.terminal.show(shown)
        self.me.state, view.name, view.room = "waiting", view.name or "?", view.room
        before, self.me.view = self.me.view, view
        self.terminal.changed()
        self.me.state, self.me.view = "connected", before

    def crowd(self, script: Script) -> None:
        """A hostile server lists more people than there can be."""
        view = ChatView()
        view.receive("you are a in b", self.now)
        names = " ".join(f"n{number}" for number in range(script.number()))
        view.receive(f"who b 9: {names}", self.now)
        view.receive("join b another", self.now)
        assert len(view.present) <= _MAX_PRESENT, "too many are remembered"

    def end(self) -> None:
        """Everybody leaves: nothing is left of them."""
        for member in list(self.views):
            self.leaves(Script(bytes([member])))
        self.views[1] = ChatView()
        self.tell(self.chat.joined(1, "key 1"), None)
        self.tell(self.chat.received(1, "/nick last", self.now), 1)
        lines = self.chat.received(1, "/rooms", self.now)
        assert lines == [(1, f"rooms 1: {DEFAULT_ROOM}=1")], lines


_STEPS: tuple[Callable[[_World, Script], None], ...] = (
    _World.joins,
    _World.leaves,
    _World.writes,
    _World.writesMuch,
    _World.writesCode,
    _World.commands,
    _World.sendsBytes,
    _World.waits,
    _World.types,
    _World.resizes,
    _World.lies,
    _World.crowd,
)


def run(data: bytes) -> None:
    """
    Let members write what the input says.

    @param data: the input.
    """
    script, steps = Script(data), 0
    with (
        noFailures(),
        mock.patch.object(rules, "MAX_ROOMS", _MAX_ROOMS),
        mock.patch.object(client, "MAX_PRESENT", _MAX_PRESENT),
    ):
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
        yield named + do(_World.types, len(lie)) + lie + do(_World.types, 1) + b"\r"
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
    yield do(_World.crowd, 200) + do(_World.resizes, 3) + named + do(_World.resizes, 12)
    keys = b"abc\x01\x02\x05\x06\x0bd\x10\x0e\x17\x7f\x08\x15\x0c"
    keys += b"\x1b[A\x1b[B\x1b[C\x1b[D\x1b[3~\x1bOA"
    yield named + do(_World.types, len(keys)) + keys + do(_World.types, 1) + b"\r"
    paste = b"\x1b[200~a\rb\x1b]0;x\x07\x1b[201~\r\x04\x03"
    yield named + do(_World.types, len(paste)) + paste + do(_World.waits, 9)
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
