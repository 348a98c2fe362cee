"""
Tests for L{aesm.chat.presence}: who is called what, and is where; told by the lines of
a whole chat.
"""

from __future__ import annotations

from aesm.chat import presence
from aesm.chat.names import MAX_NAME
from aesm.chat.presence import HISTORY_BYTES, HISTORY_LINES, KEY_NAMES, KEY_ROOMS
from aesm.chat.text import sizeOf
from tests.chat.test_rules import Party, PartyTestCase


class PresenceTests(PartyTestCase):
    """Coming, going and being called."""

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

    def test_alike(self) -> None:
        """Nobody can have a name, or make a room, that looks like another."""
        party = Party("Iain", "modern", "bob")
        party.look("Iain", "modern", "bob")
        for name, other in (("lain", "Iain"), ("modem", "modern"), ("B0B", "bob")):
            party.come(name)
            party.look(name)
            party.say(name, f"/nick {name}")
            self.assertError(party, name, f"looks like {other}, which is taken")
        party.say("bob", "/join l0bby")
        self.assertError(party, "bob", "l0bby looks like lobby, another room")
        party.go("Iain")
        party.say("lain", "/nick lain")
        self.assertEqual(party.look("lain")[0], "you are lain in lobby")

    def test_notWhoIsMeant(self) -> None:
        """Nothing goes to somebody who only looks like whom it is for."""
        party = Party("bob", "a1ice")
        party.say("bob", "/msg alice secret")
        self.assertError(party, "bob", "nobody here is called 'alice'")
        self.assertEqual(party.look("a1ice"), [])

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

    def test_regainAlike(self) -> None:
        """A name is not taken back in a form that looks like the name of another."""
        party = Party("lain")
        for member in ("old", "new"):
            party.come(member, "A")
        party.say("old", "/nick iain")
        party.look("old", "new")
        party.say("new", "/regain Iain")
        self.assertError(party, "new", "taken")
        self.assertEqual(party.look("old"), [])

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
        self.patch(presence, "MAX_ROOMS", 3)
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
        self.patch(presence, "MAX_LISTED", 2)
        party = Party("alice", "bob", "carol")
        party.say("carol", "/who")
        self.assertEqual(party.look("carol"), ["who lobby 3: alice bob"])
        party.say("alice", "/join a")
        party.say("bob", "/join b")
        party.look("carol")
        party.say("carol", "/rooms")
        self.assertEqual(party.look("carol"), ["rooms 3: lobby=1 a=1"])

    def test_namesOfKey(self) -> None:
        """So many connections of one key have names; others' names are not counted."""
        party = Party("bob")
        members = [f"m{number}" for number in range(KEY_NAMES + 1)]
        for member in members:
            party.come(member, "A")
            party.look(member)
            party.say(member, f"/nick {member}-x")
        *_, most, over = members
        self.assertEqual(party.look(most)[0], f"you are {most}-x in lobby")
        self.assertError(party, over, f"your key has {KEY_NAMES} names here")
        party.say(most, "/nick other")
        self.assertIn("you are other in lobby", party.look(most))
        party.say(over, "/regain m0-x")
        self.assertEqual(party.look(over)[0], "you are m0-x in lobby")
        party.say("m0", "/nick again")
        self.assertIn("names here", party.look("m0")[-1])
        party.go(over)
        party.say("m0", "/nick again")
        self.assertIn("you are again in lobby", party.look("m0"))

    def test_roomsOfKey(self) -> None:
        """One key makes so many rooms that are still there; it may enter others."""
        party = Party("bob")
        members = [f"m{number}" for number in range(KEY_ROOMS + 1)]
        for member in members:
            party.come(member, "A")
            party.say(member, f"/nick {member}-x")
            party.look(member)
            party.say(member, f"/join room-{member}")
        *_, most, over = members
        self.assertEqual(party.look(most)[-2], f"you are {most}-x in room-{most}")
        self.assertIn(f"has made {KEY_ROOMS} rooms", party.look(over)[-1])
        party.say(over, "/join room-m0")
        self.assertEqual(party.look(over)[0], f"you are {over}-x in room-m0")
        party.say("bob", "/join mine")
        self.assertIn("you are bob in mine", party.look("bob"))
        party.say(most, "/leave")
        party.say(over, "/join another")
        self.assertIn(f"you are {over}-x in another", party.look(over))

    def test_away(self) -> None:
        """
        Who is away has left; who comes back has name and room again, and is told what
        was said meanwhile, and nothing twice.
        """
        party = Party("alice", "bob")
        party.say("alice", "before")
        party.look("alice", "bob")
        party.away("bob")
        self.assertEqual(party.look("alice"), ["leave lobby bob"])
        party.say("alice", "meanwhile")
        party.look("alice")
        party.say("alice", "/msg bob psst")
        self.assertError(party, "alice", "nobody")
        party.back("bob")
        self.assertEqual(party.look("alice"), ["join lobby bob"])
        self.assertEqual(
            party.look("bob"),
            [
                "you are bob in lobby",
                "old lobby 2023-11-14T22:13:20Z alice: meanwhile",
                "who lobby 2: alice bob",
            ],
        )

    def test_awayRoom(self) -> None:
        """The room is made again, or the default one will do."""
        self.patch(presence, "MAX_ROOMS", 2)
        party = Party("alice", "bob")
        party.say("bob", "/join den")
        party.say("bob", "gone with the room")
        for full, where in ((False, "den"), (True, "lobby")):
            party.away("bob")
            if full:
                party.say("alice", "/join full")
            party.look("bob")
            party.back("bob")
            told = [line for line in party.look("bob") if not line.startswith("error")]
            self.assertEqual(told, [f"you are bob in {where}", f"who {where} 1: bob"])

    def test_awayName(self) -> None:
        """A name that was taken meanwhile is lost."""
        party = Party("alice")
        party.away("alice")
        party.come("bob")
        party.say("bob", "/nick al1ce")
        party.look("alice", "bob")
        party.back("alice")
        self.assertError(party, "alice", "alice looks like al1ce, which is taken")
        party.say("alice", "/nick alicia")
        self.assertEqual(party.look("alice")[0], "you are alicia in lobby")

    def test_awayNameless(self) -> None:
        """Who has no name can be away; who has taken one meanwhile keeps it."""
        party = Party("bob")
        party.come("alice")
        party.look("alice")
        for happens in (party.away, party.back, party.away):
            happens("alice")
        self.assertEqual(party.look("alice"), [])
        party.away("bob")
        party.say("bob", "/nick rob")
        party.look("bob")
        party.back("bob")
        self.assertEqual(party.look("bob"), [])

    def test_keyNames(self) -> None:
        """
        Whose key has a name has that name at once, with a number if it is taken, and
        no other.
        """
        party = Party()
        party.come("one", "A", "alice")
        self.assertEqual(
            party.look("one"),
            [
                "note: your name goes with your key; /help lists the commands",
                "you are alice in lobby",
                "who lobby 1: alice",
            ],
        )
        party.come("two", "A", "alice")
        party.come("three", "B", "ALICE")
        self.assertIn("you are alice-2 in lobby", party.look("two"))
        self.assertIn("you are ALICE-3 in lobby", party.look("three"))
        party.look("one")
        for name in ("bob", "", "alice-7", "x" * 99):
            party.say("two", f"/nick {name}")
            self.assertError(party, "two", "goes with your key: it is alice")
        party.say("two", "/nick Alice")  # as clients do when they come
        party.say("two", "/nick ALICE-2")
        self.assertEqual(party.look("two"), [])
        party.go("one")
        party.look("two")
        party.say("two", "/nick alice")
        self.assertIn("you are alice in lobby", party.look("two"))

    def test_keyNamesRegained(self) -> None:
        """The plain name can be had from another connection, which gets a number."""
        party = Party()
        for member, key in (("one", "A"), ("two", "A"), ("three", "B")):
            party.come(member, key, "alice")
        party.look("one", "two", "three")
        party.say("three", "/regain alice")
        self.assertError(party, "three", "taken")
        party.say("two", "/regain alice")
        self.assertIn("you are alice in lobby", party.look("two"))
        told = party.look("one")
        self.assertIn("error: another connection", told[0])
        self.assertIn("you are alice-2 in lobby", told)

    def test_keyNamesTidied(self) -> None:
        """What the operator calls a key becomes a name."""
        party = Party()
        for keyName, name in (
            ("ada@home#1", "ada_home_1"),
            ("x" * 64, "x" * MAX_NAME),
            ("x" * 63, "x" * (MAX_NAME - 2) + "-2"),
            ("\N{BUG}", "_"),
            ("p\u0430ul", "p\u0430ul"),
        ):
            party.come(keyName, keyName, keyName)
            self.assertIn(f"you are {name} in lobby", party.look(keyName))

    def test_keyNamesBound(self) -> None:
        """One connection more than a key may have names for has none."""
        party = Party()
        for number in range(KEY_NAMES + 1):
            party.come(str(number), "A", "alice")
        self.assertIn("names here", party.look(str(KEY_NAMES))[-1])
        party.say(str(KEY_NAMES), "hello?")
        self.assertError(party, str(KEY_NAMES), "choose a name first")
        party.go("0")
        party.say(str(KEY_NAMES), "/nick alice")
        self.assertIn("you are alice in lobby", party.look(str(KEY_NAMES)))

    def test_keyNamesAway(self) -> None:
        """Who comes back has the name of their key, or the next that is free."""
        party = Party()
        party.come("one", "A", "alice")
        party.say("one", "/join den")
        party.away("one")
        party.come("two", "A", "alice")
        self.assertIn("you are alice in lobby", party.look("two"))
        party.look("one")
        party.back("one")
        self.assertEqual(party.look("one")[0], "you are alice-2 in den")

    def test_freeNames(self) -> None:
        """Where names are free, a key's name is for /whois only."""
        party = Party(freeNames=True)
        party.come("one", "A", "alice")
        party.say("one", "/nick bob")
        party.look("one")
        party.say("one", "/whois bob")
        self.assertEqual(party.look("one"), ["whois bob: A alice"])
