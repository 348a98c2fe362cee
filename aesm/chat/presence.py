"""
Who is in the chat, under which name and in which room, and who is told of it: the
rules of L{aesm.chat.rules} about coming and going, without what members say.

C{Chat} is a L{Presence} that reads lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from aesm.chat.names import MAX_NAME, Register, foldName, nameFrom
from aesm.chat.text import oneLine, sizeOf

if TYPE_CHECKING:
    from aesm.store.interface import Rows

DEFAULT_ROOM = "lobby"
MAX_ROOMS = 256
KEY_NAMES = 10  # connections with a name, so also rooms to be in, of one key
KEY_ROOMS = 5  # that one key has made, while they last
MAX_LISTED = 200  # names, or rooms, in one answer
HISTORY_LINES = 50  # of one room
HISTORY_BYTES = 16384  # of one room


@dataclass(eq=False)
class Room:
    """
    A room and who is in it.

    @ivar name: as it is shown.
    @ivar number: no other room has it, nor one that has gone.
    @ivar maker: the key of who has made it; empty for nobody.
    @ivar present: who is in it, in the order of arrival.
    @ivar audience: the members who are in it, as long as nobody comes or goes; None if
        that is not known.
    @ivar history: the recent lines, and whose key said each, the oldest first.
    @ivar historySize: their length in bytes of UTF-8.
    @ivar said: how many lines were ever said in it.
    """

    name: str
    number: int
    maker: str = ""
    present: dict[Person, None] = field(default_factory=dict)
    audience: frozenset[str] | None = None
    history: deque[tuple[str, str]] = field(default_factory=deque)
    historySize: int = 0
    said: int = 0

    @property
    def members(self) -> frozenset[str]:
        """Who is in it: one object for all that they are told meanwhile."""
        if self.audience is None:
            self.audience = frozenset(person.member for person in self.present)
        return self.audience

    def enter(self, person: Person) -> None:
        """Let somebody in."""
        self.present[person] = self.audience = None

    def depart(self, person: Person) -> None:
        """Let somebody out."""
        del self.present[person]
        self.audience = None

    def remember(self, key: str, line: str) -> None:
        """Keep a line for those who come later, and drop old ones over the bounds."""
        self.said += 1
        self.keep(key, line)

    def keep(self, key: str, line: str) -> None:
        """Have a line in the history."""
        self.history.append((key, line))
        self.historySize += sizeOf(line)
        while len(self.history) > HISTORY_LINES or self.historySize > HISTORY_BYTES:
            self.historySize -= sizeOf(self.history.popleft()[1])

    def since(self, said: int) -> list[tuple[str, str]]:
        """Get what of the history came after so many lines were said."""
        return list(self.history)[-(self.said - said) :] if self.said > said else []


class Place(NamedTuple):
    """
    Where somebody was who is away.

    @ivar name: their name.
    @ivar room: what the room is called.
    @ivar number: of the room, which may be gone.
    @ivar said: how many lines they have seen of it.
    """

    name: str
    room: str
    number: int
    said: int


@dataclass(eq=False)
class Person:
    """
    Somebody who is connected.

    @ivar member: what the caller calls them.
    @ivar key: proves who they are.
    @ivar keyName: what the operator calls that key; empty if nothing.
    @ivar given: the name that goes with their key; empty if they may choose.
    @ivar name: their name, empty until they have one.
    @ivar room: where they are, None until they have a name.
    @ivar place: where they were, while they are away; else None.
    @ivar ignored: the keys whose words they are not sent, each with the name that it
        had then.
    """

    member: str
    key: str
    keyName: str
    given: str
    name: str = ""
    room: Room | None = None
    place: Place | None = None
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Their key in words."""
        return oneLine(f"{self.key} {self.keyName}").strip()


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

    Each public method returns what to send: pairs of a line and of those who are sent
    it, in order; None for a line closes who is banned.
    """

    def __init__(self, freeNames: bool = False) -> None:
        """
        @param freeNames: whether who has a key with a name may choose another one.
        """
        self._freeNames = freeNames
        self._begin()
        self._make(DEFAULT_ROOM)

    def _begin(self) -> None:
        """Have nobody, and no rooms."""
        self._people: dict[str, Person] = {}
        self._ofKey: dict[str, dict[str, Person]] = {}
        self._named: Register[Person] = Register()
        self._rooms: Register[Room] = Register()
        self._made = 0  # rooms
        self._output: list[tuple[str | None, Collection[str]]] = []

    # What the handler calls

    def keyOf(self, member: str) -> str | None:
        """Find the key of somebody who is connected."""
        person = self._people.get(member)
        return None if person is None else person.key

    def isAway(self, member: str) -> bool:
        """Tell whether somebody is away, and has a place to come back to."""
        person = self._people.get(member)
        return person is not None and person.place is not None

    def joined(self, member: str, key: str, keyName: str = "") -> Rows:
        """
        Somebody has connected.

        @param key: proves who they are.
        @param keyName: what the operator calls that key; empty if nothing.
        """
        person = self._add(member, key, keyName)
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

    def _add(self, member: str, key: str, keyName: str) -> Person:
        """Take note of somebody who has connected."""
        given = nameFrom(keyName) if keyName and not self._freeNames else ""
        person = self._people[member] = Person(member, key, keyName, given)
        self._ofKey.setdefault(key, {})[member] = person
        return person

    def left(self, member: str) -> Rows:
        """Somebody is gone."""
        person = self._people.pop(member)
        self._unname(person)
        others = self._ofKey[person.key]
        del others[member]
        if not others:
            del self._ofKey[person.key]
        return self._take()

    def away(self, member: str) -> Rows:
        """Somebody was cut off, and is missed by now; they may come back."""
        person = self._people[member]
        room = person.room
        if room is not None:
            person.place = Place(person.name, room.name, room.number, room.said)
            self._unname(person)
        return self._take()

    def back(self, member: str) -> Rows:
        """Somebody who was away is back."""
        person = self._people[member]
        place, person.place = person.place, None
        if place is not None and not person.name:
            self._settle(person, place)
        return self._take()

    # The whole of it
    #
    # It is the same, to the last byte, wherever the same has happened in the same
    # order: all is in an order that comes from that.  Who is in a room is said by the
    # place in the list of people; what follows from the rest is left out.

    def state(self) -> dict[str, Any]:
        """Get all that there is to be known, as fits into JSON."""
        number = {person: index for index, person in enumerate(self._people.values())}
        return {
            "made": self._made,
            "people": [
                [one.member, one.key, one.keyName, one.name, one.place, one.ignored]
                for one in self._people.values()
            ],
            "rooms": [
                [
                    *(room.name, room.number, room.maker, room.said),
                    [number[person] for person in room.present],
                    list(room.history),
                ]
                for room in self._rooms.values()
            ],
        }

    def goOn(self, state: dict[str, Any]) -> None:
        """
        Go on from what was known.

        @param state: as L{state} gave it.
        """
        self._begin()
        for member, key, keyName, name, place, ignored in state["people"]:
            person = self._add(member, key, keyName)
            person.name, person.ignored = name, ignored
            person.place = None if place is None else Place(*place)
            if name:
                self._named.add(name, person)
        people = list(self._people.values())
        for name, number, maker, said, present, history in state["rooms"]:
            room = Room(name, number, maker, said=said)
            self._rooms.add(name, room)
            for index in present:
                room.enter(people[index])
                people[index].room = room
            for key, line in history:
                room.keep(key, line)
        self._made = state["made"]

    # Who may have which name, and make which room

    def _variant(self, person: Person) -> str:
        """Find the first free name that shows what goes with somebody's key."""
        name, number = person.given, 1
        while self._named.alike(name):
            number += 1
            suffix = f"-{number}"
            name = person.given[: MAX_NAME - len(suffix)] + suffix
        return name

    def _others(self, name: str, person: Person) -> list[Person]:
        """Find who else could be taken for somebody of this name."""
        return [other for other in self._named.alike(name) if other is not person]

    def _mayHave(self, person: Person, name: str) -> bool:
        """Tell whether somebody may have a name now; they are told if not."""
        others = self._others(name, person)
        ofKey = self._ofKey[person.key].values()
        if any(foldName(other.name) == foldName(name) for other in others):
            self._tell(person, f"error: the name {name} is taken")
        elif others:
            self._tell(
                person,
                f"error: the name {name} looks like {others[0].name}, which is taken",
            )
        elif not person.name and sum(bool(one.name) for one in ofKey) >= KEY_NAMES:
            self._tell(
                person, f"error: your key has {KEY_NAMES} names here, and no more"
            )
        else:
            return True
        return False

    def _mayMake(self, person: Person, name: str) -> bool:
        """Tell whether somebody may make a room now; they are told if not."""
        others = self._rooms.alike(name)
        rooms = self._rooms.values()
        if others:
            self._tell(
                person,
                f"error: {name} looks like {others[0].name}, another room",
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
            former = place.room
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
            room = self._make(name, person.key)
        self._tellRoom(room, f"join {room.name} {person.name}")
        room.enter(person)
        person.room = room
        self._tell(person, f"you are {person.name} in {room.name}")
        seen = place.said if place is not None and place.number == room.number else 0
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
        room.depart(person)
        self._tellRoom(room, f"leave {room.name} {person.name}")
        if not room.present and room.name != DEFAULT_ROOM:
            self._rooms.remove(room.name)

    def _make(self, name: str, maker: str = "") -> Room:
        """Make a room."""
        self._made += 1
        room = Room(name, self._made, maker)
        self._rooms.add(name, room)
        return room

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
        self._output.append((line, (person.member,)))

    def _tellRoom(self, room: Room, line: str) -> None:
        """Send all in a room a line."""
        if room.present:
            self._output.append((line, room.members))

    def _take(self) -> Rows:
        """Take what is to be sent."""
        output, self._output = self._output, []
        return output
