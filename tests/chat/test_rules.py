"""
The rules of the chat, without I/O, and the handler that they are in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm import AnyServer, connect
from aesm.chat import rules
from aesm.chat.handler import ChatHandler
from aesm.chat.rules import HISTORY_BYTES, HISTORY_LINES, MAX_LINE, Chat
from aesm.chat.text import MAX_NAME, foldName, oneLine, sizeOf, tidyName
from aesm.interfaces import IMessageHandler
from aesm.messages.connection import Connection
from aesm.server.registry import Connections
from aesm.testing import ConnectedPair, connectedPair
from aesm.trust.keys import PrivateKey

NOW = 1_700_000_000.0
EVIL = "\x00\x1b\n\r\t\x0b\x85\u2028\u2029\u202e\u2066\u200f\ufeff\ud800\u00ad\x7f"

# Every line that there can be: no more than docs/chat.md says.
FORM = (
    (
        r"\A((note|error|whois N|say N N|old N T N|tell N N|who N \d+|rooms \d+): .*"
        r"|join N N|leave N N|name N N|you are N in N)\Z"
    )
    .replace("N", r"[\w.-]{1,24}")
    .replace("T", r"[-0-9T:]+Z")
)

# Text of the kinds that people would use to break the rules.
nasty = st.text(
    st.one_of(st.sampled_from("/: ab" + EVIL), st.characters()), max_size=60
)
names = st.sampled_from(
    ["alice", "Bob", "bOB", "\uff42ob", "e\u0301", "a b", "", "\u202eb"]
)
lines = st.one_of(
    nasty,
    st.binary(max_size=4),
    st.builds(
        "/{} {} {}".format,
        st.sampled_from(
            ["nick", "regain", "join", "msg", "who", "whois", "leave", "help", "rooms"]
        ),
        st.one_of(names, nasty),
        nasty,
    ),
)
events = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.just(None), lines)), max_size=30
)


class TextTests(SynchronousTestCase):
    """What may stand in a line, and what a name is."""

    def test_oneLine(self) -> None:
        """
        What would break or reorder a line is replaced, character by character;
        everything else stays, joiners in words and emoji too.
        """
        self.assertEqual(oneLine("a\r\n\tb\u2028c\x85d"), "a   b c d")
        self.assertEqual(
            oneLine("\x1b[2J\u202e\ud800\x00"), "\ufffd[2J\ufffd\ufffd\ufffd"
        )
        kept = "\u00fc \u65e5 \u05e9 \u06cc\u200c\u062e \U0001f468\u200d\U0001f4bb"
        self.assertEqual(oneLine(kept), kept)

    @settings(deadline=None)
    @given(nasty)
    def test_oneLineAlways(self, text: str) -> None:
        """The result is one line without control characters, as long as before."""
        line = oneLine(text)
        self.assertEqual(len(line), len(text))
        self.assertLessEqual(len(line.splitlines()), 1)
        line.encode("utf-8")
        self.assertNotIn("Cc", map(unicodedata.category, line))

    def test_names(self) -> None:
        """Letters and digits of any script, C{_}, C{-} and C{.} make names."""
        for name in (
            "alice",
            "a",
            "x" * MAX_NAME,
            "J\u00fcrgen_2",
            "a.b-c",
            "\u674e\u5c0f",
        ):
            self.assertEqual(tidyName(name), name)

    def test_tidied(self) -> None:
        """A name is shown in its normal form."""
        self.assertEqual(tidyName("\uff41lice"), "alice")
        self.assertEqual(tidyName("Jose\u0301"), "Jos\u00e9")

    def test_noNames(self) -> None:
        """Too long, too short, and whatever hides, combines or turns is no name."""
        for text in (
            "",
            "x" * (MAX_NAME + 1),
            "x" * 10_000,
            "a b",
            "a:b",
            "a/b",
            "*",
            "q\u0301",  # nothing to combine to
            "a\u200db",
            "a\u202eb",
            "a\u00adb",
            "\u3164",  # Hangul filler: a letter that does not show
            "\u115f",
            "a\nb",
            "a\x00",
            "\ufdfa",  # a ligature that NFKC makes into words
            "\ud800",
            "\u2764",
        ):
            self.assertIsNone(tidyName(text), ascii(text))

    def test_fold(self) -> None:
        """Case and width make no difference between names."""
        for name in (
            "ALICE",
            "\uff21\uff2c\uff29\uff23\uff25",
            "al\u0131ce".replace("\u0131", "I"),
        ):
            self.assertEqual(foldName(name), "alice")
        self.assertEqual(foldName("Stra\u00dfe"), foldName("STRASSE"))
        self.assertNotEqual(foldName("alice"), foldName("alice_"))


class Party:
    """
    Members of a chat, and what each was told.

    @ivar chat: the chat.
    @ivar told: what each member was told since it was looked at last.
    """

    def __init__(self, *names: str) -> None:
        """@param names: who is there, by those names."""
        self.chat = Chat()
        self.told: dict[str, list[str]] = {}
        for name in names:
            self.come(name)
            self.say(name, f"/nick {name}")
        self.look(*names)

    def come(self, member: str, identity: str = "a key") -> None:
        """
        Somebody connects.

        @param member: who.
        @param identity: their key.
        """
        self.told[member] = []
        self._take(self.chat.joined(member, identity))

    def go(self, member: str) -> None:
        """
        Somebody is gone.

        @param member: who.
        """
        self._take(self.chat.left(member))

    def say(self, member: str, data: str | bytes) -> None:
        """
        Somebody sends.

        @param member: who.
        @param data: what.
        """
        self._take(self.chat.received(member, data, NOW))

    def look(self, *members: str) -> Any:
        """
        Take what somebody was told.

        @param members: who.
        @return: the lines, if it is one member; else a list of those.
        """
        taken = [self.told[member] for member in members]
        for member in members:
            self.told[member] = []
        return taken[0] if len(members) == 1 else taken

    def _take(self, output: Sequence[tuple[str, str]]) -> None:
        """
        Deliver.

        @param output: whom to send what.
        """
        for member, line in output:
            self.told[member].append(line)


class ChatTests(SynchronousTestCase):
    """The rules."""

    def assertError(self, party: Party, member: str, words: str) -> None:
        """
        Fail unless somebody was told of an error and of nothing else.

        @param party: the chat.
        @param member: who.
        @param words: a part of what they were told.
        """
        (line,) = party.look(member)
        self.assertTrue(line.startswith("error: "), line)
        self.assertIn(words, line)

    def test_arrival(self) -> None:
        """
        Who connects is asked for a name, can do nothing without, and is in the
        default room with one; those there are told.
        """
        party = Party("alice")
        party.come("bob")
        self.assertEqual(
            party.look("bob"),
            ["note: choose a name: /nick NAME; /help lists the commands"],
        )
        for line in ("hello", "//hello", "/join x", "/who", "/msg alice hi", "/rooms"):
            party.say("bob", line)
            self.assertError(party, "bob", "choose a name first")
        self.assertEqual(party.look("alice"), [])
        party.say("bob", "/nick bob")
        self.assertEqual(
            party.look("alice", "bob"),
            [["join lobby bob"], ["you are bob in lobby", "who lobby 2: alice bob"]],
        )

    def test_saying(self) -> None:
        """All in the room hear what is said, the speaker too."""
        party = Party("alice", "bob")
        party.say("alice", "hello: there")
        heard = ["say lobby alice: hello: there"]
        self.assertEqual(party.look("alice", "bob"), [heard, heard])
        party.say("bob", "//help is a command ")
        self.assertEqual(party.look("alice"), ["say lobby bob: /help is a command"])

    def test_nothing(self) -> None:
        """Blanks say nothing."""
        party = Party("alice")
        for line in ("", "  ", "\r\n", "\u2028"):
            party.say("alice", line)
        self.assertEqual(party.look("alice"), [])

    def test_noForgery(self) -> None:
        """Nothing that somebody says, or is called, makes a line of its own."""
        party = Party("alice", "bob")
        party.say("alice", "hi\nsay lobby bob: I am a fool\r\nerror: \x1b[2J")
        self.assertEqual(
            party.look("bob"),
            ["say lobby alice: hi say lobby bob: I am a fool  error: \ufffd[2J"],
        )
        party.say("alice", "/msg bob psst\u2029note: pay me")
        self.assertEqual(party.look("bob"), ["tell alice bob: psst note: pay me"])

    def test_onlyText(self) -> None:
        """Bytes are refused."""
        party = Party("alice")
        party.say("alice", b"hello")
        self.assertError(party, "alice", "only text")

    def test_length(self) -> None:
        """A line has L{MAX_LINE} bytes at most, in UTF-8."""
        party = Party("alice")
        party.say("alice", "x" * MAX_LINE)
        self.assertEqual(len(party.look("alice")), 1)
        for line in ("x" * (MAX_LINE + 1), "\u00e9" * MAX_LINE, "\x00" * MAX_LINE):
            party.say("alice", line)
            self.assertError(party, "alice", f"at most {MAX_LINE} bytes")

    def test_uniqueNames(self) -> None:
        """
        Nobody can have a name that differs from another's in case or width only,
        until it is free again.
        """
        party = Party("alice")
        party.come("bob")
        party.look("bob")
        for name in ("alice", "ALICE", "\uff41lice"):
            party.say("bob", f"/nick {name}")
            self.assertError(party, "bob", "taken")
        party.go("alice")
        party.say("bob", "/nick ALICE")
        self.assertEqual(party.look("bob")[0], "you are ALICE in lobby")

    def test_badNames(self) -> None:
        """What is no name is refused, as a room's too."""
        party = Party("alice")
        for name in ("", "a b", "\u202ebob", "x" * 25):
            for command in ("/nick", "/regain", "/join"):
                party.say("alice", f"{command} {name}")
                self.assertError(party, "alice", "a name has 1 to 24")

    def test_renaming(self) -> None:
        """
        Somebody can take another name, or spell it anew; the room is told, and
        the old one is free.
        """
        party = Party("alice", "bob")
        party.say("alice", "/nick Alice")
        self.assertEqual(
            party.look("alice", "bob"),
            [["name alice Alice", "you are Alice in lobby"], ["name alice Alice"]],
        )
        party.say("alice", "/nick Alice")
        self.assertEqual(party.look("alice", "bob"), [[], []])
        party.say("alice", "/nick carol")
        party.say("bob", "/nick alice")
        party.look("alice", "bob")
        party.say("bob", "/who")
        self.assertEqual(party.look("bob"), ["who lobby 2: carol alice"])

    def test_regain(self) -> None:
        """
        A name can be taken back from another connection of the same key, not
        from one of another.
        """
        party = Party()
        for member, key in (("old", "A"), ("new", "A"), ("other", "B")):
            party.come(member, key)
        party.say("old", "/nick alice")
        party.look("old", "new", "other")
        party.say("new", "/nick alice")
        self.assertError(party, "new", "taken")
        party.say("other", "/regain alice")
        self.assertError(party, "other", "taken")
        party.say("new", "/regain ALICE")
        self.assertEqual(
            party.look("new"), ["you are ALICE in lobby", "who lobby 1: ALICE"]
        )
        self.assertError(party, "old", "has taken your name")
        party.say("old", "am I here?")
        self.assertError(party, "old", "choose a name first")
        party.go("old")
        party.say("new", "/regain ALICE")
        self.assertEqual(party.look("new"), [])

    def test_rooms(self) -> None:
        """
        Somebody in another room hears and is heard there only; the room is gone
        with the last one in it.
        """
        party = Party("alice", "bob", "carol")
        party.say("alice", "/join Python")
        self.assertEqual(
            party.look("alice", "bob"),
            [["you are alice in Python", "who Python 1: alice"], ["leave lobby alice"]],
        )
        party.say("bob", "/join python")
        self.assertEqual(party.look("alice"), ["join Python bob"])
        party.look("bob", "carol")
        party.say("alice", "import this")
        heard = ["say Python alice: import this"]
        self.assertEqual(party.look("alice", "bob", "carol"), [heard, heard, []])
        party.say("carol", "/rooms")
        self.assertEqual(party.look("carol"), ["rooms 2: lobby=1 Python=2"])
        party.say("carol", "/who python")
        self.assertEqual(party.look("carol"), ["who Python 2: alice bob"])
        party.say("alice", "/leave")
        self.assertEqual(party.look("bob"), ["leave Python alice"])
        self.assertEqual(party.look("carol"), ["join lobby alice"])
        party.go("bob")
        party.say("carol", "/who python")
        self.assertError(party, "carol", "there is no room python")

    def test_sameRoom(self) -> None:
        """Going where one is already is refused."""
        party = Party("alice")
        party.say("alice", "/leave")
        self.assertError(party, "alice", "you are in lobby already")

    def test_leaving(self) -> None:
        """
        Those in the room are told when somebody is gone; of somebody without a
        name nobody hears.
        """
        party = Party("alice", "bob")
        party.come("ghost")
        party.go("ghost")
        party.go("bob")
        self.assertEqual(party.look("alice"), ["leave lobby bob"])

    def test_private(self) -> None:
        """A private message goes to one, wherever they are, and back to the sender."""
        party = Party("alice", "bob", "carol")
        party.say("bob", "/join den")
        party.look("alice", "bob", "carol")
        party.say("alice", "/msg BOB  psst: you")
        heard = ["tell alice bob: psst: you"]
        self.assertEqual(party.look("alice", "bob", "carol"), [heard, heard, []])
        party.say("alice", "/msg alice me")
        self.assertEqual(party.look("alice"), ["tell alice alice: me"])

    def test_privateErrors(self) -> None:
        """A private message needs somebody, and words."""
        party = Party("alice", "bob")
        for line, words in (
            ("/msg", "nobody here is called ''"),
            ("/msg dave hi", "nobody here is called 'dave'"),
            ("/msg bob", "/msg NAME TEXT"),
        ):
            party.say("alice", line)
            self.assertError(party, "alice", words)
        self.assertEqual(party.look("bob"), [])

    def test_whois(self) -> None:
        """The key of somebody is shown to whoever asks."""
        party = Party("alice")
        party.come("bob", "KEY= (robert\n)")
        party.say("bob", "/nick bob")
        party.look("alice")
        party.say("alice", "/whois Bob")
        self.assertEqual(party.look("alice"), ["whois bob: KEY= (robert )"])
        party.say("alice", "/whois dave")
        self.assertError(party, "alice", "nobody")

    def test_help(self) -> None:
        """The commands are listed, also without a name."""
        party = Party()
        party.come("new")
        party.look("new")
        party.say("new", "/help")
        told = party.look("new")
        self.assertIn("note: /msg NAME TEXT: tell somebody in private", told)
        self.assertEqual({line[:6] for line in told}, {"note: "})

    def test_unknownCommand(self) -> None:
        """A command that there is not is not said in the room."""
        party = Party("alice", "bob")
        party.say("alice", "/passwd secret")
        self.assertError(party, "alice", "there is no command /passwd")
        self.assertEqual(party.look("bob"), [])

    def test_history(self) -> None:
        """Who comes is told what was said in the room, and when."""
        party = Party("alice")
        party.say("alice", "first")
        party.say("alice", "/msg alice not this")
        party.come("bob")
        party.look("bob")
        party.say("bob", "/nick bob")
        self.assertEqual(
            party.look("bob"),
            [
                "you are bob in lobby",
                "old lobby 2023-11-14T22:13:20Z alice: first",
                "who lobby 2: alice bob",
            ],
        )

    def historyAfter(self, count: int, text: str) -> list[str]:
        """
        Get the history of a room.

        @param count: how often something is said.
        @param text: what.
        """
        party = Party("alice")
        for number in range(count):
            party.say("alice", f"{number} {text}")
        party.come("bob")
        party.say("bob", "/nick bob")
        return [line for line in party.look("bob") if line.startswith("old ")]

    def test_historyBounds(self) -> None:
        """The history is bounded in lines and in bytes; the newest is kept."""
        lines = self.historyAfter(HISTORY_LINES + 1, "short")
        self.assertEqual(len(lines), HISTORY_LINES)
        self.assertTrue(lines[0].endswith(": 1 short"))
        lines = self.historyAfter(10, "\u65e5" * 1000)
        self.assertEqual(len(lines), 5)
        self.assertLessEqual(sum(map(sizeOf, lines)), HISTORY_BYTES)
        self.assertIn(": 9 ", lines[-1])

    def test_roomsBound(self) -> None:
        """There are not more than so many rooms."""
        self.patch(rules, "MAX_ROOMS", 3)
        party = Party("alice", "bob", "carol")
        party.say("alice", "/join one")
        party.say("bob", "/join two")
        party.look("alice", "bob", "carol")
        party.say("carol", "/join three")
        self.assertError(party, "carol", "3 rooms, and no more")
        party.say("carol", "/join TWO")
        self.assertEqual(party.look("carol")[0], "you are carol in two")

    def test_listsBound(self) -> None:
        """A list names so many; the number says how many there are."""
        self.patch(rules, "MAX_LISTED", 2)
        party = Party("alice", "bob", "carol")
        party.say("carol", "/who")
        self.assertEqual(party.look("carol"), ["who lobby 3: alice bob"])
        party.say("alice", "/join a")
        party.say("bob", "/join b")
        party.look("carol")
        party.say("carol", "/rooms")
        self.assertEqual(party.look("carol"), ["rooms 3: lobby=1 a=1"])

    @settings(deadline=None)
    @given(events)
    def test_always(self, happenings: list[tuple[int, str | bytes | None]]) -> None:
        """
        Whatever members send, each line is one line of known form, goes to
        somebody who is there, and names are unique and rooms have people.
        """
        rules = Chat()
        here: set[int] = set()
        for member, data in happenings:
            if member not in here:
                output = rules.joined(member, str(data))
                here.add(member)
            elif data is None:
                output = rules.left(member)
                here.remove(member)
            else:
                output = rules.received(member, data, NOW)
            for receiver, line in output:
                self.assertIn(receiver, here)
                self.assertEqual(line, oneLine(line))
                self.assertEqual(len(line.splitlines()), 1)
                self.assertRegex(line, FORM)
        named = [person for person in rules._people.values() if person.name]
        self.assertEqual(len({foldName(person.name) for person in named}), len(named))
        self.assertEqual(len(rules._named), len(named))
        present = [
            person for room in rules._rooms.values() for person in room.present.values()
        ]
        self.assertEqual(set(present), set(named))
        self.assertEqual(len(present), len(named))


