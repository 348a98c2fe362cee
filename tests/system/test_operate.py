"""
C{aesm status} and others with a server, as processes.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from aesm.trust.keys import PrivateKey
from tests.system.test_commands import Process, ProcessTestCase


class OperateTests(ProcessTestCase):
    """An operator at a server that runs."""

    def setUp(self) -> None:
        """Make a directory whose name is short enough for a socket's."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)
        self.socket = self.home / "state" / "control.sock"

    def aesm(self, *arguments: str, status: int = 0) -> Process:
        """Run a command to its end."""
        command = self.start("-m", "aesm", *arguments)
        self.assertEqual(command.wait(), status, command.said())
        return command

    def test_operator(self) -> None:
        """Who is there is seen, sent away, kept out, let in; then the server ends."""
        key = PrivateKey.loadOrCreate(self.home / "state" / "client.key")
        clients = self.home / "clients"
        clients.write_text(f"# friends\n{key.publicKey} alice\n")
        clients.chmod(0o600)
        server, endpoint = self.serve("--authorized-keys", str(clients))
        client = self.join(server, endpoint, "--any-server")
        found = json.loads(self.aesm("status", "--json").output)
        (row,) = found["connections"]
        self.assertEqual((row["name"], row["state"]), ("alice", "open"))
        self.assertIn("alice", self.aesm("status", row["address"]).output)
        self.aesm("kick", "alice", "--reason", "tea time")
        uid = os.getuid()
        client.expect(f"kicked by uid {uid}: tea time", "errors")
        client.expect("connected again, in a new session", "errors")
        server.expect(f"lost .*kicked by uid {uid}: tea time")
        self.aesm("revoke", "alice")
        self.assertEqual(clients.read_text(), "# friends\n")
        self.assertEqual(client.wait(), 1, client.said())
        self.aesm("authorize", str(key.publicKey), "bob")
        client = self.join(server, endpoint, "--any-server")
        self.aesm("reload")
        self.assertIn("told to leave: 1", self.aesm("drain", "--over", "0").output)
        self.assertEqual(server.wait(), 0, server.said())
        self.assertFalse(self.socket.exists())
        self.assertIn(str(self.socket), self.aesm("status", status=1).errors)

    def test_killed(self) -> None:
        """The socket of a server that was killed is the next one's."""
        server, _ = self.serve()
        server.process.kill()
        server.wait()
        self.assertTrue(self.socket.exists())
        server, _ = self.serve()
        self.aesm("status")
        other, _ = self.serve()
        other.expect("another server has it")
        self.aesm("status")
