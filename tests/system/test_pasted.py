"""
The commands and programs of the README and of C{docs}, each document from its top to
its bottom, as somebody runs it who pastes one block after the other.

  - A block of C{sh} is run as it stands.
  - A block of C{python} is saved if the paragraph before it names a file, as in "save
    this as `client.py`"; else it is run at once.
  - C{```sh fragment} and C{```python fragment} are parts of something, or need what a
    test does not have (root, a network); they are not run.

Commands are those of the interpreter that runs the tests.  A server keeps running, as
in a terminal of its own, until another one wants its port: then the text in between
has to say Ctrl-C.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from tests import ROOT
from tests.system.test_commands import PATIENCE, environment, freePort

# What each test replaces in all blocks: ports, and how the commands were installed.
# Servers listen on loopback only.
PORTS = ("8765", "8766", "8767")
INSTALLED = {
    "python3 -m venv .venv": "true",
    ".venv/bin/pip install .": "true",
}

OTHERS = ("jq",)  # programs that a machine need not have
COMMANDS = {
    "python": "",
    "aesm": " -c 'from aesm.commands.cli import main; main()'",
    "twist": " -c 'from twisted.application.twist._twist import Twist; Twist.main()'",
    "twistd": " -c 'from twisted.scripts.twistd import run; run()'",
}

_BLOCK = re.compile(r"^```(\w+)( fragment)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```(.*)$", re.MULTILINE)
_EVERYWHERE = re.compile(r"(--listen tcp:\d+)(?= )")
_NAMED = re.compile(r"`(\w+\.(?:py|tac))`")
_SERVER = re.compile(r"\btwistd? -n|\baesm serve|\bpython \w*server\.py")


class Block(NamedTuple):
    """
    A block of a document.

    @ivar before: the text between the former block and this one.
    """

    language: str
    isFragment: bool
    text: str
    before: str


def blocks(path: Path) -> Iterator[Block]:
    """Take the blocks out of a document, in order."""
    text = path.read_text("utf-8")
    end = 0
    for found in _BLOCK.finditer(text):
        language, fragment, body = found.groups()
        yield Block(language, fragment is not None, body, text[end : found.start()])
        end = found.end()


class PastedTestCase(SynchronousTestCase):
    """A folder with the commands in C{.venv/bin}, and servers that run."""

    def setUp(self) -> None:
        """Make the folder."""
        self.home = Path(self.mktemp()).absolute()
        programs = self.home / ".venv" / "bin"
        programs.mkdir(mode=0o700, parents=True)
        for name, arguments in COMMANDS.items():
            script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n'
            (programs / name).write_text(script)
            (programs / name).chmod(0o700)
        self.environment = environment(self.home)
        # The path of a socket has at most some hundred bytes.
        state = tempfile.TemporaryDirectory()
        self.addCleanup(state.cleanup)
        self.environment["AESM_HOME"] = state.name
        self.environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.ports = {port: str(freePort()) for port in PORTS}
        self.servers: dict[str, tuple[Popen[bytes], Path]] = {}
        self.said = self.before = ""

    def paste(self, path: Path) -> None:
        """Do all that a document shows."""
        for block in blocks(path):
            self.before += block.before
            if block.isFragment or block.language not in ("sh", "python"):
                continue
            text = self.replaced(block.text)
            paragraph = block.before.strip().rpartition("\n\n")[2]
            names = _NAMED.findall(paragraph)
            if block.language == "python":
                (self.home / (names[-1] if names else "program.py")).write_text(text)
                if not names:
                    self.run_("python program.py")
            elif block.text.split()[0] not in OTHERS or shutil.which(text.split()[0]):
                self.command(text)
        for port in [*self.servers]:
            self.interrupt(port)

    def replaced(self, text: str) -> str:
        """Put in what is different in a test."""
        for old, new in (INSTALLED | self.ports).items():
            text = text.replace(old, new)
        return _EVERYWHERE.sub(r"\1:interface=127.0.0.1", text)

    def command(self, text: str) -> None:
        """Run the lines of a block: those that start a server beside the others."""
        pending = ""
        for line in text.splitlines(keepends=True):
            if not _SERVER.search(line):
                pending += line
                continue
            if pending.strip():
                self.run_(pending)
            pending = ""
            self.serve(line)
        if pending.strip():
            self.run_(pending)

    def started(self, text: str, log: Path) -> Popen[bytes]:
        """
        Start a shell that becomes a command, or runs several; it reads nothing.

        @param log: where what it says goes.
        """
        with log.open("wb") as output:
            process = Popen(
                ["/bin/sh", "-ec", text],
                cwd=self.home,
                env=self.environment,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                start_new_session=True,
            )
        self.addCleanup(self.killed, process)
        return process

    def killed(self, process: Popen[bytes]) -> None:
        """End what a test has left behind."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run_(self, text: str) -> None:
        """Run commands, which have to end without an error."""
        log = self.home / "command.log"
        status = self.ended(self.started(text, log))
        said = log.read_text("utf-8", "replace")
        self.assertEqual(status, 0, f"{text}{said}")
        self.assertNotIn("Traceback", said, text)
        self.said += said

    def ended(self, process: Popen[bytes]) -> int | None:
        """
        Wait for a command's end.

        @return: its status; None if it goes on for ever.
        """
        try:
            return process.wait(PATIENCE)
        except TimeoutExpired:
            return None

    def serve(self, line: str) -> None:
        """
        Start a server, and wait until it listens.

        @param line: the command, with the port in it, or in the program that it names.
        """
        text = line + "".join(
            (self.home / name).read_text()
            for name in re.findall(r"\w+\.(?:py|tac)", line)
            if (self.home / name).exists()
        )
        port = next((p for p in self.ports.values() if p in text), self.ports["8765"])
        if port in self.servers:
            self.assertIn("Ctrl-C", self.before, f"a server runs already: {line}")
            self.interrupt(port)
        self.before = ""
        log = self.home / f"server{port}.log"
        if "--listen" not in line and re.search("twistd -n aesm|aesm serve", line):
            line = f"{line.rstrip()} --listen tcp:{port}:interface=127.0.0.1"
        process = self.started(line, log)
        self.servers[port] = process, log
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            # Not that the port is there, but that somebody answers at it, or hangs up:
            # before its event loop runs, a server takes no Ctrl-C.
            try:
                with socket.create_connection(("127.0.0.1", int(port)), 1) as asking:
                    asking.settimeout(PATIENCE)
                    asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    asking.recv(1)
            except ConnectionResetError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.fail(f"does not listen: {line}\n{log.read_text()}")

    def interrupt(self, port: str) -> None:
        """Press Ctrl-C in a server's terminal, which ends it in order."""
        process, log = self.servers.pop(port)
        os.killpg(process.pid, signal.SIGINT)  # to the shell, too, as a terminal does
        status = self.ended(process)
        said = log.read_text("utf-8", "replace")
        self.assertIn(status, (0, -signal.SIGINT), said)
        self.assertNotIn("Traceback", said)
        self.said += said


