"""
Tests for L{aesm.server.visits}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs

from aesm.client import connect
from aesm.errors import SessionMoved
from tests.messages.test_resume import ResumeTestCase
from tests.support.helpers import XX


class VisitTests(ResumeTestCase):
    """What the log says of a client that comes and goes."""

    def logged(self, act: Any) -> list[dict[str, Any]]:
        """Do something, and take what the activity log says of it."""
        with capturedLogs() as events:
            act()
        return [e for e in events if e["log_namespace"] == "aesm.activity"]

    def test_accepted(self) -> None:
        """Who, by what, with which software, in which session."""
        self.patch(connect, "AGENT", "mine\x1b/2")
        accepted, *_ = self.logged(
            lambda: self.begin(authorizedKeys=lambda *_: "ada", suites=[XX])
        )
        self.assertEqual(
            {field: accepted[field] for field in ("name", "suite", "agent", "back")},
            {"name": "ada", "suite": XX, "agent": r"mine\x1b/2", "back": False},
        )
        self.assertEqual(accepted["session"], self.far.session.name)
        self.assertEqual(len(accepted["session"]), 32)

    def test_cut(self) -> None:
        """
        Each time counts what came and went in it: messages, and their bytes, those
        that the client has acknowledged; and says whether its session is kept.
        """
        self.begin()
        self.client.sendData(b"12345")
        self.client.sendData("")
        self.far.sendData(b"abc")
        self.network.deliver()
        self.network.advance(2)
        self.client.sendData(b"on the way")
        (lost,) = self.logged(self.cut)
        self.far.sendData(b"waits")
        (back,) = self.logged(self.back)
        self.network.advance(1)
        self.network.deliver()
        (left,) = self.logged(self.leave)
        for entry, expected in (
            (lost, (1006, True, 2, 5, 1, 3)),
            (left, (1000, False, 1, 10, 1, 5)),
        ):
            fields = ["code", "kept", "received", "receivedBytes", "sent", "sentBytes"]
            self.assertEqual(tuple(entry[field] for field in fields), expected)
        self.assertGreaterEqual(lost["duration"], 2)
        self.assertLess(left["duration"], 2)
        self.assertTrue(back["back"])
        sessions = {entry["session"] for entry in (lost, back, left)}
        self.assertEqual(sessions, {self.far.session.name})

    def test_unnoticed(self) -> None:
        """Who came back before it was missed was there all the time."""
        self.begin()
        self.client.sendData(b"12345")
        self.network.deliver()
        self.network.advance(3)
        (link,) = self.network.links
        link.client.lose(ConnectionLost())
        link.toServer.end = None  # which the server does not hear of
        (back,) = self.logged(self.back)
        self.assertTrue(back["back"])
        (left,) = self.logged(self.leave)
        self.assertEqual((left["received"], left["receivedBytes"]), (1, 5))
        self.assertGreaterEqual(left["duration"], 3)

    def test_moved(self) -> None:
        """A session that goes on in another process of the server is kept."""
        self.begin()
        details = self.factory._manager._visits.end(
            self.far, SessionMoved(""), kept=False
        )
        self.assertEqual((details["code"], details["kept"]), (1001, True))

    def leave(self) -> None:
        """Close the client."""
        self.client.stopService()
        self.network.deliver()

    def test_givenUp(self) -> None:
        """A session that nobody came back to ends without having counted anything."""
        self.begin(sessionGrace=5)
        self.near.abort()
        self.client.stopService()
        self.cut()
        (over,) = self.logged(lambda: self.network.advance(6))
        self.assertEqual((over["event"], over["code"]), ("lost", 1006))
        self.assertFalse(over["kept"])
        self.assertNotIn("duration", over)
        self.assertEqual(self.factory._manager._visits._begun, {})
