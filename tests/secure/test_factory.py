"""
Tests for L{aesm.secure.factory}: what is silent keeps no more than its keys.
"""

from __future__ import annotations

from typing import cast

from aesm.secure.factory import SILENCE
from aesm.secure.protocol import SecureProtocol
from aesm.secure.transport import SecureTransport
from tests.secure.test_protocol import PumpTestCase


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
