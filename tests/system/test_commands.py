"""
C{twistd aesm} and C{aesm connect} as processes, as an operator runs them.

Nothing here sleeps: each step waits for the output that it is about, two minutes at
the most, since machines differ and may have other things to do.  A process that has
been started need not listen, or heed signals: L{ProcessTestCase.serve} and
L{ProcessTestCase.serveAt} wait until it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import resource
import selectors
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import aesm
from aesm.trust.keys import PSK, PrivateKey

PATIENCE = 600.0  # seconds; more than any machine needs
TWISTD = "from twisted.scripts.twistd import run; run()"
KEY = "[A-Za-z0-9+/]{43}="
AT = r"\d\d:\d\d:\d\d"  # a local time
RUNS = r"aesm connect (\S+) "  # what a server says once it heeds signals, too

CLOSED = "os.execv(sys.executable, [sys.executable, '-m', 'aesm', 'nosuch'])"

# Below what systems give to those who ask for any port (RFC 6335 has 49152 and up,
# Linux 32768 and up), among them all outgoing connections.
FREE_PORTS = range(15000, 32000)


def freePort() -> int:
    """
    Find a port for servers that come and go: nothing listens on it, and nobody is
    given it while there is no server.
    """
    while True:
        port = random.choice(FREE_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def environment(home: Path) -> dict[str, str]:
    """
    Make the environment of a process that finds the same C{aesm}.

    @param home: its working directory, with the state directory in it.
    """
    source = str(Path(aesm.__file__).parent.parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source, *filter(None, sys.path)]),
        "AESM_HOME": str(home / "state"),
        # Its coverage is not measured, which takes as long as all else that it does to
        # start; there are hundreds, and what they run has tests in memory.
        "COVERAGE_PROCESS_CONFIG": "",
    }


class Process:
    """
    A process, what it has said so far, and what it is told.

    @ivar output: what it has written to standard output.
    @ivar errors: what it has written to standard error.
    """

    def __init__(
        self, arguments: Sequence[str], home: Path, terminal: bool = False
    ) -> None:
        """
        Start it.

        @param arguments: what follows C{python}.
        @param home: its working and state directory.
        @param terminal: whether input and output are a terminal.
        """
        self._theirs = self._ours = None
        if terminal:
            self._ours, self._theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=home,
            env=environment(home),
            stdin=self._theirs or subprocess.PIPE,
            stdout=self._theirs or subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.output = self.errors = ""
        self._selector = selectors.DefaultSelector()
        stdout, stderr = self.process.stdout, self.process.stderr
        assert stderr is not None
        self._selector.register(self._ours or stdout or 0, 1, "output")
        self._selector.register(stderr, 1, "errors")
        if self._theirs is not None:
            os.close(self._theirs)

    def type(self, text: str | bytes) -> None:
        """
        Write to its standard input.

        @param text: what to write.
        """
        data = text if isinstance(text, bytes) else text.encode()
        os.write(self._input(), data)

    def resize(self, rows: int, columns: int) -> None:
        """Make its terminal another size."""
        assert self._ours is not None
        termios.tcsetwinsize(self._ours, (rows, columns))

    def end(self) -> None:
        """End its standard input."""
        if self._ours is not None:
            self.type("\x04")
        elif self.process.stdin is not None:
            self.process.stdin.close()

    def expect(self, pattern: str, stream: str = "output") -> re.Match[str]:
        """
        Wait until it has said something.

        @param pattern: a regular expression.
        @param stream: C{"output"} or C{"errors"}.
        @return: the match.
        @raise AssertionError: it did not say that in time, or before its end.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            match = re.search(pattern, getattr(self, stream), re.MULTILINE)
            if match is not None:
                return match
            if not self._read(deadline):
                raise AssertionError(f"no {pattern!r} in: {self.said()}")

    def wait(self) -> int:
        """
        Wait for its end.

        @return: its exit status, negative for a signal.
        """
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def said(self) -> str:
        """Show everything that it has said."""
        return f"{self.output}\n-- standard error:\n{self.errors}"

    def close(self) -> None:
        """End it if it has not, and close its files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for file in (self.process.stdin, self.process.stdout, self.process.stderr):
            if file is not None:
                file.close()
        if self._ours is not None:
            os.close(self._ours)

    def _input(self) -> int:
        """Find the file to write to."""
        if self._ours is not None:
            return self._ours
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    def _read(self, deadline: float) -> bool:
        """
        Read what there is, or wait for some.

        @param deadline: until when.
        @return: False at the deadline, or if there will be no more.
        """
        if not self._selector.get_map():
            return False
        ready = self._selector.select(max(0.0, deadline - time.monotonic()))
        for key, _ in ready:
            try:
                data = os.read(key.fd, 65536)
            except OSError:  # the other end of a terminal was closed
                data = b""
            if not data:
                self._selector.unregister(key.fileobj)
            said = getattr(self, key.data) + data.decode("utf-8", "replace")
            setattr(self, key.data, said)
        return bool(ready)


class ProcessTestCase(SynchronousTestCase):
    """
    Processes in a directory of their own.

    @ivar home: the directory.
    """

    def setUp(self) -> None:
        """Make the directory."""
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir(mode=0o700)

    def start(self, *arguments: str, terminal: bool = False) -> Process:
        """
        Start a process, which ends with the test.

        @param arguments: what follows C{python}.
        @param terminal: whether input and output are a terminal.
        """
        process = Process(arguments, self.home, terminal)
        self.addCleanup(process.close)
        return process

    def twistd(self, *arguments: str) -> Process:
        """
        Start a server, and do not wait for it.

        @param arguments: what follows C{twistd -n aesm}.
        """
        return self.start("-c", TWISTD, "-n", "--pidfile=", "aesm", *arguments)

    def serve(self, *arguments: str) -> tuple[Process, str]:
        """
        Start a server on a port of its own, and wait until it runs.

        @param arguments: what follows C{twistd -n aesm}.
        @return: it, and the endpoint for its clients.
        """
        server = self.serveAt(0, *arguments)
        return server, server.expect(RUNS)[1]

    def serveAt(self, port: int, *arguments: str) -> Process:
        """
        Start a server, and wait until it runs.

        @param port: its port; 0 for any.
        @param arguments: what follows C{twistd -n aesm}.
        """
        listen = f"tcp:{port}:interface=127.0.0.1"
        server = self.twistd("--listen", listen, *arguments)
        server.expect(RUNS)
        return server

    def connect(self, *arguments: str, terminal: bool = False) -> Process:
        """
        Start a client.

        @param arguments: what follows C{aesm connect}.
        @param terminal: whether input and output are a terminal.
        """
        return self.start("-m", "aesm", "connect", *arguments, terminal=terminal)

    def join(self, server: Process, *arguments: str, terminal: bool = False) -> Process:
        """
        Start a client, and wait until the server has accepted it.

        @param server: the server.
        @param arguments: what follows C{aesm connect}.
        @param terminal: whether input and output are a terminal.
        """
        before = server.output.count(" accepted ")
        client = self.connect(*arguments, terminal=terminal)
        server.expect(rf"(?s)( accepted .*){{{before + 1}}}")
        return client

    def assertSentence(self, client: Process, *parts: str) -> None:
        """
        Check that a client ends with status 1 and says why in one line.

        @param client: the client.
        @param parts: what the line says, among other things.
        """
        self.assertEqual(client.wait(), 1, client.said())
        last = client.errors.splitlines()[-1]
        self.assertTrue(last.startswith("aesm: "), client.said())
        for part in parts:
            self.assertIn(part, last)
        self.assertNotIn("Traceback", client.errors)

    def assertLeft(self, client: Process) -> None:
        """
        Check that a client is told that its server goes away, and waits for another.

        @param client: the client.
        """
        told = "^aesm: .*1001.*going away.*; connecting again$"
        client.expect(told, "errors")

    def assertStops(self, server: Process) -> None:
        """
        Stop a server, and check that it does so in order.

        @param server: the server.
        """
        server.process.terminate()
        server.wait()
        self.assertIn("Server Shut Down", server.output)
        self.assertNotIn("Traceback", server.output + server.errors)


class ConnectTests(ProcessTestCase):
    """What is typed in one window appears in the other."""

    def test_two(self) -> None:
        """
        The README's scenario, with both directions, first contact, and an orderly
        end.
        """
        server, endpoint = self.serve()
        key = server.expect(f"with the public key ({KEY})")[1]
        alice, bob = self.join(server, endpoint), self.join(server, endpoint)
        alice.expect(
            f"first contact with .* {re.escape(key)} .*known_servers", "errors"
        )
        alice.type("hello, bob\n")
        bob.expect(f"^{AT} hello, bob$")
        bob.type("hällo, \x1b[2Jalice\n")
        alice.expect(f"^{AT} hällo, " + r"\\x1b\[2Jalice$")
        for client in (alice, bob):
            client.end()
            self.assertEqual(client.wait(), 0, client.said())
        self.assertStops(server)

    def test_terminal(self) -> None:
        """
        It can be used at a terminal; Ctrl-D ends it, and the terminal is left as it
        was.
        """
        server, endpoint = self.serve()
        typist = self.join(server, endpoint, terminal=True)
        typist.expect("connected to", "errors")
        other = self.join(server, endpoint)
        typist.type("typed\n")
        other.expect(f"^{AT} typed$")
        other.type("answered\n")
        typist.expect(f"{AT} answered\r$")
        typist.end()
        self.assertEqual(typist.wait(), 0, typist.said())

    def test_json(self) -> None:
        """Programs talk JSON, and bytes stay bytes."""
        server, endpoint = self.serve()
        program = self.join(server, endpoint, "--json")
        person = self.join(server, endpoint)
        person.type(b"text\n\xff\n")
        program.expect(r"(?s)\n.*\n")
        first, second = map(json.loads, program.output.splitlines())
        self.assertEqual((first["data"], second["base64"]), ("text", "/w=="))
        self.assertLess(abs(first["time"] - time.time()), PATIENCE)
        program.type('{"base64": "AAE="}\nnonsense\n{"data": "x"}\n')
        person.expect(rf"(?s){AT} \\x00\\x01\n{AT} x\n")
        program.end()
        self.assertSentence(program, "line 2")

    def test_files(self) -> None:
        """Input and output can be regular files, of any size, and nothing is lost."""
        _, endpoint = self.serve("--handler", "echo")
        source, target = self.home / "in", self.home / "out"
        count = 20_000
        source.write_bytes(b"".join(b"%d %s\n" % (n, b"x" * 50) for n in range(count)))
        with source.open("rb") as stdin, target.open("wb") as stdout:
            done = subprocess.run(
                [sys.executable, "-m", "aesm", "connect", endpoint],
                cwd=self.home,
                env=environment(self.home),
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                timeout=PATIENCE,
            )
        self.assertEqual(done.returncode, 0, done.stderr)
        got = [int(line.split()[1]) for line in target.read_text().splitlines()]
        self.assertEqual(got, list(range(count)))

    def test_tooBig(self) -> None:
        """A line that the server does not take is named, and the rest is sent."""
        server, endpoint = self.serve("--max-message", "10")
        client, other = self.join(server, endpoint), self.join(server, endpoint)
        client.type("x" * 11 + "\nsmall\n")
        other.expect("small")
        client.end()
        self.assertSentence(client, "line 1", "11 bytes", "at most 10")

    def test_tooLong(self) -> None:
        """Input without an end of line is given up before it fills the memory."""
        server, endpoint = self.serve()
        client = self.join(server, endpoint)
        with contextlib.suppress(BrokenPipeError):
            for _ in range(1000):
                client.type(b"x" * 65536)
        self.assertSentence(client, "a line has more than")

    def test_outputClosed(self) -> None:
        """When nobody reads its output any more, a client ends."""
        server, endpoint = self.serve()
        client, other = self.join(server, endpoint), self.join(server, endpoint)
        assert client.process.stdout is not None
        client._selector.unregister(client.process.stdout)
        client.process.stdout.close()
        other.type("anybody?\n")
        self.assertSentence(client, "standard output is closed")

    def test_sharedFiles(self) -> None:
        """
        A client leaves the files that it shares with others as they are, while it
        runs and when it is killed: nothing that others write is lost.
        """
        server, endpoint = self.serve("--handler", "echo")
        client = self.join(server, endpoint)
        client.type("hello\n")
        client.expect("hello$")
        files = [client.process.stdin, client.process.stdout, client.process.stderr]
        for end in (None, client.process.kill, client.process.wait):
            if end is not None:
                end()
            self.assertTrue(
                all(os.get_blocking(file.fileno()) for file in files if file)
            )

    def test_errorsLost(self) -> None:
        """A client goes on where its standard error takes nothing."""
        port = freePort()
        server = self.serveAt(port, "--handler", "echo")
        endpoint = f"tcp:127.0.0.1:{port}"
        command = f"exec {sys.executable} -m aesm connect {endpoint} 2>/dev/full"
        client = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.home,
            env=environment(self.home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        assert client.stdin is not None and client.stdout is not None
        self.addCleanup(client.stdout.close)
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        self.assertIn(b"hello", client.stdout.readline())  # it knows that it is in
        server.process.kill()
        again = self.serveAt(port)
        again.expect(" accepted ")
        client.stdin.close()
        self.assertEqual(client.wait(PATIENCE), 0)

    def test_wait(self) -> None:
        """C{--wait} goes on receiving after the end of the input."""
        server, endpoint = self.serve()
        other = self.join(server, endpoint)
        client = self.join(server, endpoint, "--wait", "-1")
        client.type("question\n")
        client.end()
        other.expect("question$")
        other.type("answer\n")
        client.expect(f"^{AT} answer$")
        client.process.terminate()
        self.assertEqual(client.wait(), 128 + signal.SIGTERM, client.said())
        brief = self.join(server, endpoint, "--wait", "0.1")
        brief.end()
        self.assertEqual(brief.wait(), 0, brief.said())

    def test_receive(self) -> None:
        """C{--receive} does not care about the input."""
        server, endpoint = self.serve()
        client = self.join(server, endpoint, "--receive")
        client.end()
        other = self.join(server, endpoint)
        for word in ("one", "two"):
            other.type(f"{word}\n")
            client.expect(f"^{AT} {word}$")
        client.process.terminate()
        self.assertEqual(client.wait(), 128 + signal.SIGTERM, client.said())

    def test_unix(self) -> None:
        """It works over UNIX sockets."""
        # The path of a UNIX socket has at most some hundred bytes.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        endpoint = f"unix:{folder.name}/socket"
        server = self.twistd("--listen", endpoint)
        line = server.expect(r"aesm connect (unix:\S*socket) --pin (\S+)")
        self.assertEqual(line[1], endpoint)
        one = self.join(server, endpoint, "--pin", line[2])
        two = self.join(server, endpoint)
        one.type("hello\n")
        two.expect(f"^{AT} hello$")
        self.assertNotIn("first contact", one.errors)


class RefusalTests(ProcessTestCase):
    """Who does not get in is told why, in one line."""

    def test_nobodyThere(self) -> None:
        """Nobody listens."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            endpoint = f"tcp:127.0.0.1:{unused.getsockname()[1]}"
            self.assertSentence(self.connect(endpoint), "cannot connect", endpoint)

    def test_wrongPin(self) -> None:
        """The server has another key than the pinned one."""
        _, endpoint = self.serve()
        other = str(PrivateKey.generate().publicKey)
        client = self.connect(endpoint, "--pin", other)
        self.assertSentence(client, other, "pinned")

    def test_rightPin(self) -> None:
        """One of the pinned keys is enough."""
        server, endpoint = self.serve()
        key = server.expect(f"with the public key ({KEY})")[1]
        other = str(PrivateKey.generate().publicKey)
        client = self.join(server, endpoint, "--pin", other, "--pin", key)
        client.end()
        self.assertEqual(client.wait(), 0, client.said())

    def test_changedKey(self) -> None:
        """The server has another key than last time; C{aesm known --forget} helps."""
        port = freePort()
        endpoint = f"tcp:127.0.0.1:{port}"
        for name in ("one.pem", "two.pem"):
            PrivateKey.generate().save(self.home / name)
        first = self.serveAt(port, "--key", "one.pem")
        client = self.join(first, endpoint)
        client.end()
        self.assertEqual(client.wait(), 0, client.said())
        self.assertStops(first)
        second = self.serveAt(port, "--key", "two.pem")
        client = self.connect(endpoint)
        self.assertSentence(client, "somebody may be in between", "known_servers")
        command = re.search(r"`aesm (known --forget \S+)`", client.errors)
        assert command is not None, client.errors
        self.assertEqual(self.start("-m", "aesm", *command[1].split()).wait(), 0)
        client = self.join(second, endpoint, "--any-server")
        client.end()
        self.assertEqual(client.wait(), 0, client.said())
        client = self.join(second, endpoint)
        client.expect("first contact", "errors")

    def test_psk(self) -> None:
        """A pre-shared key must be the same on both sides."""
        for name in ("right", "wrong"):
            PSK.generate().save(self.home / name)
        server, endpoint = self.serve("--psk", "right")
        self.assertSentence(self.connect(endpoint, "--psk", "wrong"), "psk")
        self.assertSentence(self.connect(endpoint), "")
        self.assertSentence(self.connect(endpoint, "--psk", "none"), "aesm psk")
        client = self.join(server, endpoint, "--psk", "right")
        client.end()
        self.assertEqual(client.wait(), 0, client.said())

    def test_name(self) -> None:
        """So must the name."""
        _, endpoint = self.serve("--name", "one")
        self.assertSentence(self.connect(endpoint, "--name", "two"), "name")

    def test_notAuthorized(self) -> None:
        """
        A client whose key is not in the file is told that; one whose key is taken
        out leaves at once.
        """
        keys = self.home / "authorized_keys"
        key = PrivateKey.generate()
        key.save(self.home / "alice.pem")
        keys.write_text(f"{key.publicKey} alice\n")
        keys.chmod(0o600)
        server, endpoint = self.serve("--authorized-keys", "authorized_keys")
        self.assertSentence(self.connect(endpoint), "does not let our public key in")
        alice = self.join(server, endpoint, "--key", "alice.pem")
        server.expect(r"accepted .* \(alice\)")
        keys.write_text("# nobody\n")
        server.process.send_signal(signal.SIGHUP)
        self.assertSentence(alice, "no longer authorized")
        self.assertStops(server)


