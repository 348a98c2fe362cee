"""
C{aesm log}: tests for L{aesm.commands.log}.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path

from twisted.logger import capturedLogs

from aesm import PrivateKey
from aesm.commands.activity import ActivityFile
from aesm.server.registry import Connections
from tests.commands.test_cli import CommandTestCase

KEY = PrivateKey.generate().publicKey


class LogTests(CommandTestCase):
    """What it answers."""

    def setUp(self) -> None:
        """Write a log: alice came and went while bob was refused."""
        super().setUp()
        self.path = Path(self.mktemp()).absolute()
        file = ActivityFile(str(self.path))
        file.started()
        connections = Connections()
        with capturedLogs() as events:
            for event, when, reason, details in (
                ("accepted", 100.0, "by a suite", {"name": "alice", "session": "a"}),
                ("refused", 150.0, "the key is not authorized", {"name": None}),
                ("lost", 200.0, "she closed", {"name": "alice", "session": "a"}),
            ):
                peer = None if event == "refused" else KEY
                where = ("192.0.2.1", 5)
                connections.record(where, event, when, reason, peer, **details)
        for each in events:
            file(each)
        file.ended()
        os.close(file._file)

    def events(self, *arguments: str) -> list[str]:
        """
        Ask.

        @return: what happened, of what is shown.
        """
        lines = self.good("log", str(self.path), *arguments).splitlines()
        wholes = self.good("log", str(self.path), "--json", *arguments).splitlines()
        events = [json.loads(line)["event"] for line in wholes]
        for line, event in zip(lines, events, strict=True):
            self.assertIn(f"  {event}", line)
        return events

    def test_all(self) -> None:
        """Everything, or what was asked for."""
        for arguments, expected in (
            ([], ["started", "accepted", "refused", "lost", "stopped"]),
            (["--refused"], ["refused"]),
            (["--event", "lost"], ["lost"]),
            (["--who", "alice"], ["started", "accepted", "lost", "stopped"]),
            (["--who", str(KEY)[:8], "--until", "1970-01-01T00:02Z"], ["accepted"]),
            (["--since", "1970-01-01T00:03Z", "--event", "lost"], ["lost"]),
            (["--who", "192.0.2.1", "--refused"], ["refused"]),
            (["--since", "1h"], ["started", "stopped"]),
        ):
            self.assertEqual(self.events(*arguments), expected, arguments)

    def test_at(self) -> None:
        """Who was in at a time."""
        during = ["--at", "1970-01-01T00:02Z"]
        self.assertEqual(self.events(*during), ["accepted"])
        self.assertEqual(self.events(*during, "--who", "alice"), ["accepted"])
        self.assertEqual(self.events(*during, "--who", "bob"), [])
        status, output, errors = self.execute("log", "--at", "0s", str(self.path))
        self.assertEqual((status, output), (0, ""))
        self.assertEqual(errors, "aesm: nobody was in at that time\n")

    def test_verify(self) -> None:
        """Whether it is whole; then the status is 0, else it is 1."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        said = self.good("log", "--verify", str(self.path))
        head = sha256(lines[-1]).hexdigest()
        self.assertEqual(
            said, f"5 entries, 1 to 5, whole; the hash of the last is {head}\n"
        )
        former = sha256(lines[1]).hexdigest().upper()
        self.good("log", str(self.path), "--verify", "--expect", former)
        wrong = "0" * 64
        said = self.bad("log", str(self.path), "--verify", "--expect", wrong)
        self.assertIn("no entry has the hash 000", said)
        self.path.write_bytes(b"".join(lines).replace(b"she", b"he"))
        self.assertIn("line 5: ", self.bad("log", "--verify", str(self.path)))

    def test_usage(self) -> None:
        """What makes no sense is refused, with what would."""
        file = str(self.path)
        for arguments, words in (
            ([], "name the file"),
            ([file, "--verify", "--who", "alice"], "--verify and --who"),
            ([file, "--at", "2h", "--since", "3h"], "--at and --since"),
            ([file, "--refused", "--event", "lost"], "--refused and --event"),
            ([file, "--expect", "0" * 64], "--verify"),
            ([file, "--verify", "--expect", "0" * 63], "64 hex digits"),
            ([file, "--at", "teatime"], "--at: 'teatime' is no time"),
        ):
            self.assertIn(words, self.bad("log", *arguments))
        self.assertIn("No such file", self.bad("log", file + "x"))
