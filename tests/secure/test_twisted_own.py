"""
Twisted's own tests of its transports, pointed at ours; see L{tests.support.twistedown}.
"""

from __future__ import annotations

from importlib.util import find_spec

from twisted.trial.unittest import SynchronousTestCase

if find_spec("hamcrest") is None:

    class MissingTests(SynchronousTestCase):
        """Stands for them where they cannot be loaded."""

        skip = "Twisted's own tests need PyHamcrest"

        def test_missing(self) -> None:
            """They are not there."""

else:
    from tests.support import twistedown

    globals().update(
        {
            name: case
            for name, case in vars(twistedown).items()
            if name.startswith("Secure") and name.endswith("Tests")
        }
    )
