"""
C{aesm send} and C{aesm receive}: real processes, a network that cuts, and kills.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from aesm.trust.keys import PrivateKey
from tests.system.test_commands import (
    KEY,
    PATIENCE,
    Process,
    ProcessTestCase,
    environment,
)

ANYWHERE = "--listen=tcp:0:interface=127.0.0.1"
OURS, THEIRS = rf"key that is ours: ({KEY})", rf"key that is theirs: ({KEY})"


class FilesTests(ProcessTestCase):
    """Files from one command to the other."""

    def setUp(self) -> None:
        """Have a file, a place for it, and a key."""
        super().setUp()
        self.into = self.home / "into"
        self.into.mkdir()
        self.file = self.home / "a.bin"
        self.file.write_bytes(os.urandom(3_000_000))
        self.key = PrivateKey.loadOrCreate(self.home / "state" / "client.key")

    def aesm(self, *arguments: str) -> Process:
        """
        Start a command.  Both sides have the same home, and so the same key, but for
        those with a C{--key}.

        @param arguments: what follows C{aesm}.
        """
        return self.start("-m", "aesm", *arguments)

    def other(self) -> tuple[str, str]:
        """
        Make a key for the other side.

        @return: the option for it, and the key.
        """
        key = PrivateKey.generate()
        key.save(self.home / "other.key")
        return f"--key={self.home / 'other.key'}", str(key.publicKey)

    def listening(self, *arguments: str) -> tuple[Process, str]:
        """
        Start the side that listens.

        @return: it, and the endpoint of the other side.
        """
        process = self.aesm(*arguments)
        found = process.expect(r"tcp:HOST:(\d+)", "errors")
        return process, f"tcp:127.0.0.1:{found[1]}"

    def assertDone(self, *processes: Process) -> None:
        """Wait for both to end in order, and look at what came."""
        for process in processes:
            self.assertEqual(process.wait(), 0, process.said())
            self.assertNotIn("Traceback", process.errors)
            self.assertEqual(process.output, "")
        self.assertEqual(self.digest(self.into / "a.bin"), self.digest(self.file))

    def digest(self, path: Path) -> str:
        """Compute a file's SHA-256."""
        return sha256(path.read_bytes()).hexdigest()

    def test_receiverListens(self) -> None:
        """Who receives may listen; both show the same keys, and the same digest."""
        other, publicKey = self.other()
        into = f"--into={self.into}"
        receiver, where = self.listening(
            "receive", ANYWHERE, f"--pin={publicKey}", into
        )
        pin = f"--pin={self.key.publicKey}"
        (self.home / "b.txt").write_text("hello")
        sender = self.aesm("send", "a.bin", "b.txt", where, pin, other)
        self.assertDone(sender, receiver)
        self.assertEqual((self.into / "b.txt").read_text(), "hello")
        for one, two in ((sender, receiver), (receiver, sender)):
            ours, theirs = one.expect(OURS, "errors"), two.expect(THEIRS, "errors")
            self.assertEqual(ours[1], theirs[1])
        self.assertIn(self.digest(self.file), receiver.errors)
        self.assertIn("sent a.bin: 2.9MB in ", sender.errors)

    def test_senderListens(self) -> None:
        """Who sends may listen."""
        other, publicKey = self.other()
        pin = f"--pin={publicKey}"
        sender, where = self.listening("send", str(self.file), ANYWHERE, pin)
        pin = f"--pin={self.key.publicKey}"
        receiver = self.aesm("receive", where, pin, other, "--into", str(self.into))
        self.assertDone(receiver, sender)

    def test_unix(self) -> None:
        """They may meet at a UNIX socket; and the same file is not sent twice."""
        other, _ = self.other()
        for words in ("2.9MB in", "all 2.9MB were there already"):
            listen = ["--listen=unix:socket", "--any-client"]
            receiver = self.aesm("receive", *listen, f"--into={self.into}")
            receiver.expect(r"aesm send FILE unix:\S*socket --pin ", "errors")
            sender = self.aesm("send", "a.bin", "unix:socket", other, "--any-server")
            self.assertDone(sender, receiver)
            self.assertIn(f"sent a.bin: {words}", sender.errors)

    def test_wrongKeys(self) -> None:
        """
        Who has another key than was said gets nothing: one sentence, status 1; and both
        sides say with which --pin it would.
        """
        other, publicKey = self.other()
        third = f"--pin={PrivateKey.generate().publicKey}"
        into = f"--into={self.into}"
        receiver, where = self.listening("receive", ANYWHERE, third, into)
        for arguments, words in (
            ([third], "is pinned"),
            ([f"--pin={self.key.publicKey}"], "let[^\n]* in"),
        ):
            sender = self.aesm("send", str(self.file), where, other, *arguments)
            self.assertEqual(sender.wait(), 1)
            self.assertRegex(sender.errors, rf"\Aaesm: [^\n]*{words}[^\n]*\n\Z")
        self.assertIn(f"--pin {publicKey}", sender.errors)
        again = rf"is refused: [^\n]* run this again with --pin {re.escape(publicKey)}"
        receiver.expect(again, "errors")
        receiver.process.send_signal(signal.SIGINT)
        self.assertEqual(receiver.wait(), 128 + signal.SIGINT, receiver.said())
        self.assertEqual(os.listdir(self.into), [])

    def test_refused(self) -> None:
        """Some files may not arrive: the others do, and both say so."""
        other, publicKey = self.other()
        directory = f"--into={self.into}"
        receiver, where = self.listening(
            "receive", ANYWHERE, f"--pin={publicKey}", directory
        )
        huge = self.home / "huge"
        huge.touch()
        os.truncate(huge, 1 << 42)  # there is no room for it
        sender = self.aesm("send", "huge", "a.bin", where, other, "--any-server")
        self.assertEqual(sender.wait(), 1, sender.said())
        self.assertIn("huge is not sent: the other side refuses it", sender.errors)
        self.assertEqual(receiver.wait(), 1, receiver.said())
        self.assertIn("huge is not received: there is no room", receiver.errors)
        self.assertEqual(os.listdir(self.into), ["a.bin"])

    def test_noOther(self) -> None:
        """Two that both send, or both receive, say so, and do not wait for ever."""
        other, publicKey = self.other()
        pin = f"--pin={publicKey}"
        for command, words in (
            (["send", "a.bin"], "takes no"),
            (["receive"], "sends no"),
        ):
            one, where = self.listening(*command, ANYWHERE, pin)
            two = self.aesm(*command, where, other, "--any-server")
            for process in (one, two):
                self.assertEqual(process.wait(), 1, process.said())
                self.assertIn(f"the other side {words} files: run ", process.errors)

    def test_cannotListen(self) -> None:
        """Where it cannot listen it says why."""
        for where, words in (
            ("tcp:x", "--listen 'tcp:x' is no server endpoint"),
            ("unix:/nosuch/x", "cannot listen on unix:/nosuch/x: "),
        ):
            process = self.aesm("receive", f"--listen={where}", "--any-client")
            self.assertEqual(process.wait(), 1)
            self.assertRegex(process.errors, rf"\Aaesm: {words}[^\n]*\n\Z")
        process = self.aesm("send", "a.bin", "tcp:127.0.0.1:1")
        self.assertEqual(process.wait(), 1)
        self.assertIn("at 127.0.0.1:1; does the server run?", process.errors)

    def test_show(self) -> None:
        """
        All arrives over a network that cuts connections, while either side is killed
        over and over; little is sent again, and little memory is needed.
        """
        show = ["-m", "tests.support.filesshow", "--bytes=12M", "--cuts=4", "--kills=2"]
        done = subprocess.run(
            [sys.executable, *show],
            env=environment(self.home),
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("digests are equal", done.stdout)
