"""
Options that clients and servers share.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from aesm.commands.options import endpointReason, inOptions, ownKey
from aesm.errors import KeyFileError
from aesm.secure.hosts import clientEndpoint
from aesm.secure.listening import serverEndpoint
from aesm.trust.keys import PrivateKey
from tests.commands.test_cli import CommandTestCase, beHomeless


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

    def test_homeless(self) -> None:
        """A user without a home directory may have a key all the same."""
        key = ownKey(str(self.home / "my.key"))
        assert key is not None
        beHomeless(self)
        again = ownKey(str(self.home / "my.key"))
        assert again is not None
        self.assertEqual(again.raw, key.raw)

    def test_client(self) -> None:
        """So it is for a client."""
        path = self.mktemp()
        self.assertIn("aesm keygen", self.bad("connect", "tcp:h:1", "--key", path))


class EndpointReasonTests(SynchronousTestCase):
    """Why an endpoint's string means none."""

    def reason(self, parse: Callable[..., object], text: str) -> str:
        """Say why not."""
        with self.assertRaises((TypeError, ValueError)) as caught:
            parse(MemoryReactor(), text)
        return endpointReason(text, caught.exception)

    def test_clients(self) -> None:
        """It is said of strings, not of the arguments of Python that they become."""
        for text, expected in (
            ("tcp:host", "tcp: needs a port"),
            ("tcp:", "tcp: needs a port"),
            ("tls:host", "tls: needs a port"),
            ("tcp:host:1:foo=2", "tcp: has no foo="),
            ("tcp:host:1:host=x:port=x", "tcp: 'x' is not a number"),
            ("tcp:host:x", "tcp: 'x' is not a number"),
            ("tcp:host:1:timeout=x", "tcp: 'x' is not a number"),
            ("tcp:host:99999", "a port is 1 to 65535, not 99999"),
            ("foo:host:1", "Unknown endpoint type: 'foo'"),
            ("websocket:host:1", "websocket: is for servers only"),
            ("foo\x1b:host:1", r"Unknown endpoint type: 'foo\x1b'"),
        ):
            self.assertEqual(self.reason(clientEndpoint, text), expected)

    def test_servers(self) -> None:
        """So it is for those to listen on."""
        for text, expected in (
            ("tcp:host", "tcp: 'host' is not a number"),
            ("tcp:1:foo=2", "tcp: has no foo="),
            ("tcp:1:port=2", "tcp: has one port only"),
            ("tcp:1:2:3:4:5", "tcp: has not so many words"),
            ("reuseport:", "reuseport: a port is 0 to 65535, not ''"),
        ):
            self.assertEqual(self.reason(serverEndpoint, text), expected)


class InOptionsTests(SynchronousTestCase):
    """Names in code, and those of a command line."""

    def test_spelled(self) -> None:
        """An option has its own name wherever an error names it as code does."""
        options = "name", "psk", "cluster", "cluster-name", "max-message"
        for said, expected in (
            ("name is longer than 1", "--name is longer than 1"),
            ("cluster: there is no x", "--cluster: there is no x"),
            ("clusterName is no name", "--cluster-name is no name"),
            ("raise maxMessage= there", "raise --max-message there"),
            ("more than maxMessage", "more than --max-message"),
            ("the name= or psk=: wrong", "the --name or --psk: wrong"),
            ("our psk=, or (name=)", "our --psk, or (--name)"),
            ("a psk=\x1b", "a psk=\\x1b"),
            ("suites= and totalBuffer", "suites= and totalBuffer"),
            ("the key ab/psk= is no key", "the key ab/psk= is no key"),
            ("'tcp:h:name=x' of psk=x", "'tcp:h:name=x' of psk=x"),
        ):
            self.assertEqual(inOptions(said, options), expected)
