"""
Options that clients and servers share.
"""

from __future__ import annotations

from pathlib import Path

from aesm.commands.options import ownKey
from aesm.errors import KeyFileError
from aesm.trust.keys import PrivateKey
from tests.commands.test_cli import CommandTestCase


class OwnKeyTests(CommandTestCase):
    """The option C{--key} of clients and servers."""

    def test_missing(self) -> None:
        """
        A key that is missing is made in the state directory only; elsewhere the
        error says what makes one.
        """
        self.assertIsNone(ownKey(None))
        path = Path(self.mktemp()) / "my.key"
        error = self.assertRaises(KeyFileError, ownKey, str(path))
        self.assertIn(f"`aesm keygen {path}`", str(error))
        self.assertFalse(path.parent.exists())
        key = ownKey(str(self.home / "my.key"))
        assert key is not None
        self.assertEqual(PrivateKey.load(self.home / "my.key").raw, key.raw)

    def test_client(self) -> None:
        """So it is for a client."""
        path = self.mktemp()
        self.assertIn("aesm keygen", self.bad("connect", "tcp:h:1", "--key", path))
