"""
The chat in a window, on a display that nobody sees.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm import AnyServer, PrivateKey, listen
from aesm.chat.client import ChatClient
from aesm.chat.handler import ChatHandler
from aesm.chat.rules import MAX_LINE
from aesm.errors import NotAuthorized
from aesm.server.registry import Connections
from aesm.testing import MemoryNetwork
from tests.support.display import XVFB, display

try:
    from aesm.chat import window as chatwindow
    from aesm.chat.window import LOOK, MAX_LINES, ChatWindow, desktopIsDark
except ImportError:
    skip = "this Python has no tkinter"


class DesktopTests(SynchronousTestCase):
    """What the desktop says of light and dark."""

    def ask(self, *command: str, **more: str) -> bool:
        """Ask, by a command of ours."""
        with (
            mock.patch.object(chatwindow, "_ASK", command),
            mock.patch.dict(os.environ, more),
        ):
            return desktopIsDark()

    def test_dark(self) -> None:
        """The desktop says so, or something else, or nothing, or is none."""
        bus = {chatwindow.BUS: "unix:path=/nobody"}
        self.assertTrue(self.ask("echo", "(<<uint32 1>>,)", **bus))
        self.assertFalse(self.ask("echo", "(<<uint32 2>>,)", **bus))
        self.assertFalse(self.ask("false", **bus))
        self.assertFalse(self.ask("/no/such/command", **bus))
        with mock.patch.dict(os.environ):
            os.environ.pop(chatwindow.BUS, None)
            self.assertFalse(self.ask("echo", "(<<uint32 1>>,)"))

    def test_noDisplay(self) -> None:
        """Where there is no display, there is an error of one line."""
        with mock.patch.dict(os.environ), self.assertRaises(ValueError) as caught:
            os.environ.pop("DISPLAY", None)
            ChatWindow(None, False)
        self.assertRegex(str(caught.exception), r"\Ano window: no display .*\Z")


class ChatWindowTests(SynchronousTestCase):
    """A window joined to a client on a network in memory."""

    if XVFB is None:
        skip = "there is no Xvfb on the path"

    def setUp(self) -> None:
        """Start a server, and a client with a window."""
        self.network = MemoryNetwork()
        self.clock: Any = self.network.clock
        listening = listen(
            self.clock,
            self.network.endpoint(),
            handler=ChatHandler(Connections(), self.clock),
            key=PrivateKey.generate(),
        )
        self.server = self.successResultOf(listening)
        self.enterContext(mock.patch.dict(os.environ, DISPLAY=display()))
        self.window, self.running = self.open()
        self.client = self.window.client

    def open(self, dark: bool = False) -> tuple[ChatWindow, Deferred[None]]:
        """Open a window, and wait until it shows the chat."""
        window = ChatWindow(self.clock, dark)
        window.client = ChatClient(
            self.clock,
            self.network.endpoint(),
            "alice",
            window,
            key=PrivateKey.generate(),
            trust=AnyServer(),
        )
        running = Deferred.fromCoroutine(window.run())
        self.addCleanup(self.end, running)
        self.network.deliver()
        return window, running

    def end(self, running: Deferred[None]) -> None:
        """Have a window closed, whatever it shows."""
        running.addErrback(lambda failure: failure.trap(CancelledError))
        running.cancel()
        self.network.deliver()
        self.assertTrue(running.called)

    def press(self, widget: Any, *keys: str) -> None:
        """Press keys in a part of the window."""
        widget.focus_force()
        self.network.advance(LOOK)
        for key in keys:
            widget.event_generate(key)
            self.network.advance(LOOK)

    def write(self, text: str) -> None:
        """Write into the line, and press Enter."""
        self.window._entry.insert("end", text)
        self.press(self.window._entry, "<Return>")

    def shown(self) -> list[str]:
        """Look at what was said, without the time."""
        lines = self.window._transcript.get("1.0", "end").splitlines()
        return [line.partition("\t")[2] for line in lines]

    def say(self, text: str) -> None:
        """Have the server say something."""
        line = self.client.view.receive(text, 0.0)
        assert line is not None
        self.window.show(line)
        self.window.changed()

    def tags(self, text: str) -> set[str]:
        """Find out how a text of the transcript is shown."""
        transcript = self.window._transcript
        return set(transcript.tag_names(transcript.search(text, "1.0")))

    def test_comes(self) -> None:
        """The window says who one is and where, who is here, and how it is."""
        self.assertEqual(self.window._title.cget("text"), "alice in lobby")
        self.assertEqual(self.window._root.title(), "alice in lobby - aesm chat")
        self.assertEqual(str(self.window._status.cget("text")), "connected")
        self.assertEqual(self.window._present.get(0, "end"), ("alice",))
        self.assertEqual(
            self.shown(), ["* you are alice in lobby", "* in lobby, 1: alice"]
        )

    def test_says(self) -> None:
        """Enter, or the button, sends what is written."""
        self.write("hello")
        self.assertEqual(self.shown()[-1], "alice: hello")
        self.window._entry.insert("end", "again")
        self.window._send.invoke()
        self.network.deliver()
        self.assertEqual(self.shown()[-1], "alice: again")
        self.assertEqual(self.window._entry.get(), "")

    def test_looks(self) -> None:
        """Everybody has a colour; what is private, and what is wrong, looks so."""
        self.say("say lobby bob: hello")
        self.say("say lobby alice: hi")
        self.say("tell bob alice: psst")
        self.say("error: no")
        self.assertEqual(self.tags("bob:"), {"line", "#027048"})
        self.assertEqual(self.tags("hello"), {"line", "said text"})
        self.assertEqual(self.tags("alice: hi"), {"line", "own"})
        self.assertEqual(self.tags("psst"), {"line", "told text"})
        self.assertEqual(self.tags("no"), {"line", "error text"})
        self.assertEqual(self.tags("you are"), {"line", "note text"})

    def test_present(self) -> None:
        """Who is here has a colour, too."""
        self.say("join lobby bob")
        present = self.window._present
        self.assertEqual(present.get(0, "end"), ("alice", "bob"))
        self.assertEqual(present.itemcget(1, "foreground"), "#027048")
        self.assertEqual(self.window._here.cget("text"), "Here: 2")

    def test_hostile(self) -> None:
        """Whatever is said is one line of it."""
        self.say("say lobby bob: a\n00:00\tcarol: b\x1b[2J")
        self.assertEqual(self.shown()[-1], "bob: a\\n00:00\\tcarol: b\\x1b[2J")

    def test_bound(self) -> None:
        """The transcript keeps its last lines only."""
        self.patch(chatwindow, "MAX_LINES", 5)
        for number in range(9):
            self.say(f"note: {number}")
        self.assertEqual(self.shown(), [f"* {number}" for number in range(4, 9)])
        self.assertEqual(MAX_LINES, 2000)

    def test_follows(self) -> None:
        """The last line is in sight, unless somebody has scrolled up."""
        transcript, entry = self.window._transcript, self.window._entry
        for number in range(60):
            self.say(f"note: {number}")
        self.network.advance(LOOK)
        self.assertEqual(transcript.yview()[1], 1.0)
        self.press(entry, "<Prior>")
        top = transcript.yview()[0]
        self.assertLess(top, 1.0)
        self.assertLess(transcript.yview()[1], 1.0)
        self.say("note: more")
        self.assertLess(transcript.yview()[1], 1.0)
        self.press(entry, "<Next>", "<Next>")
        self.assertEqual(transcript.yview()[1], 1.0)

    def test_tooLong(self) -> None:
        """A line that is too long is kept, and the user is told."""
        text = "x" * (MAX_LINE + 1)
        self.write(text)
        self.assertEqual(self.shown()[-1], f"! a line has at most {MAX_LINE} bytes")
        self.assertEqual(self.window._entry.get(), text)
        self.press(self.window._entry, "<Escape>")
        self.assertEqual(self.window._entry.get(), "")

    def test_size(self) -> None:
        """Ctrl and a sign make all that is written larger or smaller, in bounds."""
        root, base = self.window._root, self.window._fonts[1]
        usual = base.cget("size")
        self.press(root, "<Control-plus>", "<Control-plus>")
        self.assertEqual({f.cget("size") for f in self.window._fonts}, {usual + 2})
        self.press(root, "<Control-minus>")
        self.assertEqual(base.cget("size"), usual + 1)
        for _ in range(60):
            self.press(root, "<Control-minus>")
        self.assertEqual(base.cget("size"), chatwindow.SMALLEST)
        self.press(root, "<Control-0>")
        self.assertEqual(base.cget("size"), usual)

    def test_tabOrder(self) -> None:
        """Tab goes from the line to the button, to what was said, and back."""
        order: list[Any] = [self.window._entry]
        while (widget := order[-1].tk_focusNext()) not in order:
            order.append(widget)
        window = self.window
        self.assertEqual(order[1], window._send)
        self.assertIn(window._transcript, order)
        self.assertNotIn(window._present, order)
        self.press(window._send, "<Alt-m>")
        self.assertEqual(window._root.focus_get(), window._entry)

    def test_status(self) -> None:
        """While there is no connection, the window says when there may be one."""
        self.network.factory, factory = None, self.network.factory
        self.network.links[0].cut()
        self.network.deliver()
        self.assertEqual(self.window._status.cget("text"), "trying again in 1 s")
        self.network.factory = factory
        self.network.advance(1)
        self.assertEqual(self.window._status.cget("text"), "connected")
        self.assertEqual(self.shown()[-1], "* connected again")

    def test_dark(self) -> None:
        """There is a dark one."""
        self.assertEqual(self.window._transcript.cget("background"), "#ffffff")
        window, _ = self.open(dark=True)
        self.assertEqual(window._transcript.cget("background"), "#1b1c20")

    def test_closes(self) -> None:
        """Closing it leaves in order; the second time without waiting."""
        self.network.links[-1].toServer.stalled = True
        self.write("unacknowledged")
        self.window._close()
        self.network.deliver()
        self.assertNoResult(self.running)
        self.assertEqual(self.window._status.cget("text"), "leaving")
        self.window._close()
        self.network.deliver()
        self.successResultOf(self.running)
        self.assertFalse(self.window._looking.running)

    def test_failure(self) -> None:
        """What trying again would not mend stays in sight until it is closed."""
        [connection] = self.server.connections.values()
        connection.closeWith(1008, "not authorized")
        self.network.deliver()
        self.assertNoResult(self.running)
        self.assertIn("not authorized", self.shown()[-1])
        self.window._close()
        self.failureResultOf(self.running, NotAuthorized)