class ChatHandlerTests(SynchronousTestCase):
    """The rules on a server's connections."""

    def makePair(self, **options: Any) -> ConnectedPair:
        """
        Make a chat with one client.

        @param options: of both.
        """
        handler = ChatHandler(Connections(), lambda: NOW)
        return connectedPair(handler, **options)

    def join(self, pair: ConnectedPair, nick: str, **options: Any) -> Connection:
        """
        Bring another client into the chat.

        @param pair: the server, and its network.
        @param nick: the client's name.
        @param options: of the client.
        """
        connecting = connect(
            pair.clock,
            pair.network.endpoint(),
            key=PrivateKey.generate(),
            trust=AnyServer(),
            **options,
        )
        pair.deliver()
        client = self.successResultOf(connecting)
        client.sendData(f"/nick {nick}")
        pair.deliver()
        return client

    def linesOf(self, connection: Connection) -> list[object]:
        """
        Take what a client has received.

        @param connection: the client's.
        """
        take: Callable[[], Any] = connection.retrieved.getData
        return [packet.data for packet in iter(take, None)]

    def test_interface(self) -> None:
        """It is a handler."""
        verifyObject(IMessageHandler, ChatHandler(Connections()))

    def test_conversation(self) -> None:
        """Two clients chat, and each line is acknowledged once it is dealt with."""
        pair = self.makePair()
        pair.client.sendData("/nick alice")
        pair.deliver()
        bob = self.join(pair, "bob")
        self.linesOf(pair.client), self.linesOf(bob)
        sent = bob.sendData("hello")
        pair.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.linesOf(pair.client), ["say lobby bob: hello"])
        pair.client.sendData("/whois bob")
        bob.close()
        pair.deliver()
        (whois, left) = self.linesOf(pair.client)
        self.assertRegex(str(whois), r"^whois bob: [A-Za-z0-9+/]{43}=$")
        self.assertEqual(left, "leave lobby bob")

    def test_slowPeer(self) -> None:
        """A client that does not read is closed, and holds nobody up."""
        pair = self.makePair(
            server={"sendBuffer": 300_000, "messagesPerKey": 1e6, "bytesPerKey": 1e9}
        )
        pair.client.sendData("/nick alice")
        pair.deliver()
        bob = self.join(pair, "bob", receiveBuffer=70_000)
        said = []
        for _ in range(120):
            sent = pair.client.sendData("x" * MAX_LINE)
            pair.deliver()
            self.successResultOf(sent)
            said += self.linesOf(pair.client)
        reason: Any = self.successResultOf(bob.closed())
        self.assertEqual(reason.code, 4000)
        self.assertEqual(said.count("leave lobby bob"), 1)
        mine = [line for line in said if str(line).startswith("say lobby alice")]
        self.assertEqual(len(mine), 120)
        events = [self.reasonOf(pair) for _ in range(3)]
        self.assertIn("4000", events[-1])

    def reasonOf(self, pair: ConnectedPair) -> str:
        """
        Take the server's next entry in the activity log.

        @param pair: the server.
        @return: the entry's reason.
        """
        activity = pair.server.connections.activity()
        assert activity is not None
        return activity.reason

    def test_smallPeer(self) -> None:
        """A client that takes no message so large is closed, and told why."""
        pair = self.makePair()
        pair.client.sendData("/nick alice")
        pair.deliver()
        bob = self.join(pair, "bob", maxMessage=200)
        pair.client.sendData("x" * 300)
        pair.deliver()
        reason = self.successResultOf(bob.closed())
        self.assertEqual(reason.code, 1009)  # type: ignore[attr-defined]

    def test_floodingPeer(self) -> None:
        """A client that sends and does not read is held back."""
        pair = self.makePair(
            client={"receiveBuffer": 66_000}, server={"sendBuffer": 100_000}
        )
        pair.client.sendData("/nick alice")
        sent = [pair.client.sendData("x" * MAX_LINE) for _ in range(60)]
        pair.deliver()
        self.successResultOf(sent[10])
        self.assertNoResult(sent[-1])
        while self.linesOf(pair.client):
            pair.deliver()
        self.successResultOf(sent[-1])

    def test_goneWhileHeldBack(self) -> None:
        """A client that goes while it is held back is no error."""
        pair = self.makePair(
            client={"receiveBuffer": 66_000}, server={"sendBuffer": 100_000}
        )
        pair.client.sendData("/nick alice")
        for _ in range(60):
            pair.client.sendData("x" * MAX_LINE)
        pair.deliver()
        pair.client.abort()
        pair.deliver()
        self.assertEqual(self.flushLoggedErrors(), [])
