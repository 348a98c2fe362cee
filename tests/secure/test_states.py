"""
Tests for L{aesm.secure.states}, and for what L{aesm.secure.protocol} does in each
phase: every phase times everything that can happen.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.settings import SUITES
from aesm.errors import AESMError, HandshakeError, NotAuthorized
from aesm.secure.factory import SecureFactory
from aesm.secure.protocol import SecureProtocol
from aesm.secure.states import HEARD, OPENED, PHASE_TRANSITIONS, WRITES, Phase
from aesm.trust.keys import PublicKey
from tests.support.helpers import CLIENT_KEY, SERVER_KEY, channelSettings
from tests.support.transportcontract import Recorder

TIMEOUT = 10.0  # seconds


class Owner(SecureFactory):
    """
    A factory that decides when a test says so.

    @ivar told: the outcomes that it was told.
    """

    def __init__(self, clock: Clock) -> None:
        """@param clock: schedules the timers."""
        self.clock = clock
        self.handshakeTimeout = TIMEOUT
        self.decision: Deferred[None] = Deferred()
        self.inner = Recorder()
        self.told: list[str] = []

    def decide(
        self, secure: SecureProtocol, publicKey: PublicKey, payload: bytes
    ) -> Deferred[None]:
        """Decide later."""
        return self.decision

    def buildInner(self, secure: SecureProtocol) -> IProtocol:
        """Build one that writes down what it gets."""
        return self.inner

    def opened(self, secure: SecureProtocol) -> None:
        """Write it down."""
        super().opened(secure)
        self.told.append("opened")

    def failed(self, secure: SecureProtocol, reason: AESMError) -> None:
        """Write it down."""
        self.told.append("failed")

    def ended(self, secure: SecureProtocol) -> None:
        """Write it down."""
        super().ended(secure)
        self.told.append("ended")


class Connection:
    """A server's connection, to a client that a test plays."""

    def __init__(self, phase: Phase) -> None:
        """@param phase: how far to bring it."""
        self.clock = Clock()
        self.owner = Owner(self.clock)
        server = ServerChannel(channelSettings(SERVER_KEY))
        self.secure = SecureProtocol(self.owner, server)
        self.raw = StringTransport()
        suite = {"suite": SUITES[3]} if phase is Phase.LINGERING else {}
        self.client = ClientChannel(channelSettings(CLIENT_KEY, **suite))
        self.secure.makeConnection(self.raw)
        getattr(self, phase.value)()

    def feed(self) -> None:
        """Hand on what either side has to say, until neither has."""
        while data := self.client.takeOutput():
            self.secure.dataReceived(data)
            if self.client.receive(self.raw.value()):
                self.client.accept()
            self.raw.clear()

    def silent(self) -> None:
        """Do nothing."""

    def handshake(self) -> None:
        """Send an offer, and nothing behind it."""
        offer = self.client.takeOutput()
        self.secure.dataReceived(offer[: 2 + offer[1]])

    def decision(self) -> None:
        """Prove the client's key."""
        self.feed()

    def open(self) -> None:
        """Be let in."""
        self.feed()
        self.owner.decision.callback(None)

    def closing(self) -> None:
        """End both directions."""
        self.open()
        self.client.endOfStream()
        self.secure.dataReceived(self.client.takeOutput())

    def finishing(self) -> None:
        """End both directions while the raw transport takes no more."""
        self.open()
        self.secure.pauseProducing()
        self.client.endOfStream()
        self.secure.dataReceived(self.client.takeOutput())

    def lingering(self) -> None:
        """Offer what is not taken."""
        self.secure.dataReceived(self.client.takeOutput())

    def aborted(self) -> None:
        """Abort; the raw transport takes its time."""
        self.secure.abort()

    def gone(self) -> None:
        """Lose the connection."""
        self.lose()

    def lose(self) -> None:
        """Close the raw transport."""
        self.secure.connectionLost(Failure(error.ConnectionDone()))

    def resume(self) -> None:
        """Let the raw transport take more."""
        self.secure.pauseProducing()
        self.secure.resumeProducing()

    def accept(self) -> None:
        """Let the client in, if that is still to be decided."""
        if not self.owner.decision.called:
            self.owner.decision.callback(None)

    def refuse(self) -> None:
        """Turn the client away, if that is still to be decided."""
        if not self.owner.decision.called:
            self.owner.decision.errback(NotAuthorized("no"))
            self.owner.decision.addErrback(lambda failure: None)  # not asked for yet


_S, _H, _D, _O, _F, _C, _L, _A, _G = Phase

