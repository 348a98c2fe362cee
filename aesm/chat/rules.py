"""
The rules of the chat, without I/O: who is called what, who is in which room,
and who is told::

    chat = Chat()
    chat.joined("one", "key 1")                   # [("one", "note: ...")]
    chat.received("one", "/nick alice", 0.0)      # [("one", "you are ..."), ...]
    chat.received("one", "hello", 1.0)            # [("one", "say lobby alice: hello")]
    chat.left("one")                              # what the others are told

Members are whatever the caller likes, as long as it can be hashed; for
L{ChatHandler<aesm.chat.handler.ChatHandler>} they are connections.  The format of
the lines is in C{docs/chat.md}: what others wrote is a name, or stands behind the
first C{": "} of a line, and can hold nothing that would end it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aesm.chat.text import MAX_NAME, foldName, oneLine, sizeOf, tidyName

__all__ = [
    "DEFAULT_ROOM",
    "HISTORY_BYTES",
    "HISTORY_LINES",
    "MAX_LINE",
    "MAX_LISTED",
    "MAX_ROOMS",
    "Chat",
    "Lines",
]

DEFAULT_ROOM = "lobby"
MAX_LINE = 4096  # bytes of a line from a member
MAX_ROOMS = 256
MAX_LISTED = 200  # names, or rooms, in one answer
HISTORY_LINES = 50  # of one room
HISTORY_BYTES = 16384  # of one room

NAME_FIRST = "error: choose a name first: /nick NAME"

Lines = list[tuple[Any, str]]  # whom to send what


@dataclass(eq=False)
class _Room:
    """
    A room and who is in it.

    @ivar name: as it is shown.
    @ivar present: who is in it, by folded name, in the order of arrival.
    @ivar history: the recent lines, the oldest first.
    @ivar historySize: their length in bytes of UTF-8.
    """

    name: str
    present: dict[str, _Person] = field(default_factory=dict)
    history: deque[str] = field(default_factory=deque)
    historySize: int = 0

    def remember(self, line: str) -> None:
        """Keep a line for those who come later, and drop old ones over the bounds."""
        self.history.append(line)
        self.historySize += sizeOf(line)
        while len(self.history) > HISTORY_LINES or self.historySize > HISTORY_BYTES:
            self.historySize -= sizeOf(self.history.popleft())


@dataclass(eq=False)
class _Person:
    """
    Somebody who is connected.

    @ivar member: what the caller calls them.
    @ivar identity: what proves who they are, in words.
    @ivar name: their name, empty until they have one.
    @ivar room: where they are, None until they have a name.
    """

    member: Hashable
    identity: str
    name: str = ""
    room: _Room | None = None


# Three registries have to agree, and each is changed in one place:
#
#   _people   by member: everybody who is connected, with a name or without
#   _named    by folded name: those who have a name (_name, _unname)
#   _rooms    by folded name: the rooms; each has those present by folded name (_enter,
#             _depart)
#
# Somebody has a name if and only if they are in a room: the first name leads into the
# default room, and whoever moves departs and enters in one step.  Names are compared
# folded everywhere, so that nobody can take one that only looks different.
#
# What a member can make us hold is bounded: one name, one room, and in that room a
# history with a limit on its bytes; rooms in all.  A room without people is dropped,
# with its history, but for the default room.
#
# Nothing is sent from within: a method collects lines in _output and hands them over at
# its end, in order, so that no member who is told something can change what another
# is told in the middle of a step.


class Chat:
    """
    Who is called what, who is in which room, and who is told.

    Each method returns what to send: pairs of a member and a line, in order.
    """

    def __init__(self) -> None:
        """Start with the default room, and nobody in it."""
        self._people: dict[Hashable, _Person] = {}
        self._named: dict[str, _Person] = {}  # by folded name
        self._rooms: dict[str, _Room] = {}  # by folded name
        self._output: Lines = []
        self._openRoom(DEFAULT_ROOM)

    # What the handler calls

    def joined(self, member: Hashable, identity: str) -> Lines:
        """
        Somebody has connected.

        @param identity: what proves who they are: the same text for the same key.
        """
        person = self._people[member] = _Person(member, oneLine(identity).strip())
        self._tell(person, "note: choose a name: /nick NAME; /help lists the commands")
        return self._take()

    def left(self, member: Hashable) -> Lines:
        """Somebody is gone."""
        self._unname(self._people.pop(member))
        return self._take()

    def received(self, member: Hashable, data: str | bytes | None, now: float) -> Lines:
        """
        Somebody has sent a message.

        @param now: the time in Unix seconds.
        """
        person = self._people[member]
        if not isinstance(data, str):
            self._tell(person, "error: only text can be sent here")
        # The first of the two is cheap, and spares tidying up what is too long.
        elif len(data) > MAX_LINE or sizeOf(text := oneLine(data).strip()) > MAX_LINE:
            self._tell(person, f"error: a line has at most {MAX_LINE} bytes")
        elif text.startswith("/") and not text.startswith("//"):
            self._command(person, text[1:])
        elif text:
            self._say(person, text.removeprefix("/"), now)
        return self._take()

    # Commands

    def _command(self, person: _Person, text: str) -> None:
        """
        Carry out a command.

        @param text: the command without its slash.
        """
        word, _, rest = text.partition(" ")
        if word not in _COMMANDS:
            self._tell(person, f"error: there is no command /{word}: /help lists them")
        elif person.room is None and word not in ("nick", "regain", "help"):
            self._tell(person, NAME_FIRST)
        else:
            _COMMANDS[word].action(self, person, rest.strip())

    def _nick(self, person: _Person, argument: str) -> None:
        """Take a name that nobody has."""
        name = tidyName(argument)
        if name is None:
            self._refuseName(person)
        elif self._named.get(foldName(name), person) is not person:
            self._tell(person, f"error: the name {name} is taken")
        elif name != person.name:
            self._name(person, name)

    def _regain(self, person: _Person, argument: str) -> None:
        """Take a name from another connection that has the same key."""
        # After a network has failed, the server may take the old one for alive yet.
        former = self._named.get(foldName(argument))
        if former not in (None, person) and former.identity == person.identity:
            self._unname(former)
            self._tell(
                former, "error: another connection with your key has taken your name"
            )
        self._nick(person, argument)

    def _join(self, person: _Person, argument: str) -> None:
        """Go to another room, which is made if it is not there."""
        name = tidyName(argument)
        if name is None:
            self._refuseName(person)
            return
        room = self._rooms.get(foldName(name))
        if room is None and len(self._rooms) >= MAX_ROOMS:
            self._tell(person, f"error: there are {MAX_ROOMS} rooms, and no more")
        elif room is None or room is not person.room:
            self._depart(person)
            self._enter(person, name)
        else:
            self._tell(person, f"error: you are in {room.name} already")

    def _leave(self, person: _Person, argument: str) -> None:
        """Go back to the default room."""
        self._join(person, DEFAULT_ROOM)

    def _msg(self, person: _Person, argument: str) -> None:
        """Tell somebody something in private."""
        to, _, text = argument.partition(" ")
        other = self._find(person, to)
        if other is None:
            return
        if not text.strip():
            self._tell(person, "error: write it thus: /msg NAME TEXT")
            return
        line = f"tell {person.name} {other.name}: {text.strip()}"
        self._tell(other, line)
        if other is not person:
            self._tell(person, line)

    def _who(self, person: _Person, argument: str) -> None:
        """List who is in a room."""
        room = self._rooms.get(foldName(argument)) if argument else person.room
        if room is None:
            self._tell(person, f"error: there is no room {argument}: /rooms lists them")
        else:
            self._list(person, room)

    def _listRooms(self, person: _Person, argument: str) -> None:
        """List the rooms."""
        rooms = list(self._rooms.values())[:MAX_LISTED]
        names = " ".join(f"{room.name}={len(room.present)}" for room in rooms)
        self._tell(person, f"rooms {len(self._rooms)}: {names}")

    def _whois(self, person: _Person, argument: str) -> None:
        """Show what proves who somebody is."""
        other = self._find(person, argument)
        if other is not None:
            self._tell(person, f"whois {other.name}: {other.identity}")

    def _help(self, person: _Person, argument: str) -> None:
        """List the commands."""
        for word, command in _COMMANDS.items():
            self._tell(person, f"note: /{word} {command.usage}")
        self._tell(person, "note: anything else is said in your room; //x says /x")

    # Parts

    def _say(self, person: _Person, text: str, now: float) -> None:
        """
        Say something in a room.

        @param now: the time in Unix seconds.
        """
        room = person.room
        if room is None:
            self._tell(person, NAME_FIRST)
            return
        time = datetime.fromtimestamp(now, UTC)
        room.remember(
            f"old {room.name} {time:%Y-%m-%dT%H:%M:%SZ} {person.name}: {text}"
        )
        self._tellRoom(room, f"say {room.name} {person.name}: {text}")

    def _name(self, person: _Person, name: str) -> None:
        """
        Give somebody a name that nobody else has, and a place in the default room if
        it is their first.
        """
        former, room = person.name, person.room
        person.name = name
        if room is None:
            self._named[foldName(name)] = person
            self._enter(person, DEFAULT_ROOM)
            return
        del self._named[foldName(former)], room.present[foldName(former)]
        self._named[foldName(name)] = room.present[foldName(name)] = person
        self._tellRoom(room, f"name {former} {name}")
        self._tell(person, f"you are {name} in {room.name}")

    def _unname(self, person: _Person) -> None:
        """Take away somebody's name and place."""
        self._depart(person)
        if person.name:
            del self._named[foldName(person.name)]
            person.name = ""

    def _enter(self, person: _Person, name: str) -> None:
        """
        Bring somebody into a room: they are told who is there and what was said.

        @param person: somebody with a name and no room.
        """
        room = self._rooms.get(foldName(name)) or self._openRoom(name)
        self._tellRoom(room, f"join {room.name} {person.name}")
        room.present[foldName(person.name)] = person
        person.room = room
        self._tell(person, f"you are {person.name} in {room.name}")
        for line in room.history:
            self._tell(person, line)
        self._list(person, room)

    def _depart(self, person: _Person) -> None:
        """Take somebody out of their room, which ends when it is empty."""
        room = person.room
        if room is None:
            return
        person.room = None
        del room.present[foldName(person.name)]
        self._tellRoom(room, f"leave {room.name} {person.name}")
        if not room.present and room.name != DEFAULT_ROOM:
            del self._rooms[foldName(room.name)]

    def _openRoom(self, name: str) -> _Room:
        """Make a room."""
        room = self._rooms[foldName(name)] = _Room(name)
        return room

    def _find(self, person: _Person, name: str) -> _Person | None:
        """
        Look somebody up.

        @param person: who asks, and is told if there is nobody.
        """
        other = self._named.get(foldName(name))
        if other is None:
            self._tell(person, f"error: nobody here is called {name!r}")
        return other

    def _list(self, person: _Person, room: _Room) -> None:
        """Tell somebody who is in a room."""
        names = [other.name for other in room.present.values()][:MAX_LISTED]
        self._tell(person, f"who {room.name} {len(room.present)}: {' '.join(names)}")

    def _refuseName(self, person: _Person) -> None:
        """Say what a name is."""
        self._tell(
            person,
            f"error: a name has 1 to {MAX_NAME} letters, digits, '_', '-' and '.'",
        )

    def _tell(self, person: _Person, line: str) -> None:
        """Send somebody a line."""
        self._output.append((person.member, line))

    def _tellRoom(self, room: _Room, line: str) -> None:
        """Send all in a room a line."""
        for person in room.present.values():
            self._tell(person, line)

    def _take(self) -> Lines:
        """Take what is to be sent."""
        output, self._output = self._output, []
        return output


class _Command(NamedTuple):
    """
    What members can write after a slash.

    @ivar action: carries it out.
    @ivar usage: its arguments and what it does, for /help.
    """

    action: Callable[[Chat, _Person, str], None]
    usage: str


_COMMANDS = {
    "nick": _Command(Chat._nick, "NAME: take a name, or another one"),
    "regain": _Command(Chat._regain, "NAME: take it from a connection of your own key"),
    "join": _Command(Chat._join, "ROOM: go to a room; it is made if it is not there"),
    "leave": _Command(Chat._leave, f": go back to {DEFAULT_ROOM}"),
    "msg": _Command(Chat._msg, "NAME TEXT: tell somebody in private"),
    "who": _Command(Chat._who, "[ROOM]: who is there"),
    "rooms": _Command(Chat._listRooms, ": which rooms there are"),
    "whois": _Command(Chat._whois, "NAME: show the key of somebody"),
    "help": _Command(Chat._help, ": list the commands"),
}
