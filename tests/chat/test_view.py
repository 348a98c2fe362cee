"""
The lines of the server, as they are shown, and what is kept of them.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.chat import view as chatview
from aesm.chat.view import ChatView

NOON = 1_700_049_600.0  # in UTC


class ChatViewTests(SynchronousTestCase):
    """The lines of the server, as they are shown, and what is kept of them."""

    def shown(self, view: ChatView, line: str) -> str:
        """
        Show a line, without its time.

        @param view: what takes note.
        @param line: the server's.
        """
        clock, _, text = str(view.receive(line, NOON)).partition(" ")
        self.assertRegex(clock, r"\A\d\d:\d\d\Z")
        return text

    def test_lines(self) -> None:
        """Each kind of line has a form of its own."""
        for line, shown in (
            ("say lobby alice: hi: you", "alice: hi: you"),
            ("old lobby 2023-11-15T12:00:00Z bob: hi", "bob: hi"),
            ("tell alice bob: psst", "alice -> bob: psst"),
            ("join lobby carol", "* carol has come into lobby"),
            ("leave lobby carol", "* carol has left lobby"),
            ("name carol dave", "* carol is now called dave"),
            ("you are alice in lobby", "* you are alice in lobby"),
            ("who lobby 2: alice bob", "* in lobby, 2: alice bob"),
            ("rooms 1: lobby=2", "* 1 rooms: lobby=2"),
            ("whois bob: KEY=", "* bob has the key KEY="),
            ("note: welcome", "* welcome"),
            ("error: no: never", "! no: never"),
            ("say lobby: who?", "? say lobby: who?"),
            ("", "? "),
        ):
            self.assertEqual(self.shown(ChatView(), line), shown)

    def test_kinds(self) -> None:
        """Who shows a line knows what it is, and who says it."""
        view = ChatView()
        view.receive("you are alice in lobby", NOON)
        for line, kind, speaker in (
            ("say lobby bob: hi", "said", "bob"),
            ("say lobby alice: hi", "own", "alice"),
            ("old lobby 2023-11-15T12:00:00Z alice: hi", "own", "alice"),
            ("tell bob alice: psst", "told", "bob"),
            ("tell alice bob: psst", "told", "alice"),
            ("join lobby bob", "note", ""),
            ("note: alice: hi", "note", ""),
            ("error: no", "error", ""),
            ("what is this", "note", ""),
        ):
            shown = view.receive(line, NOON)
            assert shown is not None
            self.assertEqual((shown.kind, shown.speaker), (kind, speaker), line)

    def test_greeting(self) -> None:
        """
        Nobody is asked for a name who has asked for one; what is noted once that is
        answered is shown.
        """
        view = ChatView()
        self.assertEqual(view.join("alice"), ["/nick alice"])
        self.assertIsNone(view.receive("note: choose a name", NOON))
        self.assertEqual(self.shown(view, "error: it is taken"), "! it is taken")
        self.assertEqual(self.shown(view, "note: /help NAME"), "* /help NAME")
        view.join("alice")
        self.assertIsNone(view.receive("note: choose a name", NOON))
        view.receive("you are alice in lobby", NOON)
        self.assertEqual(self.shown(view, "note: welcome"), "* welcome")

    def test_present(self) -> None:
        """The view knows who is in the room that one is in."""
        view = ChatView()
        for line in (
            "you are alice in lobby",
            "who lobby 2: alice Bob",
            "join lobby carol",
            "who other 1: dave",
            "name Bob bert",
            "leave lobby nobody",
        ):
            view.receive(line, NOON)
        self.assertEqual((view.name, view.room), ("alice", "lobby"))
        self.assertEqual(view.present, ["alice", "bert", "carol"])
        view.receive("leave lobby bert", NOON)
        self.assertEqual(view.present, ["alice", "carol"])
        view.forget()
        self.assertEqual(view.present, [])

    def test_presentBound(self) -> None:
        """A server cannot make us hold names without end."""
        self.patch(chatview, "MAX_PRESENT", 2)
        view = ChatView()
        view.receive("you are a in lobby", NOON)
        view.receive("who lobby 3: a b c", NOON)
        view.receive("join lobby d", NOON)
        self.assertEqual(view.present, ["a", "b"])

    def test_escaped(self) -> None:
        """
        A server that breaks its own rules cannot send control characters, nor
        put them into names.
        """
        view = ChatView()
        text = self.shown(view, "you are \x1b[2J in lob\nby")
        self.assertEqual(text, "* you are \\x1b[2J in lob\\nby")
        self.assertEqual((view.name, view.room), ("\\x1b[2J", "lob\\nby"))

    def test_marks(self) -> None:
        """Nor can it pile combining marks up over the lines around."""
        text = self.shown(ChatView(), "say lobby bob: a" + "\u0301" * 9)
        self.assertEqual(text, "bob: a" + "\u0301" * 4 + "\ufffd" * 5)

    def test_times(self) -> None:
        """A time that cannot be told is no error."""
        view = ChatView()
        for when in (float("inf"), 1e300, -1e300):
            self.assertEqual(str(view.receive("note: a", when)), "--:-- * a")
        self.assertEqual(str(view.receive("old r yesterday a: b", NOON)), "--:-- a: b")

    @settings(deadline=None)
    @given(st.text(max_size=60))
    def test_always(self, line: str) -> None:
        """Whatever comes, what is shown is one line of printable characters."""
        shown = str(ChatView().receive(line, NOON))
        self.assertEqual(len(shown.splitlines()), 1)
        self.assertNotIn("\x1b", shown)
