"""
The chat in a terminal: keys in, and what is drawn.
"""

from __future__ import annotations

import asyncio
import re
import time
from io import StringIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from aesm import AnyServer, PrivateKey, listen
from aesm.chat.client import ChatClient
from aesm.chat.handler import ChatHandler
from aesm.chat.rules import MAX_LINE
from aesm.errors import NotAuthorized
from aesm.server.registry import Connections
from aesm.testing import MemoryNetwork
from tests.system.test_commands import PATIENCE

try:
    from prompt_toolkit.data_structures import Size
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output.color_depth import ColorDepth
    from prompt_toolkit.output.vt100 import Vt100_Output

    from aesm.chat.terminal import HINT, ChatTerminal
except ImportError:
    skip = "prompt_toolkit is not installed"

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ALICE = "[lobby] alice>"


class ChatTerminalTests(SynchronousTestCase):
    """A terminal joined to a client on a network in memory, with asyncio's loop."""

    def setUp(self) -> None:
        """Start a server, and a client with a terminal of 40 columns."""
        self.network = MemoryNetwork()
        clock: Any = self.network.clock
        listening = listen(
            clock,
            self.network.endpoint(),
            handler=ChatHandler(Connections(), self.network.clock),
            key=PrivateKey.generate(),
        )
        self.server = self.successResultOf(listening)
        self.loop = asyncio.new_event_loop()
        self.addCleanup(self.loop.close)
        self.keyboard = self.enterContext(create_pipe_input())
        self.screen = StringIO()
        self.columns = 40
        output = Vt100_Output(
            self.screen,
            lambda: Size(24, self.columns),
            default_color_depth=ColorDepth.DEPTH_8_BIT,
        )
        output.enable_cpr = False
        self.terminal = ChatTerminal(output, self.keyboard)
        self.client = self.terminal.client = ChatClient(
            clock,
            self.network.endpoint(),
            "alice",
            self.terminal,
            key=PrivateKey.generate(),
            trust=AnyServer(),
        )
        self.running: Deferred[None] = Deferred()
        self.seen = 0  # of what was drawn

        def begin() -> None:
            """Begin, within the loop."""
            Deferred.fromCoroutine(self.terminal.run()).chainDeferred(self.running)

        self.loop.call_soon(begin)
        self.addCleanup(self.end)
        self.expect(ALICE)

    def end(self) -> None:
        """Leave."""
        self.client.leave()
        self.until(lambda: self.running.called)

    def until(self, condition: Any) -> None:
        """Let the loop run until something is so."""

        async def run() -> None:
            """Take turns."""
            deadline = time.monotonic() + PATIENCE
            while not condition():
                assert time.monotonic() < deadline, self.screen.getvalue()
                self.network.deliver()
                await asyncio.sleep(0)

        self.loop.run_until_complete(run())

    def drawn(self) -> str:
        """Look at what was drawn since the last look, without control sequences."""
        text = CONTROL.sub("", self.screen.getvalue()[self.seen :])
        return text.replace("\r", "").replace("\x08", "")

    def expect(self, text: str) -> str:
        """Wait until something was drawn since the last wait."""
        self.until(lambda: text in self.drawn())
        drawn = self.drawn()
        self.seen = len(self.screen.getvalue())
        return drawn

    def keys(self, keys: str) -> None:
        """Press keys."""
        self.keyboard.send_text(keys)

    def buffer(self) -> Any:
        """Look at the line that is typed."""
        return self.terminal._session.default_buffer

    def type(self, keys: str, line: str) -> None:
        """Press keys, and wait for what the line becomes of it."""
        self.keys(keys)
        self.until(lambda: self.buffer().text == line)

    def say(self, text: str) -> None:
        """Have the server send a line."""
        self.terminal.show(self.client.view.receive(text, 0.0))  # type: ignore[arg-type]

    def assertLeft(self) -> None:
        """Wait until the client has left in order."""
        self.until(lambda: self.running.called)
        self.successResultOf(self.running)

    def test_says(self) -> None:
        """What is typed is sent with Enter, and shown when the server says it."""
        self.keys("gr\u00fc\u00dfe \u65e5\r")
        self.expect("alice: gr\u00fc\u00dfe \u65e5\n")
        self.keys("  \r/quit\r")
        self.assertLeft()
        self.assertNotIn("alice:", self.drawn())

    def test_notTorn(self) -> None:
        """A line that comes in leaves what is typed as it is."""
        self.type("half a li", "half a li")
        self.say("say lobby bob: hello")
        self.expect(f"bob: hello\n{ALICE} half a li")

    def test_colours(self) -> None:
        """People have their colours, oneself has none; others control nothing."""
        start = self.seen
        self.say("say lobby bob: hi \x1b[2J")
        self.say("say lobby alice: hi")
        self.say("tell bob alice: psst")
        drawn = self.screen.getvalue()[start:]
        self.assertIn("\x1b[0;38;5;29mbob:\x1b[0m hi \\x1b[2J", drawn)
        self.assertIn("\x1b[0;1malice:\x1b[0m hi", drawn)
        self.assertIn("\x1b[0;38;5;29mbob -> alice:\x1b[0;3m psst", drawn)

    def test_noColours(self) -> None:
        """C{NO_COLOR} is heeded."""
        terminal = self.terminal
        terminal._session.color_depth = ColorDepth.DEPTH_1_BIT
        start = self.seen
        self.say("say lobby bob: hi")
        self.say("error: no")
        self.assertNotRegex(self.screen.getvalue()[start:], r"\x1b\[[0-9;]*[34]8;")

    def test_hangs(self) -> None:
        """Long lines hang below where their text begins, in the width that there is."""
        self.say("say lobby bob: " + "word " * 8)
        self.assertIn("word word word\n" + " " * 11 + "word word", self.drawn())
        self.columns = 20
        self.seen = len(self.screen.getvalue())
        self.say("say lobby bob: " + "word " * 3)
        self.assertIn("bob: word word\n      word", self.drawn())

    def test_completesCommands(self) -> None:
        """Tab completes commands, and says what they do."""
        self.type("/ki\t", "/kick ")
        self.type("\x15/wh\t", "/who")
        self.expect("NAME: show the key of")
        self.type("\t\t", "/whois ")
        self.type("\x15/q\t", "/quit ")

    def test_completesNames(self) -> None:
        """Tab completes names: to address somebody, or in what one says."""
        self.say("join lobby Bob")
        self.type("b\t", "Bob: ")
        self.type("\x15/msg bo\t", "/msg Bob ")
        self.type("\x15x\t", "x")

    def test_history(self) -> None:
        """Lines that were sent come back."""
        self.keys("one\r")
        self.until(lambda: len(self.buffer()._working_lines) == 2)
        self.type("\x1b[A", "one")
        self.type("\x1b[B", "")

    def test_paste(self) -> None:
        """Nothing that is pasted is sent or obeyed before Enter."""
        self.type("\x1b[200~rm\r\nls\n\x03x\x1b[201~", "rm ls \ufffdx")
        self.keys("\r")
        self.expect("alice: rm ls \ufffdx\n")

    def test_tooLong(self) -> None:
        """A line that is too long is kept, and the user is told."""
        text = "\u65e5" * (MAX_LINE // 3 + 1)
        self.type(f"\x1b[200~{text}\x1b[201~", text)
        self.keys("\r")
        self.expect(f"a line has at most {MAX_LINE} bytes")
        self.assertEqual(self.buffer().text, text)
        self.type("\x7f", text[:-1])
        self.type("\r", "")

    def test_narrow(self) -> None:
        """However narrow the terminal is, there is room to type in."""
        for self.columns in (20, 8, 1):
            self.seen = len(self.screen.getvalue())
            self.say("note: a note that is long")
            self.expect(">")
        self.type("hi", "hi")

    def test_hint(self) -> None:
        """Where there is room, newcomers are told how to go on, until they do."""
        self.columns = 80
        self.terminal.changed()
        self.expect(HINT)
        self.keys("hello\r")
        drawn = self.expect("alice: hello\n")
        self.keys("again")
        self.assertNotIn(HINT, drawn + self.expect("again"))

    def test_status(self) -> None:
        """While there is no connection, the prompt says when there may be one."""
        self.network.factory, factory = None, self.network.factory
        self.network.links[0].cut()
        self.expect("[trying again in 1 s] alice>")
        self.network.factory = factory
        self.network.advance(1)
        self.expect(ALICE)

    def test_ctrlC(self) -> None:
        """Ctrl-C leaves, whatever is typed."""
        self.keys("half\x03")
        self.assertLeft()

    def test_twice(self) -> None:
        """Ctrl-C for the second time does not wait for the server."""
        self.network.links[-1].toServer.stalled = True
        self.keys("unacknowledged\r\x03")
        self.expect("leaving")
        self.keys("\x03")
        self.assertLeft()

    def test_ctrlD(self) -> None:
        """Ctrl-D removes a character, or leaves where there is none."""
        self.type("ab\x01\x04", "b")
        self.keys("\x04\x04")
        self.assertLeft()

    def test_hangup(self) -> None:
        """A terminal that is gone leaves."""
        self.keyboard.close()
        self.assertLeft()

    def test_failure(self) -> None:
        """What trying again would not mend ends it, and leaves no prompt."""
        [connection] = self.server.connections.values()
        connection.closeWith(1008, "not authorized")
        self.until(lambda: self.running.called)
        self.failureResultOf(self.running, NotAuthorized)
        self.assertFalse(self.terminal._session.app.is_running)
