"""
Who is in the chat, under which name and in which room, and who is told of it: the
rules of L{aesm.chat.rules} about coming and going, without what members say.

C{Chat} is a L{Presence} that reads lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from aesm.chat.names import MAX_NAME, Register, foldName, nameFrom
from aesm.chat.text import oneLine, sizeOf

__all__ = [
    "DEFAULT_ROOM",
    "HISTORY_BYTES",
    "HISTORY_LINES",
    "KEY_NAMES",
    "KEY_ROOMS",
    "MAX_LISTED",
    "MAX_ROOMS",
    "Lines",
    "Person",
    "Place",
    "Presence",
    "Room",
]

DEFAULT_ROOM = "lobby"
MAX_ROOMS = 256
KEY_NAMES = 10  # connections with a name, so also rooms to be in, of one key
KEY_ROOMS = 5  # that one key has made, while they last
MAX_LISTED = 200  # names, or rooms, in one answer
HISTORY_LINES = 50  # of one room
HISTORY_BYTES = 16384  # of one room

# Whom to send what; None for a line closes who is banned.
Lines = list[tuple[Any, str | None]]


@dataclass(eq=False)
class Room:
    """
    A room and who is in it.

    @ivar name: as it is shown.
    @ivar maker: the key of who has made it.
    @ivar present: who is in it, in the order of arrival.
    @ivar history: the recent lines, and whose key said each, the oldest first.
    @ivar historySize: their length in bytes of UTF-8.
    @ivar said: how many lines were ever said in it.
    """

    name: str
    maker: Hashable = None
    present: dict[Person, None] = field(default_factory=dict)
    history: deque[tuple[Hashable, str]] = field(default_factory=deque)
    historySize: int = 0
    said: int = 0

    def remember(self, key: Hashable, line: str) -> None:
        """Keep a line for those who come later, and drop old ones over the bounds."""
        self.said += 1
        self.history.append((key, line))
        self.historySize += sizeOf(line)
        while len(self.history) > HISTORY_LINES or self.historySize > HISTORY_BYTES:
            self.historySize -= sizeOf(self.history.popleft()[1])

    def since(self, said: int) -> list[tuple[Hashable, str]]:
        """Get what of the history came after so many lines were said."""
        return list(self.history)[-(self.said - said) :] if self.said > said else []


class Place(NamedTuple):
    """
    Where somebody was who is away.

    @ivar name: their name.
    @ivar room: the room.
    @ivar said: how many lines they have seen of it.
    """

    name: str
    room: Room
    said: int


@dataclass(eq=False)
class Person:
    """
    Somebody who is connected.

    @ivar member: what the caller calls them.
    @ivar key: proves who they are.
    @ivar identity: the same in words.
    @ivar given: the name that goes with their key; empty if they may choose.
    @ivar name: their name, empty until they have one.
    @ivar room: where they are, None until they have a name.
    @ivar place: where they were, while they are away; else None.
    @ivar ignored: the keys whose words they are not sent, each with the name that it
        had then.
    """

    member: Hashable
    key: Hashable
    identity: str
    given: str
    name: str = ""
    room: Room | None = None
    place: Place | None = None
    ignored: dict[Hashable, str] = field(default_factory=dict)


# Four registries have to agree, and each is changed in one place:
#
#   _people   by member: everybody who is connected, with a name or without
#   _ofKey    the same, by key (joined, left)
#   _named    by name: those who have one (_enter, _rename, _unname)
#   _rooms    by name: the rooms; each has those present (_enter, _depart)
#
# Somebody has a name if and only if they are in a room: the first name leads into the
# default room, and whoever moves departs and enters in one step.  Names are kept in a
# Register, so that nobody can take one that only looks different.
#
# What a member can make us hold is bounded: one name, one room, and in that room a
# history with a limit on its bytes; names and rooms of one key; rooms in all.  A room
# without people is dropped, with its history, but for the default room.
#
# What a line costs others is bounded, too: each who is in the room is sent it, or a few
# words about it.  Whatever takes longer is sent only to whom it is from.
#
# Nothing is sent from within: a method collects lines in _output and hands them over at
# its end, in order, so that no member who is told something can change what another
# is told in the middle of a step.


class Presence:
    """
    Who is in the chat, under which name, and in which room.

    Each public method returns what to send: pairs of a member and a line, in order.
    """

    def __init__(self, freeNames: bool = False) -> None:
        """
        Start with the default room, and nobody in it.

        @param freeNames: whether who has a key with a name may choose another one.
        """
        self._freeNames = freeNames
        self._people: dict[Hashable, Person] = {}
        self._ofKey: dict[Hashable, dict[Hashable, Person]] = {}
        self._named: Register[Person] = Register()
        self._rooms: Register[Room] = Register()
        self._output: Lines = []
        self._rooms.add(DEFAULT_ROOM, Room(DEFAULT_ROOM))

    # What the handler calls

    def joined(
        self, member: Hashable, key: Hashable, keyName: str | None = None
    ) -> Lines:
        """
        Somebody has connected.

        @param key: proves who they are; C{str} shows it.
        @param keyName: what the operator calls that key, or None.
        """
        person = self._add(member, key, keyName or "")
        if person.given:
            self._tell(
                person, "note: your name goes with your key; /help lists the commands"
            )
            self._settle(person)
        else:
            self._tell(
                person, "note: choose a name: /nick NAME; /help lists the commands"
            )
        return self._take()

    def _add(self, member: Hashable, key: Hashable, keyName: str) -> Person:
        """Take note of somebody who has connected."""
        identity = oneLine(f"{key} {keyName}").strip()
        given = nameFrom(keyName) if keyName and not self._freeNames else ""
        person = self._people[member] = Person(member, key, identity, given)
        self._ofKey.setdefault(key, {})[member] = person
        return person

    def left(self, member: Hashable) -> Lines:
        """Somebody is gone."""
        person = self._people.pop(member)
        self._unname(person)
        others = self._ofKey[person.key]
        del others[member]
        if not others:
            del self._ofKey[person.key]
        return self._take()

    def away(self, member: Hashable) -> Lines:
        """Somebody was cut off, and is missed by now; they may come back."""
        person = self._people[member]
        room = person.room
        if room is not None:
            person.place = Place(person.name, room, room.said)
            self._unname(person)
        return self._take()

    def back(self, member: Hashable) -> Lines:
        """Somebody who was away is back."""
        person = self._people[member]
        place, person.place = person.place, None
        if place is not None and not person.name:
            self._settle(person, place)
        return self._take()

    # Who may have which name, and make which room

    def _variant(self, person: Person) -> str:
        """Find the first free name that shows what goes with somebody's key."""
        name, number = person.given, 1
        while self._named.alike(name):
            number += 1
            suffix = f"-{number}"
            name = person.given[: MAX_NAME - len(suffix)] + suffix
        return name

    def _others(self, name: str, person: Person) -> set[Person]:
        """Find who else could be taken for somebody of this name."""
        return self._named.alike(name) - {person}

    def _mayHave(self, person: Person, name: str) -> bool:
        """
        Tell whether somebody may have a name now.

        @param person: is told if not.
        """
        others = self._others(name, person)
        ofKey = self._ofKey[person.key].values()
        if any(foldName(other.name) == foldName(name) for other in others):
            self._tell(person, f"error: the name {name} is taken")
        elif others:
            self._tell(
                person,
                f"error: the name {name} looks like {others.pop().name}, which is "
                "taken",
            )
        elif not person.name and sum(bool(one.name) for one in ofKey) >= KEY_NAMES:
            self._tell(
                person, f"error: your key has {KEY_NAMES} names here, and no more"
            )
        else:
            return True
        return False

    def _mayMake(self, person: Person, name: str) -> bool:
        """
        Tell whether somebody may make a room now.

        @param person: is told if not.
        """
        others = self._rooms.alike(name)
        rooms = self._rooms.values()
        if others:
            self._tell(
                person,
                f"error: {name} looks like {others.pop().name}, another room",
            )
        elif len(rooms) >= MAX_ROOMS:
            self._tell(person, f"error: there are {MAX_ROOMS} rooms, and no more")
        elif sum(room.maker == person.key for room in rooms) >= KEY_ROOMS:
            self._tell(
                person,
                f"error: your key has made {KEY_ROOMS} rooms that are still there, "
                "and may make no more",
            )
        else:
            return True
        return False

    def _settle(self, person: Person, place: Place | None = None) -> None:
        """
        Give somebody without a name the one that goes with their key, or that they
        had.

        @param place: where they were, if they are back.
        """
        name = self._variant(person) if person.given or place is None else place.name
        if not self._mayHave(person, name):
            return
        room = DEFAULT_ROOM
        if place is not None:
            former = place.room.name
            if self._rooms.get(former) is not None or self._mayMake(person, former):
                room = former
        person.name = name
        self._named.add(name, person)
        self._enter(person, room, place)

    def _rename(self, person: Person, name: str) -> None:
        """
        Give somebody another name if they may have it, and a place in the default room
        if it is their first.
        """
        if name == person.name or not self._mayHave(person, name):
            return
        former, person.name = person.name, name
        if former:
            self._named.remove(former)
        self._named.add(name, person)
        room = person.room
        if room is None:
            self._enter(person, DEFAULT_ROOM)
            return
        self._tellRoom(room, f"name {former} {name}")
        self._tell(person, f"you are {name} in {room.name}")

    def _unname(self, person: Person) -> None:
        """Take away somebody's name and place."""
        self._depart(person)
        if person.name:
            self._named.remove(person.name)
            person.name = ""

    def _enter(self, person: Person, name: str, place: Place | None = None) -> None:
        """
        Bring somebody into a room: they are told who is there and what was said.

        @param person: somebody with a name and no room.
        @param place: where they were, if they are back: what they have seen is not
            told again.
        """
        room = self._rooms.get(name)
        if room is None:
            room = Room(name, person.key)
            self._rooms.add(name, room)
        self._tellRoom(room, f"join {room.name} {person.name}")
        room.present[person] = None
        person.room = room
        self._tell(person, f"you are {person.name} in {room.name}")
        seen = place.said if place is not None and place.room is room else 0
        for key, line in room.since(seen):
            if key not in person.ignored:
                self._tell(person, line)
        self._showRoom(person, room)

    def _depart(self, person: Person) -> None:
        """Take somebody out of their room, which ends when it is empty."""
        room = person.room
        if room is None:
            return
        person.room = None
        del room.present[person]
        self._tellRoom(room, f"leave {room.name} {person.name}")
        if not room.present and room.name != DEFAULT_ROOM:
            self._rooms.remove(room.name)
            room.history.clear()  # some who are away may hold the room itself

    def _showRoom(self, person: Person, room: Room) -> None:
        """Tell somebody who is in a room."""
        names = [other.name for other in islice(room.present, MAX_LISTED)]
        self._tell(person, f"who {room.name} {len(room.present)}: {' '.join(names)}")

    def _showRooms(self, person: Person) -> None:
        """Tell somebody which rooms there are."""
        rooms = islice(self._rooms.values(), MAX_LISTED)
        names = " ".join(f"{room.name}={len(room.present)}" for room in rooms)
        self._tell(person, f"rooms {len(self._rooms)}: {names}")

    def _tell(self, person: Person, line: str) -> None:
        """Send somebody a line."""
        self._output.append((person.member, line))

    def _tellRoom(self, room: Room, line: str) -> None:
        """Send all in a room a line."""
        for person in room.present:
            self._tell(person, line)

    def _take(self) -> Lines:
        """Take what is to be sent."""
        output, self._output = self._output, []
        return output