class OutputTests(ProcessTestCase):
    """Output that goes nowhere is one sentence and status 1, in every command."""

    def assertLost(self, command: str, redirection: str) -> None:
        """Check what a command says whose output cannot be written."""
        said = subprocess.run(
            ["sh", "-c", f"exec {sys.executable} -m aesm {command} {redirection}"],
            cwd=self.home,
            env=environment(self.home),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(said.returncode, 1, (command, said.stderr))
        self.assertRegex(said.stderr, r"(\A|\n)aesm: .*standard output[^\n]*\n\Z")
        self.assertNotIn("Traceback", said.stderr)

    def test_full(self) -> None:
        """The disk is full."""
        _, endpoint = self.serve("--handler", "chat")
        for command in (
            *("--help", "connect --help", "--version", "keygen", "pubkey", "psk"),
            *("bench", f"connect {endpoint}", f"chat {endpoint} --nick alice"),
            "known",  # now there is one
        ):
            self.assertLost(command, ">/dev/full")

    def test_closed(self) -> None:
        """It is not open."""
        for command in ("--help", "psk"):
            self.assertLost(command, ">&-")

    def test_errorClosed(self) -> None:
        """
        What is said on standard error is not among the output, where that is closed.
        """
        client = self.start("-c", "import os, sys; os.close(2); " + CLOSED)
        self.assertEqual(client.wait(), 1)
        self.assertEqual(client.output, "")


class StopTests(ProcessTestCase):
    """Everything ends in order, whoever ends it."""

    def test_serverStops(self) -> None:
        """
        Clients are told that the server goes away, and wait for another one; the end
        of the input does not.
        """
        server, endpoint = self.serve()
        client = self.join(server, endpoint, terminal=True)
        client.expect("connected to", "errors")
        server.process.terminate()
        self.assertLeft(client)
        server.wait()
        self.assertNotIn("Traceback", server.said())
        client.end()
        self.assertEqual(client.wait(), 0, client.said())

    def test_serverInterrupted(self) -> None:
        """
        Ctrl-C at the server is no error, and Ctrl-C ends who waits for another one.
        """
        server, endpoint = self.serve()
        client = self.join(server, endpoint, terminal=True)
        client.expect("connected to", "errors")
        server.process.send_signal(signal.SIGINT)
        client.expect("1001", "errors")
        self.assertEqual(server.wait(), -signal.SIGINT)
        self.assertNotIn("Traceback", server.said())
        client.process.send_signal(signal.SIGINT)
        self.assertEqual(client.wait(), 130)
        self.assertEqual(client.errors.count("1001"), 1)
        self.assertNotIn("Traceback", client.said())

    def test_serverKilled(self) -> None:
        """
        A server that is gone without a word is one line, too; another server is found,
        and gets what was typed meanwhile.
        """
        port = freePort()
        server, endpoint = self.serveAt(port), f"tcp:127.0.0.1:{port}"
        leaving, staying = self.join(server, endpoint), self.join(server, endpoint)
        leaving.type("known\n")
        staying.expect(f"^{AT} known$")
        server.process.kill()
        for client in (leaving, staying):
            client.expect("^aesm: .*; connecting again$", "errors")
            client.type("kept\n")
        leaving.end()
        again = self.serveAt(port)
        staying.expect("^aesm: connected again, in a new session$", "errors")
        staying.end()
        self.assertEqual(staying.wait(), 0, staying.said())
        self.assertNotIn("may not have arrived", staying.errors)
        leaving.wait()  # whether it knows that its first line has arrived or not
        self.assertStops(again)

    def test_clientInterrupted(self) -> None:
        """Ctrl-C at a client says nothing, and the server sees an orderly end."""
        server, endpoint = self.serve()
        client = self.join(server, endpoint, terminal=True)
        client.expect("Ctrl-D ends\n", "errors")
        said = client.errors
        client.process.send_signal(signal.SIGINT)
        self.assertEqual(client.wait(), 130)
        self.assertEqual(client.errors, said)
        server.expect(r" lost .*code 1000")

    def test_interruptedWhileConnecting(self) -> None:
        """Ctrl-C before the server has answered is no error either."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            silent.settimeout(PATIENCE)
            client = self.connect(f"tcp:127.0.0.1:{silent.getsockname()[1]}")
            peer, _ = silent.accept()
            with peer:
                client.process.send_signal(signal.SIGINT)
                self.assertEqual(client.wait(), 130)
        self.assertNotIn("Traceback", client.errors)


class ServerTests(ProcessTestCase):
    """What an operator sees of the server."""

    def test_portInUse(self) -> None:
        """A port in use is one line, and exit status 1."""
        _, endpoint = self.serve()
        port = endpoint.rpartition(":")[2]
        server = self.twistd("--listen", f"tcp:{port}:interface=127.0.0.1")
        self.assertEqual(server.wait(), 1)
        said = re.findall(".*cannot listen on.*", server.output)
        self.assertEqual(len(said), 1, server.said())
        self.assertIn("in use", said[0])
        self.assertNotIn("Traceback", server.said())

    def test_portInUseInBackground(self) -> None:
        """
        So it is for a server that was to go into the background: the log says why,
        and no pid file is left.
        """
        _, endpoint = self.serve()
        listen = f"tcp:{endpoint.rpartition(':')[2]}:interface=127.0.0.1"
        files = ("--pidfile", "pid", "--logfile", "log")
        server = self.start("-c", TWISTD, *files, "aesm", "--listen", listen)
        self.assertEqual(server.wait(), 1)
        self.assertIn("cannot listen", server.errors)
        self.assertNotIn("Traceback", server.errors)
        self.assertIn(f"cannot listen on {listen}: ", (self.home / "log").read_text())
        # Its parent ends as soon as it knows, while it still removes that.
        deadline = time.monotonic() + PATIENCE
        while (self.home / "pid").exists():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_badOption(self) -> None:
        """
        A bad option is one line and exit status 1, whatever C{twistd} makes of it.
        """
        for option, value in (("--max-message", "0"), ("--nosuch", "")):
            server = self.twistd(option, value)
            self.assertEqual(server.wait(), 1)
            self.assertRegex(server.errors, rf"\Atwistd aesm: .*{option} .*\n\Z")
            self.assertEqual(server.output, "")

    def test_activityLog(self) -> None:
        """Who comes and goes is a line of JSON each, for the operator's eyes only."""
        server, endpoint = self.serve("--activity-log", "activity.json")
        client = self.join(server, endpoint)
        client.end()
        client.wait()
        server.expect(" lost ")
        self.assertStops(server)  # the log on the screen is written before the file
        log = self.home / "activity.json"
        self.assertEqual(stat.S_IMODE(log.stat().st_mode), 0o600)
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        self.assertEqual(
            [entry["event"] for entry in entries],
            ["started", "accepted", "lost", "stopped"],
        )
        key = PrivateKey.load(self.home / "state" / "client.key").publicKey
        self.assertEqual({entry["peer"] for entry in entries[1:3]}, {str(key)})

    def ask(self, *arguments: str) -> str:
        """Ask the activity log, and get the answer."""
        asking = self.start("-m", "aesm", "log", "activity.json", *arguments)
        self.assertEqual(asking.wait(), 0, asking.said())
        return asking.output

    def test_askedAboutKilled(self) -> None:
        """
        After kill -9 the log knows who was in then, and that nobody is since; it is
        whole, also with half a line at its end.
        """
        path, options = self.home / "activity.json", ("--activity-log", "activity.json")
        server, endpoint = self.serve(*options)
        self.join(server, endpoint)
        self.join(server, endpoint)  # by then the file has the first one
        self.assertIn("  accepted  ", self.ask("--at", "0s"))
        server.process.kill()
        server.wait()
        then = str(datetime.now())
        with path.open("ab") as file:
            file.write(b'{"time": 1')
        server, _ = self.serve(*options)
        self.assertEqual(self.ask("--at", "0s"), "")
        self.assertIn("  accepted  ", self.ask("--at", then))
        self.assertRegex(self.ask("--verify"), r"torn.*\n\d entries, 1 to \d, whole;")
        self.assertStops(server)
        said = " ".join(re.findall(r"(?m)^\S+ \S+  (\w+)", self.ask()))
        self.assertRegex(said, "^started( accepted){1,2} started stopped$")

    def test_noCoreDumps(self) -> None:
        """A server that crashes leaves no core, whatever the limit was before."""
        limits = Path("/proc/self/limits")
        if not limits.exists():  # pragma: no cover
            raise SkipTest("no /proc to read a process's limits")
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_CORE, (soft, hard))
        server, _ = self.serve()
        theirs = Path(f"/proc/{server.process.pid}/limits").read_text()
        self.assertRegex(theirs, r"(?m)^Max core file size +0 ")
        self.assertStops(server)

    def test_open(self) -> None:
        """A server that is open to all beyond this machine says so."""
        server = self.twistd("--listen", "tcp:0")
        server.expect("ANYONE")
        server.expect("aesm connect tcp:HOST:")
