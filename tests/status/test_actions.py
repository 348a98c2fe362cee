"""
What an operator can have done: L{aesm.status.actions}.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.logger import capturedLogs, formatEvent

from aesm import PrivateKey, Server
from aesm.errors import ConnectionClosed, NotAuthorized
from aesm.status.actions import Actions, CannotDo, Operator
from aesm.testing import MemoryNetwork
from aesm.text import escape
from tests.messages.test_resume import ResumeTestCase
from tests.support.pairs import CLIENT_KEY, PairTestCase, Recorder

BY = Operator(1000, 42)
OTHER = PrivateKey.generate()


class ActionsTestCase(PairTestCase):
    """
    A server with a list of keys.

    @ivar clients: the list.
    @ivar done: what was asked for that only a process can do.
    """

    def begin(self, *lines: str, **options: Any) -> None:
        """
        Start a server.

        @param lines: of its list; none for one without.
        """
        self.clients = Path(self.mktemp()).absolute()
        if lines:
            self.clients.write_text("".join(f"{line}\n" for line in lines))
            self.clients.chmod(0o600)
            options["authorizedKeys"] = self.clients
        self.network: MemoryNetwork
        self.server: Server
        self.network, self.server = self.serve(Recorder(), **options)
        self.done: list[object] = []
        self.actions = Actions(
            self.server, lambda: self.done.append("reload"), self.drain
        )

    def drain(self, over: float, reason: str) -> None:
        """Take note."""
        self.done.append((over, reason))

    def perform(self, command: str, **fields: Any) -> dict[str, Any]:
        """Have something done."""
        pieces = self.actions.perform(BY, {"command": command, **fields})
        answer: dict[str, Any] = json.loads("".join(pieces))
        return answer

    def refused(self, command: object, **fields: Any) -> str:
        """Have something done that cannot be."""
        request = {"command": command, **fields}
        return str(self.assertRaises(CannotDo, self.actions.perform, BY, request))


class RequestTests(ActionsTestCase):
    """What makes no sense is refused, with what would."""

    def test_unknown(self) -> None:
        """No request, or no command that there is."""
        self.begin()
        requests: list[Any] = [[], "status", None, {}, {"command": 5}, {"command": "x"}]
        for request in requests:
            error = self.assertRaises(CannotDo, self.actions.perform, BY, request)
            self.assertIn("kick", str(error))

    def test_fields(self) -> None:
        """Something is missing, too much, or of the wrong kind."""
        self.begin()
        self.assertIn("key, name is missing", self.refused("authorize"))
        self.assertIn("no 'why'", self.refused("kick", who="alice", why=""))
        for fields in ({"who": 5}, {"most": "5"}, {"most": True}, {"most": 1.5}):
            self.assertIn("cannot be the", self.refused("status", **fields))
        self.assertIn("no text", self.refused("kick", who="\ud800"))

    def test_operator(self) -> None:
        """Who asks is a user, where the system says which."""
        self.assertEqual(str(BY), "uid 1000")
        self.assertEqual(str(Operator(None, None)), "an operator")


class StatusTests(ActionsTestCase):
    """C{status}."""

    def test_status(self) -> None:
        """It tells of the server and of all, of some, or of one."""
        self.begin(f"{CLIENT_KEY.publicKey} alice", f"{OTHER.publicKey} bob")
        answer = self.perform("status")
        self.assertEqual(answer["connections"], [])
        self.assertEqual(answer["server"]["pid"], os.getpid())
        for key in (CLIENT_KEY, OTHER):
            self.join(self.network, key=key)
        with capturedLogs() as events:
            for fields, names in (
                ({}, ["alice", "bob"]),
                ({"most": 1}, ["alice"]),
                ({"most": -1}, []),
                ({"who": "bob"}, ["bob"]),
                ({"who": "bob", "most": 0}, ["bob"]),
            ):
                rows = self.perform("status", **fields)["connections"]
                self.assertEqual([row["name"] for row in rows], names)
        self.assertEqual(events, [])
        self.assertIn("nobody", self.refused("status", who="carol"))

    def test_hostile(self) -> None:
        """Whatever a client says of itself, the answer is printable ASCII and JSON."""
        self.begin()
        agent = "\x00\x1b[2J\x7f\u2028\u202e\ud800<script>\"'"
        self.join(self.network)
        (connection,) = self.server.connections.values()
        outbox = connection.session.outbox
        outbox.peer = replace(outbox.peer, agent=agent)
        text = "".join(self.actions.perform(BY, {"command": "status"}))
        self.assertTrue(text.isascii() and text.isprintable())
        self.assertEqual(json.loads(text)["connections"][0]["agent"], agent)


class KickTests(ActionsTestCase):
    """C{kick}."""

    def test_kick(self) -> None:
        """
        All connections of a name end, and their sessions; the log and the activity log
        say who did it and why.
        """
        self.begin(f"{CLIENT_KEY.publicKey} alice", f"{OTHER.publicKey} bob")
        first, other, second = (
            self.join(self.network, key=key) for key in (CLIENT_KEY, OTHER, CLIENT_KEY)
        )
        self.entries(self.server)
        with capturedLogs() as events:
            answer = self.perform("kick", who="alice", reason="too\x1bloud")
            self.network.deliver()
        self.assertEqual(answer, {"ok": True, "connections": 2})
        for connection in (first, second):
            reason = self.closedReason(connection)
            self.assertIsInstance(reason, ConnectionClosed)
            self.assertEqual(reason.code, 1001)
            self.assertEqual(reason.reason, "kicked by uid 1000: too\x1bloud")
        self.assertTrue(other.isOpen)
        entries = self.entries(self.server)
        self.assertEqual([entry.event for entry in entries], ["lost"] * 2)
        for entry in entries:
            self.assertIn("kicked by uid 1000: too", entry.reason)
            self.assertEqual(escape(entry.reason), entry.reason)
        (line,) = [e for e in events if e["log_namespace"] == "aesm.control"]
        self.assertEqual(
            formatEvent(line),
            "uid 1000 (pid 42) had done: kick, who 'alice', reason 'too\\x1bloud', "
            "connections 2",
        )

    def test_nobody(self) -> None:
        """That nobody is there is said, and nothing is logged as done."""
        self.begin()
        with capturedLogs() as events:
            self.assertIn("'alice'", self.refused("kick", who="alice"))
        self.assertEqual(events, [])

    def test_deaf(self) -> None:
        """Who does not read is cut off in time, and nothing is kept for it at once."""
        self.begin()
        self.join(self.network)
        (link,) = self.network.links
        link.toClient.stalled = True
        (connection,) = self.server.connections.values()
        connection.sendData(bytes(100_000))
        self.network.deliver()
        self.perform("kick", who=str(connection.peer))
        self.assertEqual(self.server.factory.manager.budget.used, 0)
        self.network.advance(6)
        self.assertTrue(connection.isOver)


class WaitingTests(ResumeTestCase):
    """C{kick} of a client that is away."""

    def test_waiting(self) -> None:
        """Its session ends, so that it comes back to a new one."""
        self.begin(Recorder())
        self.network.advance(3)
        self.cut()
        actions = Actions(self.server, list, lambda over, reason: None)
        request = {"command": "kick", "who": self.far.session.name}
        self.assertEqual("".join(actions.perform(BY, request))[-2:], "1}")
        self.assertTrue(self.far.isOver)
        self.back()
        (again,) = self.server.connections.values()
        self.assertNotEqual(again.session.name, self.far.session.name)

    def test_over(self) -> None:
        """One that is over while packets of it are unread is ended already."""
        self.begin()
        self.near.sendData(b"1")
        self.network.deliver()
        self.client.stopService()
        self.network.deliver()
        self.assertTrue(self.far.isOver)
        actions = Actions(self.server, list, lambda over, reason: None)
        request = {"command": "kick", "who": self.far.session.name}
        self.assertEqual("".join(actions.perform(BY, request))[-2:], "0}")
        self.far.retrieved.getData()


class ListTests(ActionsTestCase):
    """C{authorize} and C{revoke}."""

    def test_authorize(self) -> None:
        """A client is let in as soon as it is in the list."""
        self.begin("# friends")
        key = str(CLIENT_KEY.publicKey)
        self.assertEqual(self.perform("authorize", key=key, name="alice"), {"ok": True})
        self.assertEqual(self.clients.read_text(), f"# friends\n{key} alice\n")
        self.assertTrue(self.join(self.network, key=CLIENT_KEY).isOpen)
        self.assertIn("already", self.refused("authorize", key=key, name="bob"))
        self.assertIn("no name", self.refused("authorize", key=key, name="a b"))
        self.assertIn("44", self.refused("authorize", key="nonsense", name="bob"))

    def test_revoke(self) -> None:
        """
        By name, key or address: the key is out, its connections end, and the activity
        log says who did it.
        """
        key = CLIENT_KEY.publicKey
        for who in ("alice", str(key), "192.0.2.1:5"):
            self.begin(f"{key} alice", f"{OTHER.publicKey} bob")
            client = self.join(self.network, key=CLIENT_KEY, host="192.0.2.1", port=5)
            self.entries(self.server)
            answer = self.perform("revoke", who=who)
            self.assertEqual(answer, {"ok": True, "keys": 1, "connections": 1})
            self.network.deliver()
            self.assertIsInstance(self.closedReason(client), NotAuthorized)
            (entry,) = self.entries(self.server)
            self.assertIn("key revoked by uid 1000", entry.reason)
            self.assertNotIn(str(key), self.clients.read_text())
            self.assertIn(str(OTHER.publicKey), self.clients.read_text())

    def test_last(self) -> None:
        """Also the last one of the list is out."""
        self.begin(f"{CLIENT_KEY.publicKey} alice", f"{OTHER.publicKey} alice")
        self.assertEqual(self.perform("revoke", who="alice")["keys"], 2)
        self.assertEqual(self.clients.read_text(), "")
        connecting = self.connecting(self.network, key=CLIENT_KEY)
        self.network.deliver()
        self.failureResultOf(connecting)

    def test_nobody(self) -> None:
        """Whom the list does not have cannot be taken out."""
        self.begin(f"{CLIENT_KEY.publicKey} alice")
        for who in ("bob", str(OTHER.publicKey), "192.0.2.1:5"):
            self.assertIn("no line of", self.refused("revoke", who=who))

    def test_noList(self) -> None:
        """A server without a list has nothing to change."""
        self.begin()
        self.assertIn("no file", self.refused("revoke", who="alice"))
        key = str(CLIENT_KEY.publicKey)
        self.assertIn("no file", self.refused("authorize", key=key, name="alice"))

    def test_badList(self) -> None:
        """A list that is not right is left as it is."""
        self.begin(f"{CLIENT_KEY.publicKey} alice")
        self.clients.write_text("nonsense\n")
        self.assertIn("line 1", self.refused("revoke", who="alice"))
        self.assertEqual(self.clients.read_text(), "nonsense\n")


class ProcessTests(ActionsTestCase):
    """C{reload} and C{drain}, which are the process's."""

    def test_reload(self) -> None:
        """As SIGHUP."""
        self.begin()
        self.assertEqual(self.perform("reload"), {"ok": True})
        self.assertEqual(self.done, ["reload"])

    def test_drain(self) -> None:
        """So many are told to leave, and come back within so long."""
        self.begin()
        self.join(self.network)
        self.assertEqual(self.perform("drain"), {"ok": True, "connections": 1})
        self.perform("drain", over=2.5)
        self.assertEqual(
            self.done, [(30.0, "drained by uid 1000"), (2.5, "drained by uid 1000")]
        )
        for over in (-1, 3601, float("nan")):
            self.assertIn("over is 0 to 3600", self.refused("drain", over=over))
        self.server.stop()
        self.assertIn("stopping already", self.refused("drain"))
