"""
Tests for L{aesm.cluster.opening}.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm.cluster import opening
from aesm.cluster.opening import engineOpener, readPassword
from aesm.cluster.sealing import Sealer
from aesm.errors import KeyFileError
from aesm.trust.keys import PSK


class OpenerTests(SynchronousTestCase):
    """L{engineOpener}."""

    def opener(self, url: str = "redis://127.0.0.1", **options: Any) -> Any:
        """Check options."""
        usual: dict[str, Any] = {
            "name": "aesm",
            "password": None,
            "sync": "primary",
            "key": None,
            "node": None,
            "grace": 60.0,
            "perKey": 0,
            "clock": Clock(),
        }
        return engineOpener(url, **(usual | options))

    def assertRefused(self, words: str, **options: Any) -> None:
        """Check that options are refused, and why."""
        error = self.assertRaises(ValueError, self.opener, **options)
        self.assertIn(words, str(error))

    def test_opens(self) -> None:
        """Each store is that of a node which no process was before."""
        openStore = self.opener(node="one")
        nodes = [openStore()._engine.node for _ in range(2)]
        self.assertNotEqual(*nodes)
        for node in nodes:
            self.assertRegex(node, "^one-[0-9a-f]{8}$")

    def test_name(self) -> None:
        """A node is called what its machine is, if it is not said."""
        node = self.opener()()._engine.node
        self.assertEqual(node.rpartition("-")[0], socket.gethostname())

    def test_wrong(self) -> None:
        """What cannot be is refused before anything is connected."""
        self.assertRefused("http", url="http://127.0.0.1")
        self.assertRefused("clusterSync", sync="all")
        for name in ("", "a{b}", "a\n"):
            self.assertRefused("clusterName", name=name)
        for node in ("", "a b", "a:b", "a\x00"):
            self.assertRefused("node", node=node)
        self.assertRefused("32 bytes", key=b"short")

    def test_extra(self) -> None:
        """What is not installed is named, with how to install it."""
        self.patch(opening, "find_spec", lambda module: None)
        self.assertRefused("aesm[cluster]")
        missing = "OpenSSL", "service_identity"
        self.patch(opening, "find_spec", lambda it: None if it in missing else it)
        self.opener()
        for url in ("rediss://localhost", "rediss+sentinel://localhost/main"):
            self.assertRefused("twisted[tls]", url=url)

    def test_key(self) -> None:
        """The key that seals is given, or in a file as C{aesm psk} makes it."""
        key, path = PSK.generate(), self.mktemp()
        key.save(path)
        sealed = Sealer(key, "aesm").seal(b"x", "place")
        for given in (key, path):
            store = self.opener(key=given)()
            self.assertEqual(store._sealer.open(sealed, "place"), b"x")
        os.chmod(path, 0o644)
        self.assertRaises(KeyFileError, self.opener, key=path)

    def test_password(self) -> None:
        """The password is given, or the one line of a file that only we can read."""
        path = Path(self.mktemp())
        path.write_text("word\n")
        os.chmod(path, 0o600)
        for given in (b"word", path, str(path)):
            self.assertEqual(readPassword(given), "word")
            store = self.opener(password=given)()
            self.assertEqual(store._engine._password, "word")
        for content in ("", "\n", "two\nlines"):
            path.write_text(content)
            self.assertRaises(KeyFileError, readPassword, path)
        os.chmod(path, 0o644)
        self.assertRaises(KeyFileError, readPassword, path)
        error = self.assertRaises(KeyFileError, readPassword, self.mktemp())
        self.assertIn("0600", str(error))
