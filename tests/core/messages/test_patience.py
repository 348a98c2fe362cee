"""
Tests of L{aesm.core.messages.patience}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.patience import CHATTER, Patience
from aesm.errors import ProtocolError


class PatienceTests(SynchronousTestCase):
    """L{Patience} ends."""

    def test_spent(self) -> None:
        """So many are tolerated in advance, and one more for each that is due."""
        patience = Patience(5.0)
        for _ in range(CHATTER):
            patience.spend(5.0, 2.0)
        patience.spend(5.5, 2.0)
        self.assertRaises(ProtocolError, patience.spend, 5.9, 2.0)

    def test_full(self) -> None:
        """Who was quiet for long has no more than that."""
        patience = Patience(0.0)
        patience.spend(1e6, 2.0)
        for _ in range(CHATTER - 1):
            patience.spend(1e6, 2.0)
        self.assertRaises(ProtocolError, patience.spend, 1e6, 2.0)