class PastedTests(PastedTestCase):
    """Each document."""

    def test_readme(self) -> None:
        """
        The server of the first command still runs when the programs below it do, and
        all have printed what they are about.
        """
        self.paste(ROOT / "README.md")
        self.assertIn("you said 'hello'\n", self.said)
        self.assertRegex(self.said, r"(?m)^here is \('127\.0\.0\.1', \d+\) \S{44}$")
        self.assertRegex(self.said, r"(?m)^gone is .*code 1000")
        self.assertRegex(self.said, r"(?m)^\(\('127.*'text or bytes'")

    def test_chat(self) -> None:
        """C{docs/chat.md}."""
        self.paste(ROOT / "docs" / "chat.md")

    def test_conformance(self) -> None:
        """C{docs/conformance.md}, which lists more than two hundred checks."""
        self.paste(ROOT / "docs" / "conformance.md")
        self.assertGreater(len(re.findall(r"(?m) R-\d+\.\d+ ", self.said)), 200)

    def test_guide(self) -> None:
        """C{docs/guide.md}."""
        self.paste(ROOT / "docs" / "guide.md")
        self.assertIn("2.50\n404 no such thing\n", self.said)

    def test_operating(self) -> None:
        """C{docs/operating.md}."""
        self.paste(ROOT / "docs" / "operating.md")

    def test_sessions(self) -> None:
        """C{docs/sessions.md}."""
        self.paste(ROOT / "docs" / "sessions.md")

    def test_streams(self) -> None:
        """C{docs/streams.md}."""
        self.paste(ROOT / "docs" / "streams.md")

    def test_testing(self) -> None:
        """C{docs/testing.md}."""
        self.paste(ROOT / "docs" / "testing.md")

    def test_tutorial(self) -> None:
        """C{docs/tutorial.md}, whose first requests are answered in each face."""
        self.paste(ROOT / "docs" / "tutorial.md")
        self.assertEqual(self.said.count("HELLO\n"), 3)

    def test_all(self) -> None:
        """No document is left out."""
        shown = {
            path.stem
            for path in (ROOT / "docs").glob("*.md")
            for block in blocks(path)
            if block.language in ("sh", "python") and not block.isFragment
        }
        tested = {name.removeprefix("test_") for name in dir(self)}
        self.assertEqual(shown - tested, set())

    def test_fragments(self) -> None:
        """
        What is not run can be read by Python all the same, and every block says what
        it is in.
        """
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            marks = _FENCE.findall(path.read_text("utf-8"))
            self.assertEqual([m for m in marks[::2] if not m], [], path.name)
            for block in blocks(path):
                if block.language == "python":
                    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
                    compile(block.text, path.name, "exec", flags)
