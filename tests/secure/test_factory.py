"""
Tests for L{aesm.secure.factory}: what is silent keeps no more than its keys, and all
that write in a turn of the event loop are told of its end together.
"""

from __future__ import annotations

from typing import cast

from aesm.secure.factory import SILENCE
from aesm.secure.protocol import SecureProtocol
from aesm.secure.transport import SecureTransport
from tests.secure.test_protocol import PumpTestCase
from tests.support.transportcontract import memoryPair


class RestTests(PumpTestCase):
    """A client and a server, which share nothing but the clock."""

    def setUp(self) -> None:
        """Connect both."""
        super().setUp()
        self.connect()
        self.transport = cast(SecureTransport, self.clientInner.transport)

    def resting(self) -> tuple[bool, bool]:
        """Tell of the client and of the server whether they are at rest."""
        return self.rests(self.client), self.rests(self.server)

    def rests(self, secure: SecureProtocol) -> bool:
        """Tell whether one is, and see that it keeps what it should."""
        channel = secure.channel
        ciphers = (channel._encrypt, channel._decrypt)
        made = [cipher._aead is not None for cipher in ciphers]
        if channel.resting:
            self.assertEqual(made, [False, False])
        return channel.resting

    def test_silence(self) -> None:
        """After two looks at which nothing had passed both rest, without a timer."""
        self.clock.advance(SILENCE)
        self.assertEqual(self.resting(), (False, False))
        self.clock.advance(SILENCE)
        self.assertEqual(self.resting(), (True, True))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_soon(self) -> None:
        """That takes two tenths of a second: those who have just come are few."""
        self.clock.pump([0.1, 0.1])
        self.assertEqual(self.resting(), (True, True))

    def test_again(self) -> None:
        """What comes wakes both, in any direction, until it is silent again."""
        for number in range(4):
            self.clock.pump([SILENCE] * 2)
            self.assertEqual(self.resting(), (True, True))
            inner = (self.clientInner, self.serverInner)[number % 2]
            inner.transport.write(b"%d" % number)
            self.turn()
            self.assertEqual(self.resting(), (False, False))
        self.assertEqual(self.serverInner.received, b"02")
        self.assertEqual(self.clientInner.received, b"13")

    def test_busy(self) -> None:
        """Who has anything to say between two looks does not rest."""
        for _ in range(5):
            self.transport.write(b"data")
            self.clock.advance(SILENCE)
            self.assertEqual(self.resting(), (False, False))

    def test_gone(self) -> None:
        """One that is gone is not looked after any more, at rest or awake."""
        self.clock.pump([SILENCE] * 2)
        self.transport.abortConnection()
        self.assertQuiet()

    def test_failed(self) -> None:
        """One that has failed has nothing left to let go of."""
        self.transport.write(b"data")
        self.turn()
        self.client.dataReceived(b"\x00\x10" + bytes(16))
        self.clock.pump([SILENCE] * 2)
        self.assertFalse(self.client.channel.resting)

    def test_ended(self) -> None:
        """One whose stream has ended in one direction may rest, and end."""
        self.clientInner.transport.loseWriteConnection()
        self.clock.pump([SILENCE] * 3)
        self.transport.loseConnection()
        self.assertQuiet()


class BadProducer:
    """A producer that cannot be paused."""

    def resumeProducing(self) -> None:
        """Produce nothing."""

    def pauseProducing(self) -> None:
        """Fail."""
        raise ZeroDivisionError

    def stopProducing(self) -> None:
        """Produce nothing."""


class TurnTests(PumpTestCase):
    """Two clients of one factory, each with a server."""

    def setUp(self) -> None:
        """Connect all of them."""
        super().setUp()
        self.connect()
        self.first, self.firstServer = self.clientInner, self.serverInner
        self.clientOwner.inner = self.clientInner = self.makeInner()
        self.serverOwner.inner = self.serverInner = self.makeInner()
        self.rawClient, self.rawServer = memoryPair(self.clock)
        self.client, self.server = self.makeClient(), self.makeServer()
        self.connect()
        self.clock.pump([SILENCE] * 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def write(self, first: bytes, second: bytes) -> None:
        """Write something over both connections."""
        self.first.transport.write(first)
        self.clientInner.transport.write(second)

    def test_together(self) -> None:
        """One call sends what all wrote in a turn, and did not leave at once."""
        self.write(b"a", b"c")
        self.write(b"b", b"d")
        calls = self.clock.getDelayedCalls()
        isEnd = [call for call in calls if "turnOver" in repr(call)]
        self.assertEqual(len(isEnd), 1)
        self.turn()
        self.assertEqual(self.firstServer.received, b"ab")
        self.assertEqual(self.serverInner.received, b"cd")

    def test_lost(self) -> None:
        """One that is gone by then is not told; if all are, nobody is."""
        self.write(b"a", b"b")
        self.first.transport.abortConnection()
        self.clientInner.transport.abortConnection()
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.clientOwner.log[-2:], ["ended"] * 2)

    def test_broken(self) -> None:
        """One over which something fails is closed, and others are told."""
        self.first.transport.registerProducer(BadProducer(), True)
        large = b"x" * 60000  # half of it leaves at once, and is all that fits
        self.write(large, b"a")
        self.write(large, b"b")
        self.turn()
        self.assertEqual(self.serverInner.received, b"ab")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.first.reasons), 1)
        self.assertEqual(self.clientInner.reasons, [])
