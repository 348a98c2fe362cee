"""
The C{aesm} command, as far as it needs no server.
"""

from __future__ import annotations

import os
import stat
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from aesm._version import FORM, __version__
from aesm.commands.cli import ConnectOptions, Options, ServeOptions, main
from aesm.commands.options import ownKey
from aesm.commands.tap import Options as TwistdOptions
from aesm.errors import KeyFileError
from aesm.trust.keys import PSK, PrivateKey, PublicKey
from aesm.trust.servers import KnownServers

KEY = PrivateKey.generate().publicKey


class CommandTestCase(SynchronousTestCase):
    """
    Commands in this process, with a state directory of their own.

    @ivar home: the state directory.
    """

    def setUp(self) -> None:
        """Make a state directory, and catch what is said."""
        self.home = Path(self.mktemp()).absolute()
        self.patch(
            os,
            "environ",
            {**os.environ, "AESM_HOME": str(self.home), "AESM_CORE_DUMPS": "1"},
        )

    def execute(self, *arguments: str) -> tuple[int, str, str]:
        """
        Run a command.

        @param arguments: what follows C{aesm}.
        @return: exit status, standard output, standard error.
        """
        output, errors = StringIO(), StringIO()
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", errors)
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, output.getvalue(), errors.getvalue()

    def good(self, *arguments: str) -> str:
        """
        Run a command that does what it should.

        @param arguments: what follows C{aesm}.
        @return: what it prints.
        """
        status, output, errors = self.execute(*arguments)
        self.assertEqual((status, errors), (0, ""))
        return output

    def bad(self, *arguments: str) -> str:
        """
        Run a command that fails: with status 1, and one sentence.

        @param arguments: what follows C{aesm}.
        @return: the sentence.
        """
        status, output, errors = self.execute(*arguments)
        self.assertEqual((status, output), (1, ""))
        self.assertRegex(errors, r"\Aaesm: [^\n]+\n\Z")
        return errors


class UsageTests(CommandTestCase):
    """The command explains itself."""

    def test_help(self) -> None:
        """C{--help} lists the commands, and each command its options."""
        for command in ("connect", "serve", "keygen", "pubkey", "psk", "known"):
            self.assertIn(f"    {command} ", self.good("--help"))
            usage = self.good(command, "--help")
            self.assertTrue(usage.startswith(f"Usage: aesm {command} "), usage)

    def test_version(self) -> None:
        """C{--version} is that of aesm, everywhere, and says in which form it runs."""
        version = f"aesm {__version__} ({FORM})\n"
        self.assertEqual(self.good("--version"), version)
        self.assertEqual(self.good("known", "--version"), version)

    def test_wrong(self) -> None:
        """What cannot be parsed is one sentence, and names the help that helps."""
        self.assertIn("`aesm --help`", self.bad())
        self.assertIn("nosuch", self.bad("nosuch"))
        self.assertIn("--nosuch", self.bad("--nosuch"))
        self.assertIn("`aesm known --help`", self.bad("known", "argument"))
        self.assertIn("--nosuch", self.bad("connect", "tcp:h:1", "--nosuch"))

    def test_ownArguments(self) -> None:
        """Without arguments in code they are those of the process."""
        self.patch(sys, "argv", ["aesm", "--version"])
        self.patch(sys, "stdout", StringIO())
        self.assertRaises(SystemExit, main)


