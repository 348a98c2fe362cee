"""
What a client has seen of the chat, and the lines of the server as people read them::

    view = ChatView()
    view.join("alice")                         # ["/nick alice"]
    str(view.receive("say lobby bob: hi", now))     # "12:03 bob: hi"

What others wrote comes out escaped, one line at a time.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal, NamedTuple

from aesm.chat.presence import DEFAULT_ROOM
from aesm.chat.text import fewMarks
from aesm.text import escape

MAX_PRESENT = 5000  # names that a server can make us hold


class Line(NamedTuple):
    """
    One line to show; as text, all of it.  It has printable characters only.

    @ivar clock: the time of day.
    @ivar kind: what somebody says, what one says oneself, what is told in private,
        what the chat has to say, and what went wrong.
    @ivar mark: what stands before the text: who says it, or a sign.
    @ivar text: the text.
    @ivar speaker: who says it; empty if it is the chat.
    """

    clock: str
    kind: Literal["said", "own", "told", "note", "error"]
    mark: str
    text: str
    speaker: str = ""

    @classmethod
    def note(cls, when: float, text: str) -> Line:
        """Make a line of the chat's."""
        return cls(_clock(when), "note", "*", text)

    @classmethod
    def error(cls, when: float, text: str) -> Line:
        """Make a line that says what went wrong."""
        return cls(_clock(when), "error", "!", text)

    def __str__(self) -> str:
        """Write all of it."""
        return f"{self.clock} {self.mark} {self.text}"


class ChatView:
    """
    What a client has seen of the chat: its own name and room, and who else is there.

    @ivar name: its own name, empty until the server says so.
    @ivar room: the room, empty until the server says so.
    """

    def __init__(self) -> None:
        self.name = ""
        self.room = ""
        self._present: dict[str, None] = {}
        self._hasJoined = False
        self._isAsking = False  # for a name, which the server has not answered yet

    @property
    def present(self) -> list[str]:
        """Who is in the room, sorted."""
        return sorted(self._present, key=str.casefold)

    def forget(self) -> None:
        """Know of nobody, as without a session."""
        self._present.clear()

    def join(self, nick: str) -> list[str]:
        """Begin a session: ask for the name, and go to the room, of the last one."""
        self.forget()
        command = "/regain" if self._hasJoined else "/nick"
        self._hasJoined = self._isAsking = True
        lines = [f"{command} {self.name or nick}"]
        if self.room not in ("", DEFAULT_ROOM):
            lines.append(f"/join {self.room}")
        return lines

    def receive(self, line: str, when: float) -> Line | None:
        """
        Take note of a line of the server.

        @return: what to show; None if that is nothing: that one should choose a name,
            where C{join} has asked for one.
        """
        # First of all, so that nothing below has to think of control characters.
        line = fewMarks(escape(line))
        head, _, text = line.partition(": ")
        wasAsking, self._isAsking = self._isAsking, False
        match head.split(" "):
            case ["say", _, name]:
                return self._said(_clock(when), name, text)
            case ["old", _, time, name]:
                return self._said(_clockOf(time), name, text)
            case ["tell", sender, receiver]:
                mark = f"{sender} -> {receiver}:"
                return Line(_clock(when), "told", mark, text, sender)
            case ["join", room, name]:
                self._add(name)
                text = f"{name} has come into {room}"
            case ["leave", room, name]:
                self._present.pop(name, None)
                text = f"{name} has left {room}"
            case ["name", former, name]:
                self._present.pop(former, None)
                self._add(name)
                text = f"{former} is now called {name}"
            case ["you", "are", name, "in", room]:
                self.name, self.room = name, room
                text = f"you are {name} in {room}"
            case ["who", room, count]:
                names = text.split()
                if room == self.room:
                    self._present = dict.fromkeys(names[:MAX_PRESENT])
                text = f"in {room}, {count}: {text}"
            case ["rooms", count]:
                text = f"{count} rooms: {text}"
            case ["whois", name]:
                text = f"{name} has the key {text}"
            case ["note"]:
                if wasAsking:
                    self._isAsking = True
                    return None
            case ["error"]:
                return Line.error(when, text)
            case _:
                return Line(_clock(when), "note", "?", line)
        return Line.note(when, text)

    def _said(self, clock: str, name: str, text: str) -> Line:
        """Make a line of what somebody says."""
        kind: Literal["own", "said"] = "own" if name == self.name else "said"
        return Line(clock, kind, f"{name}:", text, name)

    def _add(self, name: str) -> None:
        """Take note that somebody is here."""
        if len(self._present) < MAX_PRESENT:
            self._present[name] = None


def _clock(when: float) -> str:
    """Write a time of day here, C{HH:MM}."""
    try:
        return time.strftime("%H:%M", time.localtime(when))
    except (OverflowError, OSError, ValueError):
        return "--:--"


def _clockOf(text: str) -> str:
    """Write the time of day of a line of a room's history, C{YYYY-MM-DDTHH:MM:SSZ}."""
    try:
        return _clock(datetime.fromisoformat(text).timestamp())
    except (OverflowError, ValueError):
        return "--:--"
