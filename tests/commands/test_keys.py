"""
Commands about keys.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from aesm.trust.keys import PSK, PrivateKey, PublicKey
from aesm.trust.servers import KnownServers
from tests.commands.test_cli import CommandTestCase

KEY = PrivateKey.generate().publicKey


class KeyTests(CommandTestCase):
    """Making and showing keys."""

    def makes(self, *arguments: str, file: str) -> str:
        """
        Run a command that makes a key, and says where.

        @return: what it prints.
        """
        status, output, errors = self.execute(*arguments)
        self.assertEqual(status, 0)
        self.assertRegex(errors, r"\Aaesm: made a new [a-z -]+ in .+\n\Z")
        self.assertIn(file, errors)
        return output

    def test_keygen(self) -> None:
        """
        C{keygen FILE} makes a private key and prints its public key, which
        C{pubkey FILE} prints again.
        """
        file = self.mktemp()
        text = self.makes("keygen", file, file=file).strip()
        self.assertEqual(PrivateKey.load(file).publicKey, PublicKey.fromText(text))
        self.assertEqual(self.good("pubkey", file).strip(), text)

    def test_ownKey(self) -> None:
        """Without FILE it is the key that C{aesm connect} uses."""
        made = self.home / "client.key"
        text = self.makes("keygen", file=str(made)).strip()
        key = PrivateKey.load(self.home / "client.key")
        self.assertEqual(str(key.publicKey), text)
        self.assertEqual(self.good("pubkey").strip(), text)

    def test_neverOverwritten(self) -> None:
        """A file that is there stays as it is."""
        for command in ("keygen", "psk"):
            file = Path(self.mktemp())
            self.makes(command, str(file), file=str(file))
            before = file.read_bytes()
            self.assertIn("not overwritten", self.bad(command, str(file)))
            self.assertEqual(file.read_bytes(), before)

    def test_directory(self) -> None:
        """Who names a directory is told so, and not to remove it."""
        for command in ("keygen", "psk"):
            folder = self.mktemp()
            os.mkdir(folder)
            said = self.bad(command, folder)
            self.assertIn("is a directory", said)
            self.assertNotIn("rm ", said)

    def test_noKey(self) -> None:
        """A file that is not there, and what makes one."""
        self.assertIn("aesm keygen", self.bad("pubkey"))

    def test_psk(self) -> None:
        """C{psk FILE} makes a file for its owner, and prints nothing of it."""
        file = self.mktemp()
        self.assertEqual(self.makes("psk", file, file=file), "")
        self.assertEqual(stat.S_IMODE(os.stat(file).st_mode), 0o600)
        PSK.load(file)

    def test_pskText(self) -> None:
        """C{psk} prints what such a file holds."""
        file = Path(self.mktemp())
        file.write_text(self.good("psk"))
        file.chmod(0o600)
        PSK.load(file)


class KnownTests(CommandTestCase):
    """The servers that are known."""

    def test_list(self) -> None:
        """C{known} lists them, none at first."""
        self.assertEqual(self.good("known"), "")
        KnownServers().remember("host:1", KEY)
        self.assertEqual(self.good("known"), f"host:1 {KEY}\n")

    def test_forget(self) -> None:
        """C{known --forget} forgets one, or says that there is none."""
        KnownServers().remember("host:1", KEY)
        self.assertIn("no host:2", self.bad("known", "--forget", "host:2"))
        self.assertEqual(self.good("known", "--forget", "host:1"), "")
        self.assertEqual(self.good("known"), "")

    def test_badFile(self) -> None:
        """A file that cannot be used is a sentence."""
        self.home.mkdir()
        (self.home / "known_servers").write_text("nonsense\n")
        (self.home / "known_servers").chmod(0o600)
        self.assertIn("line 1", self.bad("known"))
