"""
The chat in a terminal: keys in, and what is drawn.
"""

from __future__ import annotations

import os
import pty
import re
import termios
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm import AnyServer, PrivateKey, listen
from aesm.chat.client import ChatClient
from aesm.chat.handler import ChatHandler
from aesm.chat.screen import ChatTerminal, KeyReader, rawTerminal
from aesm.server.registry import Connections
from aesm.testing import MemoryNetwork

ERASE = re.compile(r"\x1b\[[KJ]")


class ChatTerminalTests(SynchronousTestCase):
    """A terminal joined to a client on a network in memory."""

    def setUp(self) -> None:
        """Start a server, and a client with a terminal of 40 columns."""
        self.network = MemoryNetwork()
        clock: Any = self.network.clock
        listen(
            clock,
            self.network.endpoint(),
            handler=ChatHandler(Connections(), self.network.clock),
            key=PrivateKey.generate(),
        )
        self.columns = 40
        self.terminal = ChatTerminal(lambda: self.columns)
        self.client = self.terminal.client = ChatClient(
            clock,
            self.network.endpoint(),
            "alice",
            self.terminal,
            key=PrivateKey.generate(),
            trust=AnyServer(),
        )
        self.transport = StringTransport()
        self.reader = KeyReader(self.terminal)
        self.reader.makeConnection(self.transport)
        self.running = self.client.run()
        self.addCleanup(self.network.deliver)
        self.addCleanup(self.client.leave)
        self.network.deliver()

    def drawn(self) -> str:
        """Take the last line that was drawn, without what erases."""
        text = self.transport.value().decode()
        self.transport.clear()
        return ERASE.sub("", text.split("\n")[-1]).strip("\r").split("\r")[-2]

    def shown(self) -> list[str]:
        """Take the lines that were shown above."""
        text = self.transport.value().decode()
        self.transport.clear()
        lines = text.split("\r\n")[:-1]
        return [ERASE.split(line)[-1].partition(" ")[2] for line in lines]

    def keys(self, keys: str | bytes) -> None:
        """
        Press keys.

        @param keys: as a terminal sends them.
        """
        self.reader.dataReceived(keys.encode() if isinstance(keys, str) else keys)
        self.network.deliver()

    def test_prompt(self) -> None:
        """The prompt says where one is, and who."""
        self.assertEqual(self.drawn(), "[lobby] alice> ")

    def test_says(self) -> None:
        """What is typed is sent with Enter, and shown when the server says it."""
        self.shown()
        self.keys("gr\u00fc\u00dfe \u65e5")
        self.assertEqual(self.drawn(), "[lobby] alice> gr\u00fc\u00dfe \u65e5")
        self.keys("\r")
        self.assertEqual(self.shown(), ["alice: gr\u00fc\u00dfe \u65e5"])
        self.keys(" \r\n")
        self.assertEqual(self.shown(), [])

    def test_splitCharacters(self) -> None:
        """A character may come in pieces, and what is none is replaced."""
        for byte in "\u65e5".encode():
            self.keys(bytes([byte]))
        self.keys(b"\xff!")
        self.assertEqual(self.drawn(), "[lobby] alice> \u65e5\ufffd!")

    def test_tornLine(self) -> None:
        """A line that comes in leaves what is typed as it is."""
        self.keys("half a li")
        self.transport.clear()
        self.terminal.show("bob: hello")
        text = self.transport.value().decode()
        self.assertIn("\x1b[Jbob: hello\r\n", text)
        self.assertEqual(self.drawn(), "[lobby] alice> half a li")

    def test_editing(self) -> None:
        """Keys edit the line, in either of the ways that terminals send them."""
        self.keys("one\rtwo\r")
        for keys, line in (
            ("\x1b[A", "two"),
            ("\x1bOA", "one"),
            ("\x1b[B", "two"),
            ("\x1b[H!", "!two"),
            ("\x1b[C\x1b[3~", "!to"),
            ("\x1bOF\x7f", "!t"),
            ("\x1b[D\x15", "t"),
            ("\x04", ""),
            ("\x10\x10\x0e\x17ab\x01\x06\x0b\x05\x02c", "ca"),
            ("\x1bx\x1b[5~\x1b[99~\x1bOP\x00\x1a", "ca"),
        ):
            self.keys(keys)
            self.assertEqual(self.drawn(), "[lobby] alice> " + line)

    def test_paste(self) -> None:
        """Nothing that is pasted is sent or obeyed before Enter."""
        self.shown()
        self.keys("\x1b[200~rm\r\nls\n\x03x\x1b[201~")
        self.assertEqual(self.drawn(), "[lobby] alice> rm  ls \ufffdx")
        self.keys("\r")
        self.assertEqual(self.shown(), ["alice: rm  ls \ufffdx"])

    def test_narrow(self) -> None:
        """However narrow the terminal is, the line takes one row."""
        self.keys("0123456789")
        for self.columns in (80, 22, 18, 1):
            self.terminal.changed()
            drawn = self.drawn()
            self.assertTrue(drawn.endswith("789"), drawn)
            self.assertLess(len(drawn), max(self.columns, 16))

    def test_clear(self) -> None:
        """Ctrl-L clears the screen."""
        self.keys("\x0c")
        self.assertIn("\x1b[2J", self.transport.value().decode())

    def assertLeft(self) -> None:
        """Fail unless the client has left."""
        self.network.deliver()
        self.successResultOf(self.running)

    def test_ctrlC(self) -> None:
        """Ctrl-C leaves, whatever is typed."""
        self.keys("half\x03")
        self.assertLeft()

    def test_ctrlD(self) -> None:
        """Ctrl-D leaves where nothing is typed."""
        self.keys("\x04")
        self.assertLeft()

    def test_hangup(self) -> None:
        """A terminal that is gone leaves, and is written to no more."""
        self.terminal.pauseProducing()
        waiting = self.terminal.show("a")
        assert waiting is not None
        self.transport.clear()
        self.reader.connectionLost(None)
        self.successResultOf(waiting)
        self.assertLeft()
        self.terminal.show("b")
        self.assertEqual(self.transport.value(), b"")
        self.successResultOf(self.terminal.close())

    def test_close(self) -> None:
        """
        Closing goes to a new line and lets go of the terminal, without resetting
        it; leaving is the client's affair.
        """
        self.transport.clear()
        closing = self.terminal.close()
        self.assertEqual(self.transport.value(), b"\r\n")
        self.assertTrue(self.transport.disconnecting)
        self.assertNoResult(closing)
        self.reader.connectionLost(None)
        self.successResultOf(closing)
        self.assertNoResult(self.running)

    def test_producer(self) -> None:
        """A terminal that takes nothing holds back what comes in."""
        verifyObject(IPushProducer, self.terminal)
        self.assertIs(self.transport.producer, self.terminal)
        self.assertIsNone(self.terminal.show("a"))
        self.terminal.pauseProducing()
        waiting = self.terminal.show("b")
        assert isinstance(waiting, Deferred)
        self.assertNoResult(waiting)
        self.terminal.resumeProducing()
        self.successResultOf(waiting)
        self.terminal.resumeProducing()
        self.terminal.stopProducing()


class RawTerminalTests(SynchronousTestCase):
    """What becomes of the terminal's settings."""

    def setUp(self) -> None:
        """Open a pseudo-terminal."""
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)

    def test_restored(self) -> None:
        """Settings are as they were afterwards, also after an error."""
        before = termios.tcgetattr(self.slave)
        with self.assertRaises(KeyError), rawTerminal(self.slave):
            self.assertFalse(termios.tcgetattr(self.slave)[3] & termios.ICANON)
            # What was written must be read before it counts as drained.
            self.assertEqual(os.read(self.master, 100), b"\x1b[?2004h")
            raise KeyError
        self.assertEqual(os.read(self.master, 100), b"\x1b[?2004l")
        self.assertEqual(termios.tcgetattr(self.slave), before)
        self.assertTrue(os.get_blocking(self.slave))
        os.close(self.slave)

    def test_gone(self) -> None:
        """A terminal that hangs up meanwhile is no error."""
        master, slave = pty.openpty()
        with rawTerminal(slave):
            os.close(master)
        os.close(slave)
        os.close(self.slave)