class ConnectOptionsTests(CommandTestCase):
    """The options of C{aesm connect}."""

    def parse(self, *arguments: str) -> ConnectOptions:
        """
        Parse options.

        @param arguments: what follows C{aesm connect}.
        """
        options = Options()
        options.parseOptions(["connect", *arguments])
        connect = options.subOptions
        assert isinstance(connect, ConnectOptions)
        return connect

    def test_order(self) -> None:
        """Options may stand before the endpoint and behind it."""
        for arguments in (
            ["tcp:h:1", "--name", "n", "--json", "--pin", str(KEY)],
            ["--name=n", "--json", "--pin", str(KEY), "tcp:h:1"],
        ):
            options = self.parse(*arguments)
            self.assertEqual(options.endpoint, "tcp:h:1")
            self.assertEqual((options["name"], options["json"]), ("n", 1))
            self.assertEqual(options.pins, [KEY])

    def test_defaults(self) -> None:
        """Nothing but the endpoint is needed."""
        options = self.parse("tcp:h:1")
        self.assertEqual(
            (options["name"], options["key"], options["psk"], options["json"]),
            ("aesm", None, None, 0),
        )

    def test_wait(self) -> None:
        """C{--wait} takes seconds, or -1; C{--receive} has nothing to wait for."""
        for given, wait in (("1.5", 1.5), ("0", 0.0), ("-1", -1.0)):
            self.assertEqual(self.parse("tcp:h:1", "--wait", given).wait, wait)
        for given in ("-2", "nan", "inf", "soon"):
            self.assertIn("--wait", self.bad("connect", "tcp:h:1", "--wait", given))
        both = self.bad("connect", "tcp:h:1", "--wait", "1", "--receive")
        self.assertIn("one of them", both)

    def test_notUTF8(self) -> None:
        """Names are UTF-8: bytes of another encoding are none."""
        for option in ("name", "nick"):
            bad = self.bad("chat", "tcp:h:1", "--nick=n", f"--{option}", "\udce4")
            self.assertIn(f"--{option}: give text in UTF-8", bad)

    def test_wrong(self) -> None:
        """What does not fit is a sentence."""
        self.assertIn("arguments", self.bad("connect"))
        self.assertIn("--pin", self.bad("connect", "tcp:h:1", "--pin", "abc"))
        both = ["connect", "tcp:h:1", "--pin", str(KEY), "--any-server"]
        self.assertIn("one of them", self.bad(*both))
        self.assertIn("regular file", self.bad("connect", "tcp:h:1", "--key", ""))


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


class ServeOptionsTests(CommandTestCase):
    """The options of C{aesm serve}."""

    def assertStatus(self, expected: int, *arguments: str) -> str:
        """
        Run a server that does not start, and says why in one sentence.

        @param expected: its exit status.
        @param arguments: what follows C{aesm serve}.
        @return: the sentence.
        """
        status, output, errors = self.execute("serve", *arguments)
        self.assertEqual((status, output), (expected, ""))
        self.assertRegex(errors, r"\Aaesm: [^\n]+\n\Z")
        return errors

    def test_shared(self) -> None:
        """It has the options of C{twistd aesm}, and those of the log beside them."""
        ours, theirs = set(ServeOptions().longOpt), set(TwistdOptions().longOpt)
        more = {"log-level=", "log-format=", "reactor=", "help-reactors"}
        self.assertEqual(ours - theirs, more)
        self.assertEqual(theirs - ours, set())

    def test_wrong(self) -> None:
        """Options that are wrong are status 2: another start would not help."""
        for arguments in (
            ["--nosuch"],
            ["argument"],
            ["--max-message", "many"],
            ["--heartbeat", "-1"],
            ["--listen", "nosuch:1"],
            ["--log-level", "critical"],
            ["--log-format", "xml"],
            ["--reactor", "nosuch"],
        ):
            errors = self.assertStatus(2, *arguments)
            self.assertIn("`aesm serve --help`", errors)
            self.assertIn(arguments[0].lstrip("-")[:7], errors)
            self.assertNotIn("\\n", errors)

    def test_notUsable(self) -> None:
        """Files and sockets that cannot be used as things are, are status 1."""
        missing = str(self.home / "missing" / "file")
        for option in ("--key", "--psk", "--authorized-keys", "--activity-log"):
            self.assertIn("missing", self.assertStatus(1, option, missing))
        self.assertIn("--spool: ", self.assertStatus(1, "--spool", str(self.home)))
        systemd = "systemd:domain=INET:index=99"
        self.assertIn("LISTEN_FDS", self.assertStatus(1, "--listen", systemd))


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
