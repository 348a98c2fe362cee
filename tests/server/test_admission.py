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
from aesm.server.admission import Admission
from tests.support.pairs import CLIENT_KEY

ADDRESS = ("192.0.2.1", 5)
TRANSPORT = IPv4Address("TCP", *ADDRESS)


def makeAdmission(policy: Any = None, **options: Any) -> Admission:
    """
    Make one.

    @param policy: decides on keys.
    @param options: instead of the usual.
    """
    usual: dict[str, Any] = {
        "maxConnections": 9,
        "maxConnectionsPerHost": 9,
        "handshakesPerHost": 9.0,
        "perKey": "allow",
    }
    return Admission(
        Connections(), policy and IClientPolicy(policy), **(usual | options)
    )


class AdmissionTests(SynchronousTestCase):
    """L{Admission} decides on clients."""

    def decide(self, admission: Admission, payload: bytes = b"{}") -> Any:
        """
        Ask it.

        @param payload: the client's hello.
        """
        return admission.decide(CLIENT_KEY.publicKey, payload, TRANSPORT, ADDRESS)

    def test_open(self) -> None:
        """Without a policy any key is let in, without a name."""
        admission = makeAdmission()
        self.assertTrue(admission.isOpen)
        hello, name = self.successResultOf(self.decide(admission, b'{"agent":"x"}'))
        self.assertEqual((hello, name), (Hello(agent="x"), None))

    def test_hello(self) -> None:
        """A malformed hello is refused before anybody is asked."""
        self.assertRaises(ProtocolError, self.decide, makeAdmission(), b"nonsense")

    def test_full(self) -> None:
        """Who is counted takes room until it leaves."""
        admission = makeAdmission(maxConnections=1)
        self.assertIsNone(admission.full(ADDRESS))
        connection: Any = object()
        admission.enter(connection, ADDRESS)
        self.assertIn("maxConnections", admission.full("unix-1") or "")
        error: Any = self.failureResultOf(
            self.decide(admission), ConnectionClosed
        ).value
        self.assertEqual(error.code, 1013)
        admission.leave(connection)
        self.assertIsNone(admission.full(ADDRESS))

    def test_begin(self) -> None:
        """Handshakes are counted by host; a connection without one is not."""
        admission = makeAdmission(handshakesPerHost=0.1)
        self.assertIsNone(admission.begin(ADDRESS, 0.0))
        refusal: Any = admission.begin(ADDRESS, 0.0)
        self.assertEqual(refusal.code, 1013)
        for _ in range(3):
            self.assertIsNone(admission.begin("unix-1", 0.0))

    def test_options(self) -> None:
        """Options that cannot be are refused by name."""
        for option, value in (
            ("maxConnections", 0),
            ("maxConnectionsPerHost", -1),
            ("handshakesPerHost", 0.0),
            ("perKey", "maybe"),
        ):
            with self.assertRaisesRegex(ValueError, option):
                makeAdmission(**{option: value})

    def test_reload(self) -> None:
        """Only files are read again."""
        makeAdmission().reload()
        self.assertTrue(issubclass(NotAuthorized, Exception))
