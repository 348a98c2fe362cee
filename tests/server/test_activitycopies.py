"""
Entries of the activity log can be copied and pickled.
"""

from __future__ import annotations

import copy
import pickle

from twisted.trial.unittest import SynchronousTestCase

from aesm import PrivateKey
from aesm.server.registry import Activity


class CopyTests(SynchronousTestCase):
    """Copies of L{Activity}."""

    def test_copies(self) -> None:
        """They are equal, with all attributes."""
        peer = PrivateKey.generate().publicKey
        entry = Activity(("127.0.0.1", 1), "refused", 2.0, "why", peer, 7)
        for made in (
            copy.copy(entry),
            copy.deepcopy(entry),
            *(
                pickle.loads(pickle.dumps(entry, protocol))
                for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
            ),
        ):
            self.assertIs(type(made), Activity)
            self.assertEqual(made, entry)
            self.assertEqual(vars(made), vars(entry))

    def test_privateKey(self) -> None:
        """A private key is not pickled by accident."""
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            self.assertRaises(TypeError, pickle.dumps, PrivateKey.generate(), protocol)
