"""
Tests for L{aesm.server.sessions}: which sessions wait, for how long, and which have to
go.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm import AESMError, Connection, PrivateKey, PublicKey, SessionLost
from aesm.core.messages.hello import Hello
from aesm.core.messages.session import Session
from aesm.messages.owner import ConnectionOwner
from aesm.server.sessions import MOST_LOOKED, Sessions, isResumed
from tests.support.pairs import CLIENT_KEY, SERVER_KEY

PEER = CLIENT_KEY.publicKey


class Keeper(ConnectionOwner):
    """
    Forgets the sessions that are over, as a manager does.

    @ivar sessions: where.
    @ivar over: the names of those that were over, and why.
    """

    sessions: Sessions

    def __init__(self) -> None:
        """Begin with none."""
        self.over: list[tuple[str, AESMError]] = []

    def lost(self, connection: Connection, reason: AESMError) -> None:
        """
        Take note.

        @param connection: whose session is over.
        """
        self.sessions.discard(connection)
        self.over.append((connection.session.name, reason))


class SessionsTests(SynchronousTestCase):
    """L{Sessions} waits."""

    def sessions(self, grace: float = 10.0, most: int = 9) -> Sessions:
        """
        Make one.

        @param grace: seconds.
        @param most: how many may wait.
        """
        self.clock = Clock()
        self.keeper = Keeper()
        self.keeper.sessions = Sessions(self.clock, grace, most)
        self.addCleanup(self.assertQuiet)
        return self.keeper.sessions

    def assertQuiet(self) -> None:
        """Check that nothing is scheduled once nobody waits."""
        self.keeper.sessions.stop(stored=False)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connection(
        self,
        name: str,
        told: Callable[[], None] | None = None,
        peer: PublicKey = PEER,
        host: str | None = None,
    ) -> Connection:
        """
        Make a connection whose session is known.

        @param name: the session's.
        @param told: to be called when it is over.
        @param host: where it came from.
        """
        session = Session(1000, 1000, name)
        session.outbox.begin(Hello())
        connection = Connection(
            self.keeper,
            session,
            address=name if host is None else (host, 1),
            peer=peer,
            peerName=None,
            receiveBuffer=1000,
        )
        connection.closed().addCallback(lambda reason: told and told())
        self.keeper.sessions.add(connection)
        return connection

    @property
    def over(self) -> list[str]:
        """The sessions that are over."""
        return [name for name, _ in self.keeper.over]

    def why(self) -> str:
        """Say why the first session was over, which is an error of the right kind."""
        reason = self.keeper.over[0][1]
        self.assertIsInstance(reason, SessionLost)
        return str(reason)

    def test_len(self) -> None:
        """Those are counted that wait, until their clients are back or they end."""
        sessions = self.sessions(most=2)
        self.assertEqual(len(sessions), 0)
        one, two, three = map(self.connection, "123")
        for connection, count in ((one, 1), (two, 2), (two, 2), (three, 2)):
            sessions.wait(connection)
            self.assertEqual(len(sessions), count)
        sessions.resumed(three)
        self.assertEqual(len(sessions), 1)

    def test_grace(self) -> None:
        """Only a number of seconds makes sense."""
        for wrong in (-1.0, float("inf"), float("nan")):
            self.assertRaises(ValueError, Sessions, Clock(), wrong, 1)

    def test_find(self) -> None:
        """
        A session is found by its name, for its key, if what the client says of it
        can be, and nobody is ending it.
        """
        sessions = self.sessions()
        connection = self.connection("a")
        self.assertIs(sessions.find(Hello(session="a"), PEER), connection)
        self.assertIsNone(sessions.find(Hello(session="b"), PEER))
        self.assertIsNone(sessions.find(Hello(session="a", received=1), PEER))
        self.assertIsNone(sessions.find(Hello(session="a"), SERVER_KEY.publicKey))
        self.assertFalse(isResumed(connection, Hello()))
        sessions.discard(connection)
        self.assertFalse(sessions.knows(connection))
        self.assertIsNone(sessions.find(Hello(session="a"), PEER))

    def test_waits(self) -> None:
        """Each is given the grace period, and is over after it."""
        sessions = self.sessions()
        first, second, third = map(self.connection, "abc")
        sessions.wait(first)
        self.clock.advance(4)
        sessions.wait(second)
        sessions.wait(third)
        self.assertEqual(list(sessions._waiting), [first, second, third])
        self.clock.advance(5.9)
        self.assertEqual(self.over, [])
        self.clock.advance(0.1)
        self.assertEqual(self.over, ["a"])
        self.assertFalse(sessions.knows(first))
        sessions.resumed(second)
        self.assertTrue(sessions.knows(second))
        self.clock.advance(4)
        self.assertEqual(self.over, ["a", "c"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIn("in 10 seconds", self.why())

    def test_waitsAgain(self) -> None:
        """One that waits again, or still, waits behind all others."""
        sessions = self.sessions()
        first, second = map(self.connection, "ab")
        sessions.wait(first)
        self.clock.advance(5)
        sessions.wait(second)
        sessions.wait(first)
        sessions.end(second, "why not")
        self.assertEqual(self.over, ["b"])
        self.clock.advance(9)
        self.assertEqual(self.over, ["b"])
        self.clock.advance(1)
        self.assertEqual(self.over, ["b", "a"])

    def test_most(self) -> None:
        """The oldest makes room."""
        sessions = self.sessions(most=2)
        for name in "abcd":
            sessions.wait(self.connection(name))
        self.assertEqual(self.over, ["a", "b"])
        self.assertIn("too many", self.why())

    def test_mostOfOneKey(self) -> None:
        """It is one of the key that has most; others keep what they have."""
        sessions = self.sessions(most=4)
        others = [SERVER_KEY.publicKey, PrivateKey.generate().publicKey]
        for name, peer in zip("ab", others, strict=True):
            sessions.wait(self.connection(name, peer=peer))
        for name in "cdefg":
            sessions.wait(self.connection(name))
        self.assertEqual(self.over, ["c", "d", "e"])

    def test_mostWithNothing(self) -> None:
        """Of its sessions one in which nothing is kept goes before one in which is."""
        sessions = self.sessions(most=3)
        connections = [self.connection(name) for name in "abcdef"]
        for number, connection in enumerate(connections):
            if number != 2:
                connection.sendData("x")
            sessions.wait(connection)
        self.assertEqual(self.over, ["c", "a", "b"])

    def test_mostLookedAt(self) -> None:
        """
        It is looked for among so many that have waited longest, which takes as long
        however many wait.
        """
        for keeping in (MOST_LOOKED - 1, MOST_LOOKED, MOST_LOOKED + 1):
            sessions = self.sessions(most=2 * MOST_LOOKED)
            for number in range(2 * MOST_LOOKED + 1):
                connection = self.connection(str(number))
                if number < keeping:
                    connection.sendData("x")
                sessions.wait(connection)
            expected = str(keeping) if keeping < MOST_LOOKED else "0"
            self.assertEqual(self.over, [expected])

    def test_mostOfOneHost(self) -> None:
        """
        Where no key has more than one, it is one of the host that has most, of these
        one with nothing in it first.
        """
        for keeping, expected in (
            ("abcdef", "bcd"),
            ("abcde", "bcf"),
            ("bcdf", "bcd"),
            ("", "bcd"),
        ):
            sessions = self.sessions(most=3)
            for name, host in zip("abcdef", "211131", strict=True):
                key = PrivateKey.generate().publicKey
                connection = self.connection(name, None, key, f"10.0.0.{host}")
                if name in keeping:
                    connection.sendData("x")
                sessions.wait(connection)
            self.assertEqual(self.over, [*expected])

    def test_told(self) -> None:
        """
        Who is told that a session is over may end others, and all: each is over
        once.
        """
        for end in ("expire", "stop", "oldest"):
            sessions = self.sessions()
            stop = partial(sessions.stop, stored=False)
            for name in "abc":
                sessions.wait(self.connection(name, stop))
            if end == "expire":
                self.clock.advance(10)
            elif end == "stop":
                stop()
            else:
                sessions.end(next(iter(sessions._waiting)), "why not")
            self.assertEqual(sorted(self.over), ["a", "b", "c"])
            self.assertEqual(self.clock.getDelayedCalls(), [])
