"""
The chat as processes: C{twistd aesm --handler chat}, and C{aesm chat} at a
pseudo-terminal and without one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests import ROOT
from tests.system.test_commands import (
    PATIENCE,
    Process,
    ProcessTestCase,
    environment,
    freePort,
)

EXAMPLE = Path("examples") / "chat_window.py"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class ChatTests(ProcessTestCase):
    """People who chat."""

    def chat(
        self, endpoint: str, nick: str, *arguments: str, terminal: bool = False
    ) -> Process:
        """
        Start a client, and wait until it has its name.

        @param endpoint: where to.
        @param nick: who.
        @param arguments: more that follows C{aesm chat}.
        @param terminal: whether input and output are a terminal.
        """
        client = self.start(
            *("-m", "aesm", "chat", endpoint, "--nick", nick),
            *arguments,
            terminal=terminal,
        )
        client.expect(rf"\* you are {nick} in lobby")
        return client

    def test_lines(self) -> None:
        """
        Without a terminal each line is one, and the end of the input leaves once
        the server has everything.
        """
        _, endpoint = self.serve("--handler", "chat")
        alice, bob = self.chat(endpoint, "alice"), self.chat(endpoint, "bob")
        alice.type("gr\u00fc\u00dfe, bob\n/msg bob psst\n")
        bob.expect("^\\d\\d:\\d\\d alice: gr\u00fc\u00dfe, bob\n.*alice -> bob: psst$")
        alice.end()
        self.assertEqual(alice.wait(), 0, alice.said())
        bob.expect(r"\* alice has left lobby$")
        bob.process.terminate()
        self.assertEqual(bob.wait(), 128 + 15, bob.said())

    def test_otherLocale(self) -> None:
        """Names are UTF-8, whatever the locale can write."""
        _, endpoint = self.serve("--handler", "chat")
        ascii = dict(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
        done = subprocess.run(
            [sys.executable, "-m", "aesm", "chat", endpoint, "--nick", "gr\u00fcn"],
            cwd=self.home,
            env=environment(self.home) | ascii,
            input=b"hello\n",
            capture_output=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("you are gr\u00fcn in lobby", done.stdout.decode())

    def test_byHand(self) -> None:
        """C{aesm connect} is a client, too."""
        server, endpoint = self.serve("--handler", "chat")
        hand = self.join(server, endpoint)
        hand.expect("note: choose a name: /nick NAME")
        hand.type("/nick hand\nhello\x1b[2J\n")
        hand.expect("say lobby hand: hello\ufffd\\[2J$")

    def test_terminal(self) -> None:
        """
        At a terminal what comes in does not tear what is typed, lines are edited,
        nothing of others controls the terminal, and Ctrl-D leaves.
        """
        _, endpoint = self.serve("--handler", "chat")
        alice = self.chat(endpoint, "alice", terminal=True)
        alice.expect(r"\[lobby\] alice> ")
        bob = self.chat(endpoint, "bob")
        alice.expect("bob has come into lobby\r\n")
        alice.type("half a l\u00ef")
        alice.expect("alice> half a l\u00ef")
        bob.type("hello \x1b]0;title\x07\n")
        alice.expect(
            "bob: hello \ufffd\\]0;title\ufffd\r\n\r\\[lobby\\] alice> half a l\u00ef"
        )
        alice.type("ne\x1b[H\x1b[3~\x1b[3~\x1b[3~\x1b[3~\x1b[3~one \r")
        bob.expect("alice: one a l\u00efne$")
        alice.type("\x1b[200~a\rb\x1b[201~")
        alice.expect("alice> a b")
        alice.type("\x15\x04")
        self.assertEqual(alice.wait(), 0, alice.said())
        self.assertEqual(alice.errors.count("\n"), 0, alice.said())
        bob.expect("alice has left lobby")
        controls = set(CONTROL.findall(alice.output))
        self.assertLessEqual(
            {re.sub(r"\d+C", "C", control) for control in controls},
            {"\x1b[C", "\x1b[K", "\x1b[J", "\x1b[?2004h", "\x1b[?2004l"},
        )

    def test_again(self) -> None:
        """
        A client at a terminal outlives its server, joins the next, and says there what
        was typed meanwhile; Ctrl-C ends it.
        """
        port = freePort()
        server = self.serveAt(port, "--handler", "chat")
        alice = self.chat(f"tcp:127.0.0.1:{port}", "alice", terminal=True)
        self.assertStops(server)
        alice.expect(r"! .*; trying again in ")
        alice.type("anybody?\r")
        before = len(alice.output)
        again = self.serveAt(port, "--handler", "chat")
        alice.expect(rf"(?s)\A.{{{before}}}.*\* you are alice in lobby")
        alice.expect("alice: anybody\\?")
        alice.type("\x03")
        self.assertEqual(alice.wait(), 0, alice.said())
        self.assertStops(again)

    def test_terminated(self) -> None:
        """A signal leaves in order, too, and gives the terminal back."""
        _, endpoint = self.serve("--handler", "chat")
        alice = self.chat(endpoint, "alice", terminal=True)
        bob = self.chat(endpoint, "bob")
        alice.process.terminate()
        self.assertEqual(alice.wait(), 128 + 15, alice.said())
        self.assertTrue(alice.output.endswith("\r\n\x1b[?2004l"), alice.said())
        bob.expect("alice has left lobby")

    def test_noServer(self) -> None:
        """
        Without a terminal there is one attempt; a bad endpoint or a wrong key
        ends in a sentence at a terminal, too.
        """
        _, endpoint = self.serve("--handler", "chat")
        other = "rVgGvzYkFvfbyY2qU6Bm1WzqNrZ0k3XQ4wVtJt5xH0c="
        command = ("-m", "aesm", "chat", "--nick", "alice")
        self.assertSentence(
            self.start(*command, "tcp:127.0.0.1:1"), "does the server run"
        )
        for terminal in (False, True):
            bad = self.start(*command, "what:host:1", terminal=terminal)
            self.assertSentence(bad, "no client endpoint")
            pinned = self.start(*command, endpoint, "--pin", other, terminal=terminal)
            self.assertSentence(pinned, "key")

    def test_needsNick(self) -> None:
        """There is no chat without a name."""
        nameless = self.start("-m", "aesm", "chat", "tcp:127.0.0.1:1")
        self.assertSentence(nameless, "--nick")

    def test_window(self) -> None:
        """The example with a window is a program that can be compiled."""
        source = (ROOT / EXAMPLE).read_text("utf-8")
        compile(source, str(EXAMPLE), "exec")
