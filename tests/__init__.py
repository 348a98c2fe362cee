"""
Tests of aesm; run them with C{python -m twisted.trial tests}, one module's with
C{python -m twisted.trial tests.core.messages.test_outbox}.  C{tests/README.md} says
which to read first.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent  # the checkout, or what looks like one
VECTORS = ROOT / "tests" / "vectors"
