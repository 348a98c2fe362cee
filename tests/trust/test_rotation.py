"""
Changing a server's key without asking anybody: what L{aesm.server.factory},
L{aesm.client.connect}, L{aesm.trust.servers}, L{aesm.secure.options} and the command
line do together.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from aesm.client.connect import connect
from aesm.commands.cli import main
from aesm.commands.tap import Options
from aesm.errors import KeyFileError, ServerKeyChanged
from aesm.messages.connection import Connection
from aesm.server.factory import AESMServerFactory
from aesm.server.service import Server, listen
from aesm.testing import MemoryNetwork
from aesm.trust.files import stateDirectory
from aesm.trust.keys import PrivateKey, PublicKey, nextKeyOf
from aesm.trust.servers import AnyServer, KnownServers, Pinned
from tests.support.pairs import PairTestCase

OLD, NEW, OTHER, CLIENT = (PrivateKey(bytes([number]) * 32) for number in range(4))


class RotationTests(PairTestCase):
    """A server announces its next key, and then has it."""

    def setUp(self) -> None:
        """Have a state directory."""
        self.home = Path(self.mktemp()).absolute()
        self.patch(os, "environ", os.environ | {"AESM_HOME": str(self.home)})
        self.trust = KnownServers()

    def start(self, key: PrivateKey, nextKey: PublicKey | None = None) -> Server:
        """
        Start a server on a network of its own.

        @param nextKey: what it announces.
        """
        self.network = MemoryNetwork()
        server = self.successResultOf(
            listen(
                self.network.clock, self.network.endpoint(), key=key, nextKey=nextKey
            )
        )
        self.addCleanup(self.takeDown, self.network, server)
        return server

    def meet(self, trust: object = None) -> Deferred[Connection]:
        """
        Connect, always to the same location.

        @param trust: the client's; None for known servers.
        """
        connecting = connect(
            self.network.clock,
            self.network.endpoint(),
            key=CLIENT,
            trust=trust or self.trust,
        )
        self.network.deliver()
        return connecting

    def test_unnoticed(self) -> None:
        """
        A client that met the announcement accepts the new key, and from then on
        not the old one.
        """
        self.start(OLD, NEW.publicKey)
        self.successResultOf(self.meet())
        self.start(NEW)
        self.successResultOf(self.meet())
        self.assertEqual([key for _, key in self.trust.entries()], [NEW.publicKey])
        self.start(OLD)
        self.failureResultOf(self.meet(), ServerKeyChanged)

    def test_notMet(self) -> None:
        """A client that did not meet the announcement, or another one, is warned."""
        self.start(OLD)
        self.successResultOf(self.meet())
        self.start(NEW)
        self.failureResultOf(self.meet(), ServerKeyChanged)
        self.start(OLD, OTHER.publicKey)
        self.successResultOf(self.meet())
        self.start(NEW)
        self.failureResultOf(self.meet(), ServerKeyChanged)

    def test_otherPolicies(self) -> None:
        """Policies that remember nothing are not told."""
        self.start(OLD, NEW.publicKey)
        for trust in (AnyServer(), Pinned(OLD.publicKey)):
            self.successResultOf(self.meet(trust))
        self.assertFalse(self.trust.path.exists())

    def test_cannotRemember(self) -> None:
        """
        An announcement that cannot be remembered is a warning; the connection
        goes on.
        """
        self.start(OLD, NEW.publicKey)
        self.successResultOf(self.meet())
        announced = Path(f"{self.trust.path}.next")
        announced.write_text("nonsense\n")
        with capturedLogs() as events:
            self.successResultOf(self.meet())
        (event,) = [e for e in events if e["log_namespace"] == "aesm.client"]
        self.assertIn("not remembered", event["log_format"])

    def test_malformed(self) -> None:
        """So is one that is no key."""
        server = self.start(OLD)
        object.__setattr__(server.factory._messages, "nextKey", "A" * 44)
        with capturedLogs() as events:
            self.successResultOf(self.meet())
        self.assertTrue([e for e in events if e["log_namespace"] == "aesm.client"])
        self.assertFalse(Path(f"{self.trust.path}.next").exists())


class NextKeyFileTests(PairTestCase):
    """Where the next key comes from."""

    def setUp(self) -> None:
        """Have a state directory."""
        self.home = Path(self.mktemp()).absolute()
        self.patch(os, "environ", os.environ | {"AESM_HOME": str(self.home)})

    def test_beside(self) -> None:
        """It is in the file beside the present one's, if there is one."""
        file = self.home / "some.key"
        self.assertIsNone(nextKeyOf(file))
        NEW.save(f"{file}.next")
        self.assertEqual(nextKeyOf(str(file)), NEW.publicKey)

    def test_unusable(self) -> None:
        """A file that is there and cannot be used is an error, also a dangling link."""
        self.home.mkdir(mode=0o700)
        (self.home / "some.key.next").symlink_to(self.home / "nowhere")
        self.assertRaises(KeyFileError, nextKeyOf, self.home / "some.key")

    def test_stateDirectory(self) -> None:
        """A server with the state directory's key announces the one beside it."""
        factory = AESMServerFactory()
        self.assertEqual(factory._messages.nextKey, "")
        NEW.save(stateDirectory() / "server.key.next")
        factory = AESMServerFactory()
        self.assertEqual(factory._messages.nextKey, str(NEW.publicKey))
        factory = AESMServerFactory(key=OLD)
        self.assertEqual(factory._messages.nextKey, "")

    def test_twistd(self) -> None:
        """
        C{twistd aesm --key FILE} announces C{FILE.next}, which
        C{aesm keygen --next FILE} makes.
        """
        file = self.home / "my.key"
        self.assertEqual(main(["keygen", str(file)]), 0)
        self.assertEqual(main(["keygen", str(file), "--next"]), 0)
        options = Options()
        options.parseOptions(["--key", str(file)])
        made = PrivateKey.load(f"{file}.next").publicKey
        self.assertEqual(options.factory._messages.nextKey, str(made))

    def test_keygen(self) -> None:
        """C{aesm keygen --next} makes the next key of the state directory's server."""
        self.assertEqual(main(["keygen", "--next"]), 0)
        self.assertTrue((self.home / "server.key.next").exists())
        self.assertFalse((self.home / "server.key").exists())
        self.assertEqual(main(["keygen", "--next"]), 1)
