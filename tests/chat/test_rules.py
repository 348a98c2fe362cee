"""
Tests for L{aesm.chat.rules}.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.chat import rules
from aesm.chat.names import looksOf
from aesm.chat.rules import MAX_LINE, Chat
from aesm.chat.text import oneLine, sizeOf
from aesm.store.interface import Rows

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
    [
        *("alice", "Bob", "bOB", "\uff42ob", "e\u0301", "a b", "", "\u202eb"),
        *("a1ice", "B0b", "\u0391\u0399", "AI", "lobby", "key"),
    ]
)
lines = st.one_of(
    nasty,
    st.binary(max_size=4),
    st.builds(
        "/{} {} {}".format,
        st.sampled_from(
            [
                *("nick", "regain", "join", "msg", "who", "whois", "leave", "help"),
                *("rooms", "ignore", "unignore", "kick", "ban"),
            ]
        ),
        st.one_of(names, nasty),
        nasty,
    ),
)
events = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.one_of(st.sampled_from(["go", "away", "back"]), st.tuples(lines)),
    ),
    max_size=30,
)
CLOSED = "closed"  # what a member is told last who is banned


class Party:
    """
    Members of a chat, and what each was told.

    @ivar chat: the chat.
    @ivar told: what each member was told since it was looked at last.
    """

    def __init__(
        self, *names: str, operators: Collection[str] = (), **options: Any
    ) -> None:
        """
        @param names: who is there, by those names, each with a key of their own.
        @param operators: the keys of those who may send others away.
        @param options: the chat's.
        """
        self.chat = Chat(**options)
        self._operators = operators
        self.told: dict[str, list[str]] = {}
        for name in names:
            self.come(name)
            self.say(name, f"/nick {name}")
        self.look(*names)

    def come(self, member: str, key: str | None = None, keyName: str = "") -> None:
        """
        Somebody connects.

        @param member: who.
        @param key: their key; None for one of their own.
        @param keyName: what it is called.
        """
        self.told[member] = []
        key = key or f"key of {member}"
        self._take(self.chat.joined(member, key, keyName))
        self.chat.mark(key, key in self._operators)

    def go(self, member: str) -> None:
        """
        Somebody is gone.

        @param member: who.
        """
        self._take(self.chat.left(member))

    def away(self, member: str) -> None:
        """Somebody is missed."""
        self._take(self.chat.away(member))

    def back(self, member: str) -> None:
        """Somebody is back."""
        self._take(self.chat.back(member))

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

    def _take(self, output: Rows) -> None:
        """
        Deliver.

        @param output: what to send whom.
        """
        for line, members in output:
            for member in members:
                self.told[member].append(CLOSED if line is None else line)


class PartyTestCase(SynchronousTestCase):
    """Members of a chat."""

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


class ChatTests(PartyTestCase):
    """The rules."""

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

    # Peace

    def test_ignore(self) -> None:
        """
        What somebody says is not sent to who ignores them, in the room, in private and
        of before, under whatever name; others get it, and nobody is told.
        """
        party = Party("alice", "bob", "carol")
        party.say("alice", "/ignore BOB")
        self.assertEqual(
            party.look("alice"), ["note: you ignore bob, whatever the name"]
        )
        party.say("bob", "/nick robert")
        party.look("alice", "bob", "carol")
        party.say("bob", "spam")
        party.say("bob", "/msg alice spam")
        self.assertEqual(party.look("alice"), [])
        self.assertEqual(
            party.look("bob", "carol"),
            [
                ["say lobby robert: spam", "tell robert alice: spam"],
                ["say lobby robert: spam"],
            ],
        )
        party.say("carol", "news")
        party.say("alice", "/join den")
        party.look("alice")
        party.say("alice", "/leave")
        old = [line for line in party.look("alice") if line.startswith("old")]
        self.assertEqual(old, ["old lobby 2023-11-14T22:13:20Z carol: news"])
        party.say("alice", "/ignore")
        self.assertEqual(party.look("alice"), ["note: you ignore bob"])
        party.say("alice", "/unignore robert")
        self.assertEqual(party.look("alice"), ["note: you ignore bob no more"])
        party.say("bob", "hello")
        self.assertEqual(party.look("alice"), ["say lobby robert: hello"])

    def test_unignoreTheGone(self) -> None:
        """Who is gone can be ignored no more by the name that they had."""
        party = Party("alice", "bob", "carol")
        party.say("alice", "/ignore carol")
        party.say("alice", "/ignore bob")
        party.go("bob")
        party.look("alice")
        party.say("alice", "/unignore Bob")
        self.assertEqual(party.look("alice"), ["note: you ignore bob no more"])
        party.say("alice", "/ignore")
        self.assertEqual(party.look("alice"), ["note: you ignore carol"])

    def test_ignoreErrors(self) -> None:
        """Nobody ignores themselves, or whom there is not."""
        party = Party("alice")
        party.say("alice", "/ignore")
        self.assertEqual(party.look("alice"), ["note: you ignore nobody"])
        for line, words in (
            ("/ignore alice", "yourself"),
            ("/ignore bob", "nobody here is called 'bob'"),
            ("/unignore bob", "do not ignore 'bob'"),
            ("/unignore", "do not ignore ''"),
        ):
            party.say("alice", line)
            self.assertError(party, "alice", words)

    def test_ignoreBound(self) -> None:
        """So many can be ignored; one of them again is no one more."""
        self.patch(rules, "MAX_IGNORED", 2)
        party = Party("alice", "bob", "carol", "dave")
        party.say("alice", "/ignore bob")
        party.say("alice", "/ignore carol")
        party.look("alice")
        party.say("alice", "/ignore dave")
        self.assertError(party, "alice", "you ignore 2, and no more")
        party.say("alice", "/ignore bob")
        self.assertEqual(
            party.look("alice"), ["note: you ignore bob, whatever the name"]
        )

    def makeModerated(self) -> Party:
        """Make a chat with an operator, one more, and two others."""
        operators = ("key of op", "key of op2")
        return Party("op", "op2", "alice", "bob", operators=operators)

    def test_onlyOperators(self) -> None:
        """Only operators send others away, and not each other."""
        party = self.makeModerated()
        for command in ("kick", "ban"):
            party.say("alice", f"/{command} bob")
            self.assertError(party, "alice", f"only operators may /{command}")
            party.say("op", f"/{command} op2")
            self.assertError(party, "op", "op2 is an operator")
            party.say("op", f"/{command} op")
            self.assertError(party, "op", "op is an operator")
            party.say("op", f"/{command} nobody")
            self.assertError(party, "op", "nobody here")
        self.assertEqual(party.look("bob"), [])

    def test_kick(self) -> None:
        """Who is kicked has no name and no room, is told why, and may come again."""
        party = self.makeModerated()
        party.say("op", "/kick ALICE  spam: no")
        told = ["leave lobby alice", "note: alice was sent away by op: spam: no"]
        self.assertEqual(party.look("op", "op2", "bob"), [told] * 3)
        self.assertEqual(
            party.look("alice"), ["error: you were sent away by op: spam: no"]
        )
        party.say("alice", "but")
        self.assertError(party, "alice", "choose a name first")
        party.say("alice", "/nick alice")
        self.assertEqual(party.look("alice")[0], "you are alice in lobby")
        party.look("op")
        party.say("op", "/kick alice")
        self.assertEqual(party.look("alice"), ["error: you were sent away by op"])

    def test_ban(self) -> None:
        """
        Who is banned is out with all connections of that key, cannot be heard while
        these end, and does not come in again.
        """
        party = self.makeModerated()
        party.come("second", "key of alice")
        party.say("second", "/nick second")
        party.come("third", "key of alice")
        party.look("op", "alice", "second", "third")
        party.say("op", "/ban second flood")
        reason = "banned by op: flood"
        heard = [
            "leave lobby second",
            f"note: second was {reason}",
            "leave lobby alice",
        ]
        self.assertEqual(party.look("op"), heard)
        told = [f"error: you were {reason}", CLOSED]
        for member in ("alice", "second", "third"):
            self.assertEqual(party.look(member)[-2:], told)
        party.look("bob")
        for line in ("I am back", "/nick alice", b""):
            party.say("alice", line)
        self.assertEqual(party.look("alice", "bob"), [[], []])
        party.go("alice")
        party.come("again", "key of alice")
        self.assertEqual(
            party.look("again"), ["error: your key is banned here", CLOSED]
        )

    def test_banAway(self) -> None:
        """Who is away when their key is banned does not come back."""
        party = self.makeModerated()
        party.come("second", "key of alice")
        party.say("second", "/nick second")
        party.away("second")
        party.say("op", "/ban alice")
        party.look("second")
        party.back("second")
        self.assertEqual(party.look("second"), [])

    def test_banBound(self) -> None:
        """So many keys can be banned."""
        self.patch(rules, "MAX_BANNED", 1)
        party = self.makeModerated()
        party.say("op", "/ban alice")
        party.look("op")
        party.say("op", "/ban bob")
        self.assertError(party, "op", "1 keys are banned, and no more")

    @settings(deadline=None)
    @given(st.one_of(lines, st.text(max_size=2000)), st.integers(2, 8))
    def test_costOfOthers(self, line: str | bytes, size: int) -> None:
        """
        What a line makes each other member be sent is no more than the line, and a few
        words.
        """
        party = Party(
            *(f"m{number}" for number in range(size)),
            *("Bob", "alice"),
            operators=("key of alice",),
        )
        party.say("m1", "/join den")
        party.look(*party.told)
        party.say("alice", line)
        length = len(line.encode("utf-8", "replace") if isinstance(line, str) else line)
        for member in party.told.keys() - {"alice"}:
            heard = party.look(member)
            self.assertLessEqual(len(heard), 2)
            # A surrogate becomes U+FFFD, of three bytes.
            self.assertLessEqual(sum(map(sizeOf, heard)), 3 * length + 200)

    @settings(deadline=None)
    @given(events)
    def test_always(self, happenings: list[tuple[int, Any]]) -> None:
        """
        Whatever members send, each line is one line of known form, goes to
        somebody who is there, and names are unique and rooms have people.
        """
        rules = Chat()
        here: set[str] = set()
        for number, happens in happenings:
            member = f"member {number}"
            if member not in here:
                # Two have one key, and two keys have names.
                key, keyName = f"K{number // 2}", "key" if number > 2 else ""
                output = rules.joined(member, key, keyName)
                rules.mark(key, key == "K0")
                here.add(member)
            elif happens == "go":
                output = rules.left(member)
                here.remove(member)
            elif happens == "away":
                output = rules.away(member)
            elif happens == "back":
                output = rules.back(member)
            else:
                output = rules.received(member, happens[0], NOW)
            for line, receivers in output:
                self.assertTrue(receivers)
                self.assertLessEqual(set(receivers), here)
                if line is None:
                    continue
                self.assertEqual(line, oneLine(line))
                self.assertEqual(len(line.splitlines()), 1)
                self.assertRegex(line, FORM)
        named = [person for person in rules._people.values() if person.name]
        looks = [look for person in named for look in looksOf(person.name)]
        self.assertEqual(len(set(looks)), len(looks))
        self.assertEqual(set(rules._named.values()), set(named))
        self.assertEqual(set(rules._named._byLook), set(looks))
        present = [person for room in rules._rooms.values() for person in room.present]
        self.assertEqual(set(present), set(named))
        self.assertEqual(len(present), len(named))
        ofKeys = [set(people) for people in rules._ofKey.values()]
        self.assertEqual(set().union(*ofKeys), here)
        self.assertNotIn(set(), ofKeys)