# In which phase each of them leaves a connection, in the order of the phases.
_EXPECTED: dict[str, tuple[Callable[[Connection], object], tuple[Phase, ...]]] = {
    "nothing": (lambda c: None, tuple(Phase)),
    "bad bytes": (
        lambda c: c.secure.dataReceived(b"\x00\x00"),
        (_A, _A, _D, _A, _A, _A, _L, _A, _G),
    ),
    "abort": (lambda c: c.secure.abort(), (_A, _A, _A, _A, _A, _A, _A, _A, _G)),
    "fail": (
        lambda c: c.secure.fail(HandshakeError("no")),
        (_A, _A, _A, _A, _A, _A, _A, _A, _G),
    ),
    "the raw transport brings no more": (
        lambda c: c.secure.readConnectionLost(),
        (_A, _A, _A, _A, _F, _C, _L, _A, _G),
    ),
    "the raw transport takes more": (
        lambda c: c.resume(),
        (_S, _H, _D, _O, _C, _C, _L, _A, _G),
    ),
    "the raw transport closes": (
        lambda c: None if c.secure.phase is _G else c.lose(),
        (_G, _G, _G, _G, _G, _G, _G, _G, _G),
    ),
    "accept": (lambda c: c.accept(), (_S, _H, _O, _O, _F, _C, _L, _A, _G)),
    "refuse": (lambda c: c.refuse(), (_S, _H, _L, _O, _F, _C, _L, _A, _G)),
    "time": (
        lambda c: c.clock.advance(TIMEOUT),
        (_A, _A, _A, _O, _A, _A, _A, _A, _G),
    ),
}


class TableTests(SynchronousTestCase):
    """The table."""

    def test_walk(self) -> None:
        """A pair that is not in the table is refused, and the phase stays."""
        secure = Connection(Phase.SILENT).secure
        for phase, what in product(Phase, {what for _, what in PHASE_TRANSITIONS}):
            secure.phase = phase
            if (phase, what) in PHASE_TRANSITIONS:
                following = PHASE_TRANSITIONS[phase, what]
                self.assertEqual(secure._move(what), following is not phase)
                self.assertIs(secure.phase, following)
            else:
                self.assertRaises(KeyError, secure._move, what)
                self.assertIs(secure.phase, phase)

    def test_ends(self) -> None:
        """
        Every phase is reached, from each there is a way to the end, and from the end
        there is none.
        """
        after: dict[Phase, set[Phase]] = {phase: set() for phase in Phase}
        for (phase, _), following in PHASE_TRANSITIONS.items():
            after[phase].add(following)
        self.assertEqual(after.pop(Phase.GONE), {Phase.GONE})
        self.assertEqual({Phase.SILENT}.union(*after.values()), set(Phase))
        for ways in after.values():
            self.assertLessEqual({Phase.ABORTED, Phase.GONE}, ways)

    def test_order(self) -> None:
        """
        What is not written any more is never written again, and what is not heard any
        more never heard.
        """
        for (phase, _), following in PHASE_TRANSITIONS.items():
            self.assertLessEqual(following in WRITES, phase in WRITES)
            if phase is not Phase.SILENT:
                self.assertLessEqual(following in HEARD, phase in HEARD)
        self.assertLess(OPENED, WRITES & HEARD)


class PhaseTests(SynchronousTestCase):
    """The connection."""

    def test_walk(self) -> None:
        """
        Whatever happens in whatever phase leads where it should; afterwards the factory
        is told of one outcome and of one end, nothing is running, and nothing was
        written where nothing may be.
        """
        for what, (happen, expected) in _EXPECTED.items():
            for phase, following in zip(Phase, expected, strict=True):
                connection = Connection(phase)
                secure, told = connection.secure, connection.owner.told
                where = f"{what} in {phase}"
                self.assertIs(secure.phase, phase, where)
                connection.raw.clear()
                happen(connection)
                self.assertIs(secure.phase, following, where)
                if phase not in WRITES:
                    self.assertEqual(connection.raw.value(), b"", where)
                if following is Phase.ABORTED:
                    self.assertTrue(connection.raw.disconnected, where)
                    connection.raw.clear()
                    secure.flush()
                    self.assertEqual(connection.raw.value(), b"", where)
                if following is not Phase.GONE:
                    connection.lose()
                connection.accept()
                connection.clock.advance(0)
                self.assertEqual(connection.clock.getDelayedCalls(), [], where)
                wasOpen = phase in OPENED | {Phase.CLOSING} or following is Phase.OPEN
                outcome = "opened" if wasOpen else "failed"
                self.assertEqual(told, [outcome, "ended"], where)
                self.assertEqual(len(connection.owner.inner.reasons), wasOpen, where)

    def test_lostTwice(self) -> None:
        """A raw transport that is lost a second time is no transport."""
        connection = Connection(Phase.GONE)
        self.assertRaises(KeyError, connection.lose)
