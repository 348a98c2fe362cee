"""
What goes on in a server, for people: L{aesm.commands.table}.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm import Server
from aesm.commands.table import linesOf, summaryOf
from aesm.status.overview import Overview
from aesm.testing import MemoryNetwork
from aesm.text import cellsOf
from tests.support.pairs import SERVER_KEY


def totals(**changes: Any) -> dict[str, Any]:
    """Take the totals of a server that is new, and change some."""
    server = Server("tcp:0", reactor=MemoryNetwork().clock, key=SERVER_KEY)
    return Overview(server).totals() | changes


def row(**changes: Any) -> dict[str, Any]:
    """Make a row of a connection."""
    return {
        "address": "192.0.2.1:50001",
        "name": "alice",
        "key": "rVgGvzYkFvfbyY2qU6Bm1WzqNrZ0k3XQ4wVtJt5xH0c=",
        "agent": "aesm/0.1.0",
        "suite": "Noise_XX_25519_AESGCM_SHA256",
        "session": "0" * 32,
        "state": "open",
        "since": 0.0,
        "grace": None,
        "idle": 12.3,
        "roundTrip": 0.0123,
        "messagesIn": 1234,
        "bytesIn": 5,
        "messagesOut": 7,
        "bytesOut": 5,
        "unacknowledged": 3,
        "unacknowledgedBytes": 2048,
        "oldestUnacknowledged": 119.0,
        "unread": 0,
        "unreadBytes": 0,
    } | changes


def answer(*rows: dict[str, Any]) -> dict[str, Any]:
    """Make an answer."""
    return {"ok": True, "server": totals(), "connections": list(rows)}


class SummaryTests(SynchronousTestCase):
    """The server as a whole."""

    def test_quiet(self) -> None:
        """Nothing is said of what there is not."""
        first, second = summaryOf(totals(connections=2, waiting=1, uptime=7200.0))
        self.assertIn("up 2h: 2 connected, 1 waiting, 0 in the handshake;", first)
        self.assertNotIn("acknowledged", second)

    def test_all(self) -> None:
        """What is refused, how the spool is, and how long acknowledgements take."""
        refusals = {"timeout": 0, "host-rate": 3}
        waits = {"count": 10, "seconds": 1.0, "buckets": [[0.001, 5], [1.0, 9]]}
        spool = {"bytes": 2048, "failure": "no room\x1b[2J"}
        first, second, third, last = summaryOf(
            totals(refusals=refusals, acknowledged=waits, spool=spool, stopping=True)
        )
        self.assertIn(", stopping: ", first)
        self.assertTrue(second.endswith("acknowledged in <1ms (half), longer (99 %)"))
        self.assertEqual(third, r"spool 2.0k bytes, FAILS: no room\x1b[2J")
        self.assertEqual(last, "refused: 3 host-rate")
        (*_, third) = summaryOf(totals(spool={"bytes": 0, "failure": None}))
        self.assertEqual(third, "spool 0 bytes")

    def test_cluster(self) -> None:
        """Which node of a cluster it is, and whether its engine can be used."""
        cluster = {"name": "chat", "node": "one-1", "engine": "redis://x"}
        for failure, said in ((None, "fine"), ("no\x1b", r"FAILS: no\x1b")):
            (*_, third) = summaryOf(totals(cluster={**cluster, "failure": failure}))
            expected = f"node one-1 of chat, engine at redis://x, {said}"
            self.assertEqual(third, expected)


class TableTests(SynchronousTestCase):
    """A line for each connection."""

    def test_all(self) -> None:
        """With room for it, all columns are there, each as wide as it needs."""
        rows = [row(), row(name=None, state="waiting", grace=59.0, idle=None)]
        titles, first, second = linesOf(answer(*rows), None)[-3:]
        columns = "CLIENT ADDRESS STATE IDLE TRIP IN OUT UNACKED OLDEST UNREAD"
        self.assertEqual(titles.split(), [*columns.split(), "AGENT", "SUITE"])
        found = "alice 192.0.2.1:50001 open 12s 12ms 1.2k 7 3/2.0k 2m"
        software = ["aesm/0.1.0", "Noise_XX_25519_AESGCM_S~"]
        self.assertEqual(first.split(), [*found.split(), *software])
        self.assertIn("rVgGvzYk~ 192.0.2.1:50001 waiting 59s ", second)
        self.assertEqual(titles.index("UNACKED") + 7, first.index("3/2.0k") + 6)

    def test_narrow(self) -> None:
        """Where there is no room, what matters least is left out."""
        for width, titles in (
            (79, "CLIENT ADDRESS STATE IDLE TRIP IN OUT UNACKED OLDEST UNREAD"),
            (59, "CLIENT ADDRESS STATE IDLE UNACKED OLDEST UNREAD"),
            (40, "CLIENT ADDRESS STATE UNACKED"),
            (10, "CLIENT"),
            (3, "CL~"),
        ):
            lines = linesOf(answer(row()), width)
            self.assertEqual(lines[-2].split(), titles.split())
            self.assertLessEqual(max(map(cellsOf, lines)), width)

    def test_height(self) -> None:
        """No more lines than the terminal has."""
        self.assertEqual(len(linesOf(answer(*[row()] * 50), 80, 24)), 24)

    def test_hostile(self) -> None:
        """What clients say is escaped, and breaks no line."""
        for text in ("\x1b]0;title\x07", "a\nb", "\u202eevil", "<b>\x7f", "\ud800"):
            for line in linesOf(answer(row(name=text, agent=text)), None):
                self.assertTrue(line.isprintable(), line)

    @settings(deadline=None, max_examples=50)
    @given(st.text(max_size=80), st.integers(1, 200))
    def test_anything(self, text: str, width: int) -> None:
        """Whatever it is, it is not wider than the terminal."""
        lines = linesOf(answer(row(name=text, agent=text, address=text)), width, 24)
        self.assertLessEqual(max(map(cellsOf, lines)), width)
