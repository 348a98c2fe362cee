"""
Tests for L{aesm.server.admission}: what can be said of it alone; who comes in is tested
with the factory, in L{tests.server.test_factory}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from aesm import ConnectionClosed, Connections, NotAuthorized, ProtocolError
from aesm.core.messages.hello import Hello
from aesm.interfaces import IClientPolicy
from aesm.secure.places import Places
from aesm.server.admission import Admission, canYield
from tests.support.pairs import CLIENT_KEY

ADDRESS = ("192.0.2.1", 5)
TRANSPORT = IPv4Address("TCP", *ADDRESS)


def makeAdmission(policy: Any = None, **options: Any) -> Admission:
    """
    Make one.

    @param policy: decides on keys.
    @param options: of L{Places}, and C{perKey}.
    """
    perKey = options.pop("perKey", "allow")
    places = Places(canYield=canYield, **options)
    return Admission(Connections(), policy and IClientPolicy(policy), places, perKey)


class Counted:
    """
    As much of a connection as is counted.

    @ivar peer: whose it is.
    """

    peer = CLIENT_KEY.publicKey


class AdmissionTests(SynchronousTestCase):
    """L{Admission} decides on clients."""

    def decide(self, admission: Admission, payload: bytes = b"{}") -> Any:
        """
        Ask it.

        @param payload: the client's hello.
        """
        key = CLIENT_KEY.publicKey
        return maybeDeferred(admission.decide, key, payload, TRANSPORT, ADDRESS)

    def test_open(self) -> None:
        """Without a policy any key is let in, without a name."""
        admission = makeAdmission()
        self.assertTrue(admission.isOpen)
        hello, name = self.successResultOf(self.decide(admission, b'{"agent":"x"}'))
        self.assertEqual((hello, name), (Hello(agent="x"), None))

    def test_hello(self) -> None:
        """A malformed hello is refused before anybody is asked."""
        self.failureResultOf(self.decide(makeAdmission(), b"nonsense"), ProtocolError)

    def test_full(self) -> None:
        """Who is counted takes room until it leaves."""
        admission = makeAdmission(maxConnections=1)
        self.successResultOf(self.decide(admission))
        connection: Any = Counted()
        admission.enter(connection, ADDRESS)
        error: Any = self.failureResultOf(
            self.decide(admission), ConnectionClosed
        ).value
        self.assertEqual(error.code, 1013)
        admission.leave(connection)
        self.successResultOf(self.decide(admission))

    def test_perKey(self) -> None:
        """An option that cannot be is refused by name."""
        with self.assertRaisesRegex(ValueError, "perKey"):
            makeAdmission(perKey="maybe")

    def test_reload(self) -> None:
        """Only files are read again."""
        makeAdmission().reload()
        self.assertTrue(issubclass(NotAuthorized, Exception))
