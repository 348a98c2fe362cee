"""
Tests for L{aesm.server.admission}: what can be said of it alone; who comes in is tested
with the factory, in L{tests.server.test_factory}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from aesm import ConnectionClosed, Connections, NotAuthorized, ProtocolError
from aesm.core.messages.hello import Hello
from aesm.interfaces import IClientPolicy
from aesm.server.admission import Door
from tests.support.pairs import CLIENT_KEY

ADDRESS = ("192.0.2.1", 5)
TRANSPORT = IPv4Address("TCP", *ADDRESS)


def makeDoor(policy: Any = None, **options: Any) -> Door:
    """
    Make a door.

    @param policy: decides on keys.
    @param options: instead of the usual.
    """
    usual: dict[str, Any] = {
        "maxConnections": 9,
        "maxConnectionsPerHost": 9,
        "handshakesPerHost": 9.0,
        "perKey": "allow",
    }
    return Door(Connections(), policy and IClientPolicy(policy), **(usual | options))


class DoorTests(SynchronousTestCase):
    """
    L{Door} decides on clients.
    """

    def decide(self, door: Door, payload: bytes = b"{}") -> Any:
        """
        Ask it.

        @param door: whom.
        @param payload: the client's hello.
        """
        return door.decide(CLIENT_KEY.publicKey, payload, TRANSPORT, ADDRESS)

    def test_open(self) -> None:
        """
        Without a policy any key is let in, without a name.
        """
        door = makeDoor()
        self.assertTrue(door.isOpen)
        hello, name = self.successResultOf(self.decide(door, b'{"agent":"x"}'))
        self.assertEqual((hello, name), (Hello(agent="x"), None))

    def test_hello(self) -> None:
        """
        A malformed hello is refused before anybody is asked.
        """
        self.assertRaises(ProtocolError, self.decide, makeDoor(), b"nonsense")

    def test_full(self) -> None:
        """
        Who is counted takes room until it leaves.
        """
        door = makeDoor(maxConnections=1)
        self.assertIsNone(door.full(ADDRESS))
        connection: Any = object()
        door.enter(connection, ADDRESS)
        self.assertIn("maxConnections", door.full("unix-1") or "")
        error: Any = self.failureResultOf(self.decide(door), ConnectionClosed).value
        self.assertEqual(error.code, 1013)
        door.leave(connection)
        self.assertIsNone(door.full(ADDRESS))

    def test_begin(self) -> None:
        """
        Handshakes are counted by host; a connection without one is not.
        """
        door = makeDoor(handshakesPerHost=0.1)
        self.assertIsNone(door.begin(ADDRESS, 0.0))
        refusal: Any = door.begin(ADDRESS, 0.0)
        self.assertEqual(refusal.code, 1013)
        for _ in range(3):
            self.assertIsNone(door.begin("unix-1", 0.0))

    def test_options(self) -> None:
        """
        Options that cannot be are refused by name.
        """
        for option, value in (
            ("maxConnections", 0),
            ("maxConnectionsPerHost", -1),
            ("handshakesPerHost", 0.0),
            ("perKey", "maybe"),
        ):
            with self.assertRaisesRegex(ValueError, option):
                makeDoor(**{option: value})

    def test_reload(self) -> None:
        """
        Only files are read again.
        """
        makeDoor().reload()
        self.assertTrue(issubclass(NotAuthorized, Exception))
