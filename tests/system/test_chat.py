"""
The chat as processes: C{twistd aesm --handler chat}, and C{aesm chat} at a
pseudo-terminal, in a window and without either.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from unittest import mock

from twisted.trial.unittest import SkipTest

from tests.support.display import XVFB, startDisplay
from tests.system.test_commands import (
    PATIENCE,
    Process,
    ProcessTestCase,
    environment,
    freePort,
)

CONTROL = r"(?:\x1b\[[0-9;?]*[A-Za-z])"
MAIN = "from aesm.commands.cli import main; sys.exit(main())"
# Starts the chat from a shell that the terminal controls, and goes on after Ctrl-Z.
SHELL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.dup2(1, 2)
script = '"$0" -m aesm chat "$1" --nick alice; echo it is stopped; stty -a;'
script += 'echo it goes on; fg >/dev/null; echo status $?'
os.execvp("bash", ["bash", "-m", "-c", script, sys.executable, sys.argv[1]])
"""


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

    def terminal(self, endpoint: str, nick: str) -> Process:
        """Start a client at a terminal, and wait for its prompt."""
        self.needsPrompts()
        client = self.chat(endpoint, nick, terminal=True)
        self.expectPrompt(client, nick)
        return client

    def needsPrompts(self) -> None:
        """Skip a test where there is nothing that draws a prompt."""
        if find_spec("prompt_toolkit") is None:
            raise SkipTest("prompt_toolkit is not installed")
        self.enterContext(mock.patch.dict(os.environ, TERM="xterm"))

    def expectPrompt(self, client: Process, nick: str) -> None:
        """Wait for a prompt, whatever moves and colours are in it."""
        client.expect(rf"\[lobby\] {CONTROL}*{nick}{CONTROL}*>")

    def test_terminal(self) -> None:
        """
        At a terminal what comes in does not tear what is typed, lines are edited,
        nothing of others controls the terminal, and Ctrl-D leaves.
        """
        _, endpoint = self.serve("--handler", "chat")
        alice = self.terminal(endpoint, "alice")
        bob = self.chat(endpoint, "bob")
        alice.expect("bob has come into lobby\r\r\n")
        self.assertNotIn("choose a name", alice.output + bob.output)
        alice.type("half a l\u00ef")
        alice.expect("half a l\u00ef")
        bob.type("hello \x1b]0;title\x07\n")
        alice.expect("hello \ufffd\\]0;title\ufffd\r\r\n[^\n]*half a l\u00ef")
        alice.type("ne\x1b[H" + "\x1b[3~" * 5 + "one \r")
        bob.expect("alice: one a l\u00efne$")
        alice.type("\x1b[200~a\rb\x1b[201~\r")
        bob.expect("alice: a b$")
        alice.type("/who\t\x15\x04")
        self.assertEqual(alice.wait(), 0, alice.said())
        self.assertEqual(alice.errors, "")
        bob.expect("alice has left lobby")

    def test_again(self) -> None:
        """
        A client at a terminal outlives its server, joins the next, and says there what
        was typed meanwhile; Ctrl-C ends it.
        """
        port = freePort()
        server = self.serveAt(port, "--handler", "chat")
        alice = self.terminal(f"tcp:127.0.0.1:{port}", "alice")
        self.assertStops(server)
        alice.expect("trying again in ")
        alice.type("anybody?\r")
        before = len(alice.output)
        again = self.serveAt(port, "--handler", "chat")
        alice.expect(rf"(?s)\A.{{{before}}}.*\* you are alice in lobby")
        alice.expect("anybody\\?\r\r\n")
        alice.type("\x03")
        self.assertEqual(alice.wait(), 0, alice.said())
        self.assertStops(again)

    def test_terminated(self) -> None:
        """A signal leaves in order, too, and gives the terminal back."""
        _, endpoint = self.serve("--handler", "chat")
        alice = self.terminal(endpoint, "alice")
        bob = self.chat(endpoint, "bob")
        alice.process.terminate()
        self.assertEqual(alice.wait(), 128 + 15, alice.said())
        # What was being written above the line may come behind it.
        begun, ended = map(alice.output.rfind, ("\x1b[?2004h", "\x1b[?2004l"))
        self.assertLess(begun, ended, alice.said())
        bob.expect("alice has left lobby")

    def test_suspended(self) -> None:
        """
        Ctrl-Z gives the terminal back to the shell as it was; when that lets it go on
        it draws its prompt again, and long lines as wide as the terminal is by then.
        """
        self.needsPrompts()
        _, endpoint = self.serve("--handler", "chat")
        shell = self.start("-c", SHELL, endpoint, terminal=True)
        self.expectPrompt(shell, "alice")
        shell.type("\x1a")
        shell.expect(r"(?s)it is stopped.*\s(icanon|-icanon).*it goes on")
        self.assertIn(" icanon", shell.output)
        shell.type("hello\r")
        shell.expect("alice:[^\r]*hello\r\r\n")
        shell.resize(24, 40)
        shell.type("word " * 9 + "\r")
        shell.expect("(word ?){5}\r\r\n {13}word")
        shell.type("\x04")
        shell.expect("status 0")
        self.assertEqual(shell.wait(), 0, shell.said())

    def test_plain(self) -> None:
        """
        A terminal that cannot move its cursor, or for which there is no
        prompt_toolkit, has lines, without a control sequence.
        """
        _, endpoint = self.serve("--handler", "chat")
        missing = "sys.modules['prompt_toolkit'] = None"
        for term, more in (("dumb", ""), ("xterm", missing)):
            program = f"import os, sys; os.environ['TERM'] = '{term}'; {more}\n{MAIN}"
            arguments = ("chat", endpoint, "--nick", "alice")
            alice = self.start("-c", program, *arguments, terminal=True)
            alice.expect("\\* you are alice in lobby\r$")
            alice.type("hello\n")
            alice.expect("alice: hello\r$")
            alice.type("\x04")
            self.assertEqual(alice.wait(), 0, alice.said())
            self.assertNotIn("\x1b", alice.output)
            self.assertEqual("aesm[tools]" in alice.errors, term == "xterm")

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

    def test_noWindow(self) -> None:
        """Where there can be no window, there is a sentence."""
        command = ("chat", "tcp:127.0.0.1:1", "--nick", "alice", "--window")
        hide = "import os, sys; os.environ.pop('DISPLAY', None)"
        for more, why in (
            ("sys.modules['tkinter'] = None", "tkinter"),
            ("", "no display" if find_spec("_tkinter") else "tkinter"),
        ):
            bare = self.start("-c", f"{hide}; {more}\n{MAIN}", *command)
            self.assertSentence(bare, "no window", why)
        dark = self.start("-m", "aesm", *command[:-1], "--dark")
        self.assertSentence(dark, "--window")

    def test_window(self) -> None:
        """A window is in the chat until a signal ends it, in order."""
        if XVFB is None or find_spec("_tkinter") is None:
            raise SkipTest("there is no Xvfb on the path, or no tkinter")
        _, endpoint = self.serve("--handler", "chat")
        bob = self.chat(endpoint, "bob")
        name, process = startDisplay()
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        with mock.patch.dict(os.environ, DISPLAY=name):
            alice = self.start(
                *("-m", "aesm", "chat", endpoint, "--nick", "alice", "--window")
            )
        bob.expect("alice has come into lobby")
        alice.process.terminate()
        self.assertEqual(alice.wait(), 128 + 15, alice.said())
        self.assertEqual(alice.errors, "")
        bob.expect("alice has left lobby")
