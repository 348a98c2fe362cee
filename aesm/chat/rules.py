"""
The rules of the chat, without I/O: who is called what, who is in which room,
and who is told::

    chat = Chat()
    chat.joined("one", "key 1")                   # [("note: ...", ("one",))]
    chat.received("one", "/nick alice", 0.0)      # [("you are ...", ("one",)), ...]
    chat.received("one", "hello", 1.0)            # [("say lobby alice: hello", ...)]
    chat.left("one")                              # what the others are told

Members and their keys are text; for L{ChatHandler<aesm.chat.handler.ChatHandler>} a
member is the name of a session.  The format of the lines is in C{docs/chat.md}: what
others wrote is a name, or stands behind the first C{": "} of a line, and can hold
nothing that would end it.

Of the same calls comes the same, in every process: L{aesm.chat.replica} relies on it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from aesm.chat.names import MAX_NAME, foldName, tidyName
from aesm.chat.presence import DEFAULT_ROOM, Person, Presence
from aesm.chat.text import oneLine, sizeOf

if TYPE_CHECKING:
    from aesm.store.interface import Rows

MAX_LINE = 4096  # bytes of a line from a member
MAX_IGNORED = 50  # keys, of one member
MAX_BANNED = 1000  # keys

GUARDED = ("kick", "ban")  # commands for operators, of which none sends away another
NAME_FIRST = "error: choose a name first: /nick NAME"


class Chat(Presence):
    """
    Who is called what, who is in which room, and who is told.

    Each method returns what to send: pairs of a line and of those who are sent it, in
    order; None for a line closes who is banned.
    """

    def _begin(self) -> None:
        """Have nobody banned, either."""
        super()._begin()
        self._banned: dict[str, None] = {}  # keys, in the order of that
        self._operators: set[str] = set()  # of the keys that are there

    # What the handler calls, beside what Presence has

    def joined(self, member: str, key: str, keyName: str = "") -> Rows:
        """Somebody has connected; who is banned is closed."""
        if key not in self._banned:
            return super().joined(member, key, keyName)
        self._add(member, key, "")
        return [("error: your key is banned here", (member,)), (None, (member,))]

    def left(self, member: str) -> Rows:
        """Somebody is gone."""
        key = self._people[member].key
        rows = super().left(member)
        if key not in self._ofKey:
            self._operators.discard(key)
        return rows

    def mark(self, key: str, isOperator: bool) -> None:
        """
        Note whether who has a key may send others away.

        @param key: of somebody who is there; else that is not noted.
        """
        if not isOperator:
            self._operators.discard(key)
        elif key in self._ofKey:
            self._operators.add(key)

    def marks(self) -> dict[str, bool]:
        """Tell of all keys that are there whether who has them is an operator."""
        return {key: key in self._operators for key in self._ofKey}

    def isBanned(self, key: str) -> bool:
        """Tell whether who has a key is closed when they come."""
        return key in self._banned

    def received(self, member: str, data: str | bytes | None, now: float) -> Rows:
        """
        Somebody has sent a message.

        @param now: the time in Unix seconds.
        """
        person = self._people[member]
        if person.key in self._banned:
            pass  # it is being closed
        elif not isinstance(data, str):
            self._tell(person, "error: only text can be sent here")
        # The first of the two is cheap, and spares tidying up what is too long.
        elif len(data) > MAX_LINE or sizeOf(text := oneLine(data).strip()) > MAX_LINE:
            self._tell(person, f"error: a line has at most {MAX_LINE} bytes")
        elif text.startswith("/") and not text.startswith("//"):
            self._command(person, text[1:])
        elif text:
            self._say(person, text.removeprefix("/"), now)
        return self._take()

    # The whole of it

    def state(self) -> dict[str, Any]:
        """Get all that there is to be known."""
        return super().state() | {
            "banned": list(self._banned),
            "operators": sorted(self._operators),
        }

    def goOn(self, state: dict[str, Any]) -> None:
        """Go on from what was known."""
        super().goOn(state)
        self._banned = dict.fromkeys(state["banned"])
        self._operators = set(state["operators"])

    # Commands

    def _command(self, person: Person, text: str) -> None:
        """Carry out a command, which comes without its slash."""
        word, _, rest = text.partition(" ")
        if word not in _COMMANDS:
            self._tell(person, f"error: there is no command /{word}: /help lists them")
        elif person.room is None and word not in ("nick", "regain", "help"):
            self._tell(person, NAME_FIRST)
        elif word in GUARDED and person.key not in self._operators:
            self._tell(person, f"error: only operators may /{word}")
        else:
            _COMMANDS[word].action(self, person, rest.strip())

    def _nick(self, person: Person, argument: str) -> None:
        """Take a name that nobody has."""
        name = self._choice(person, argument)
        if name is None:
            return
        if person.given and self._others(name, person):
            name = person.name or self._variant(person)
        self._rename(person, name)

    def _regain(self, person: Person, argument: str) -> None:
        """Take a name from another connection that has the same key."""
        name = self._choice(person, argument)
        if name is None:
            return
        # After a network has failed, the server may take the old one for alive yet.
        former = self._named.get(name)
        if (
            former is None
            or former.key != person.key
            or self._others(name, person) != [former]
        ):
            self._rename(person, name)
            return
        self._unname(former)
        self._tell(
            former, "error: another connection with your key has taken your name"
        )
        self._rename(person, name)
        if former.given:
            self._settle(former)

    def _join(self, person: Person, argument: str) -> None:
        """Go to another room, which is made if it is not there."""
        name = tidyName(argument)
        if name is None:
            self._refuseName(person)
            return
        room = self._rooms.get(name)
        if room is not None and room is person.room:
            self._tell(person, f"error: you are in {room.name} already")
        elif room is not None or self._mayMake(person, name):
            self._depart(person)
            self._enter(person, name)

    def _leave(self, person: Person, argument: str) -> None:
        """Go back to the default room."""
        self._join(person, DEFAULT_ROOM)

    def _msg(self, person: Person, argument: str) -> None:
        """Tell somebody something in private."""
        to, _, text = argument.partition(" ")
        other = self._find(person, to)
        if other is None:
            return
        if not text.strip():
            self._tell(person, "error: write it thus: /msg NAME TEXT")
            return
        line = f"tell {person.name} {other.name}: {text.strip()}"
        if person.key not in other.ignored:
            self._tell(other, line)
        if other is not person:
            self._tell(person, line)

    def _who(self, person: Person, argument: str) -> None:
        """List who is in a room."""
        room = self._rooms.get(argument) if argument else person.room
        if room is None:
            self._tell(person, f"error: there is no room {argument}: /rooms lists them")
        else:
            self._showRoom(person, room)

    def _listRooms(self, person: Person, argument: str) -> None:
        """List the rooms."""
        self._showRooms(person)

    def _whois(self, person: Person, argument: str) -> None:
        """Show what proves who somebody is."""
        other = self._find(person, argument)
        if other is not None:
            self._tell(person, f"whois {other.name}: {other.identity}")

    def _ignore(self, person: Person, argument: str) -> None:
        """Be sent nothing more that somebody says, or list of whom that is so."""
        ignored = person.ignored
        if not argument:
            names = " ".join(ignored.values()) or "nobody"
            self._tell(person, f"note: you ignore {names}")
            return
        other = self._find(person, argument)
        if other is None:
            return
        if other.key == person.key:
            self._tell(person, "error: that is yourself")
        elif other.key not in ignored and len(ignored) >= MAX_IGNORED:
            self._tell(person, f"error: you ignore {MAX_IGNORED}, and no more")
        else:
            ignored[other.key] = other.name
            self._tell(person, f"note: you ignore {other.name}, whatever the name")

    def _unignore(self, person: Person, argument: str) -> None:
        """Be sent again what somebody says."""
        other = self._named.get(argument)
        for key, name in person.ignored.items():
            # By the present name, or by that which it had: it may be gone.
            if foldName(name) == foldName(argument) or (other and other.key == key):
                del person.ignored[key]
                self._tell(person, f"note: you ignore {name} no more")
                return
        self._tell(person, f"error: you do not ignore {argument!r}")

    def _kick(self, person: Person, argument: str) -> None:
        """Take away somebody's name and place."""
        found = self._outcast(person, argument)
        if found is not None:
            other, reason = found
            words = f"sent away by {person.name}{reason}"
            self._expel(other, words)
            self._tell(other, f"error: you were {words}")

    def _ban(self, person: Person, argument: str) -> None:
        """Send away all that have somebody's key, for good."""
        found = self._outcast(person, argument)
        if found is None:
            return
        if len(self._banned) >= MAX_BANNED:
            self._tell(person, f"error: {MAX_BANNED} keys are banned, and no more")
            return
        other, reason = found
        self._banned[other.key] = None
        words = f"banned by {person.name}{reason}"
        self._expel(other, words)
        for one in self._ofKey[other.key].values():
            self._unname(one)  # without the reason, which may be long, again
            one.place = None
            self._tell(one, f"error: you were {words}")
            self._output.append((None, (one.member,)))

    def _help(self, person: Person, argument: str) -> None:
        """List the commands."""
        for word, command in _COMMANDS.items():
            self._tell(person, f"note: /{word} {command.usage}")
        self._tell(person, "note: anything else is said in your room; //x says /x")

    # Who may have which name

    def _choice(self, person: Person, argument: str) -> str | None:
        """Read a name that somebody wants; None if they were told why not."""
        if not person.given:
            name = tidyName(argument)
            if name is None:
                self._refuseName(person)
            return name
        for name in (person.given, person.name):
            if name and foldName(name) == foldName(argument):
                return name
        self._tell(person, f"error: your name goes with your key: it is {person.given}")
        return None

    # Parts

    def _say(self, person: Person, text: str, now: float) -> None:
        """Say something in a room, at a time in Unix seconds."""
        room = person.room
        if room is None:
            self._tell(person, NAME_FIRST)
            return
        time = datetime.fromtimestamp(now, UTC)
        room.remember(
            person.key,
            f"old {room.name} {time:%Y-%m-%dT%H:%M:%SZ} {person.name}: {text}",
        )
        line = f"say {room.name} {person.name}: {text}"
        deaf = [one.member for one in room.present if person.key in one.ignored]
        heard = room.members.difference(deaf) if deaf else room.members
        self._output.append((line, heard))

    def _outcast(self, person: Person, argument: str) -> tuple[Person, str] | None:
        """
        Read whom an operator sends away, and why.

        @return: who it is, and the reason behind a colon; None if the operator was
            told that it cannot be.
        """
        name, _, reason = argument.partition(" ")
        other = self._find(person, name)
        if other is None:
            return None
        if other.key in self._operators:
            self._tell(person, f"error: {other.name} is an operator")
            return None
        return other, f": {reason.strip()}" if reason.strip() else ""

    def _expel(self, person: Person, words: str) -> None:
        """Take away somebody's name and place, and tell those who see it why."""
        room, name = person.room, person.name
        self._unname(person)
        if room is not None:
            self._tellRoom(room, f"note: {name} was {words}")

    def _find(self, person: Person, name: str) -> Person | None:
        """Look somebody up; who asks is told if there is nobody."""
        other = self._named.get(name)
        if other is None:
            self._tell(person, f"error: nobody here is called {name!r}")
        return other

    def _refuseName(self, person: Person) -> None:
        """Say what a name is."""
        self._tell(
            person,
            f"error: a name has 1 to {MAX_NAME} letters and digits of one script, "
            "'_', '-' and '.'",
        )


class _Command(NamedTuple):
    """
    What members can write after a slash.

    @ivar action: carries it out.
    @ivar usage: its arguments and what it does, for /help.
    """

    action: Callable[[Chat, Person, str], None]
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
    "ignore": _Command(Chat._ignore, "[NAME]: see nothing that somebody says"),
    "unignore": _Command(Chat._unignore, "NAME: see it again"),
    "kick": _Command(Chat._kick, "NAME [REASON]: send away (operators)"),
    "ban": _Command(Chat._ban, "NAME [REASON]: send away for good (operators)"),
    "help": _Command(Chat._help, ": list the commands"),
}

# What can be written after a slash, and its arguments and what it does.
COMMANDS = {word: command.usage for word, command in _COMMANDS.items()}
