"""
The options of C{twistd aesm}.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.logger import capturedLogs, formatEvent
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.commands.tap import Options, makeService
from aesm.errors import SpoolError
from aesm.secure.openfiles import placesPossible
from aesm.store.sqlite import SpoolFile
from aesm.trust.keys import PSK, PrivateKey
from tests.commands.test_cli import beHomeless


class TapTestCase(SynchronousTestCase):
    """
    Options with a state directory of their own.

    @ivar home: the state directory.
    """

    def setUp(self) -> None:
        """Make a state directory."""
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir(0o700)
        self.patch(
            os,
            "environ",
            {**os.environ, "AESM_HOME": str(self.home), "AESM_CORE_DUMPS": "1"},
        )

    def parse(self, *arguments: str) -> Options:
        """
        Parse options.

        @param arguments: what follows C{twistd aesm}.
        """
        options = Options()
        options.parseOptions(list(arguments))
        if options.activityLog is not None:
            log = options.activityLog
            self.addCleanup(lambda: os.close(log._file))
        return options

    def file(self, name: str, content: str) -> str:
        """
        Write a file that only we can read.

        @param name: its name in the state directory.
        @param content: its text.
        @return: its path.
        """
        path = self.home / name
        path.write_text(content)
        path.chmod(0o600)
        return str(path)


class OptionsTests(TapTestCase):
    """What is right is taken."""

    def test_defaults(self) -> None:
        """
        Without options there is a server for this machine, open to all, with the
        state directory's key, which is made.
        """
        options = self.parse()
        self.assertEqual(list(options.endpoints), ["tcp:8765:interface=127.0.0.1"])
        self.assertTrue(options.factory.isOpen)
        key = PrivateKey.load(self.home / "server.key")
        self.assertEqual(options.factory.publicKey, key.publicKey)
        self.assertIsNone(options.activityLog)
        self.assertEqual(options.clientOptions(), [])
        self.assertEqual(options.control, str(self.home / "control.sock"))

    def test_control(self) -> None:
        """The control socket has another place, or none."""
        self.assertEqual(self.parse("--control", "/a/b").control, "/a/b")
        here = os.path.join(os.getcwd(), "b")
        self.assertEqual(self.parse("--control", "b").control, here)
        self.assertIsNone(self.parse("--no-control").control)

    def test_homeless(self) -> None:
        """Who has no home directory has no control socket, and serves all the same."""
        PrivateKey.generate().save(self.home / "my.key")
        beHomeless(self)
        with capturedLogs() as events:
            options = self.parse("--key", str(self.home / "my.key"))
        self.assertIsNone(options.control)
        [said] = [formatEvent(event) for event in events]
        self.assertRegex(
            said, "^no control socket: .* set AESM_HOME .* --control PATH$"
        )
        with capturedLogs() as events:
            self.parse("--key", str(self.home / "my.key"), "--no-control")
        self.assertEqual(events, [])

    def test_all(self) -> None:
        """All options together."""
        PSK.generate().save(self.home / "psk")
        clients = self.file("clients", "")
        key, psk, log = (str(self.home / name) for name in ("key", "psk", "log"))
        options = self.parse(
            *("--listen", "tcp:1", "--listen", "unix:/x"),
            *("--name", "other", "--key", key, "--psk", psk),
            *("--authorized-keys", clients, "--handler", "echo"),
            *("--max-connections", "1", "--max-connections-per-host", "2"),
            *("--max-message", "3", "--heartbeat", "4.5", "--handshake-timeout", "6"),
            *("--activity-log", log, "--session-grace", "7.5"),
            *("--spool", str(self.home / "spool"), "--spool-sync", "full"),
            *("--spool-max", "16777216"),
        )
        self.assertEqual(list(options.endpoints), ["tcp:1", "unix:/x"])
        self.assertFalse(options.factory.isOpen)
        public = PrivateKey.load(key).publicKey
        self.assertEqual(options.factory.publicKey, public)
        self.assertEqual(options.factory.handshakeTimeout, 6)
        self.assertEqual(options.clientOptions(), ["--name", "other", "--psk", psk])
        for path in (log, self.home / "spool"):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_openFiles(self) -> None:
        """
        It may have as many files open as the system allows, and has as many places; a
        quarter of them for one host, if nothing else is said.
        """
        limits = [(100, 2048)]
        self.patch(resource, "getrlimit", lambda what: limits[-1])
        self.patch(resource, "setrlimit", lambda what, new: limits.append(new))
        places = self.parse().factory._places
        self.assertEqual(limits[-1], (2048, 2048))
        self.assertEqual(places.maxConnections, placesPossible())
        self.assertEqual(places.maxPerHost, placesPossible() // 4)
        places = self.parse("--max-connections-per-host", "1000").factory._places
        self.assertEqual(places.maxPerHost, 1000)

    def test_relativePath(self) -> None:
        """
        The clients are read again where they were first, also once C{twistd} has
        changed its directory.
        """
        clients = os.path.relpath(self.file("clients", ""))
        factory = self.parse("--authorized-keys", clients).factory
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir("/")
        with capturedLogs() as events:
            factory.reloadKeys()
        self.assertEqual([event["count"] for event in events], [0])

    def test_upgrade(self) -> None:
        """
        The spool of a server that can be taken over from is left alone; if there is
        none, the spool is looked at as ever.
        """
        folder = tempfile.mkdtemp()  # short enough for a socket
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "spool")
        options = self.parse("--spool", path, "--upgrade")
        self.assertEqual(options.handover, f"{path}.handover")
        self.assertTrue(os.path.exists(path))
        file = SpoolFile(Path(path), full=False)
        self.addCleanup(file.close)
        with socket.socket(socket.AF_UNIX) as running:
            running.bind(f"{path}.handover")
            running.listen()
            self.parse("--spool", path, "--upgrade")
            self.assertRaises(usage.UsageError, self.parse, "--spool", path)
        self.assertRaises(usage.UsageError, self.parse, "--spool", path, "--upgrade")
        self.assertIsNone(self.parse().handover)

    def test_spool(self) -> None:
        """
        The spool is looked at, and let go of: the server opens it, where it was
        named, also once C{twistd} has changed its directory.
        """
        path = self.home / "spool"
        factory = self.parse("--spool", os.path.relpath(path)).factory
        SpoolFile(path, full=False).close()
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir("/")
        opened: Any = factory.manager.openStore
        spool = opened()
        self.assertRaises(SpoolError, SpoolFile, path, full=False)
        spool._file.close()

    def test_cluster(self) -> None:
        """The options of a cluster are those of the factory, in the words of here."""
        password = self.home / "password"
        password.write_text("word")
        password.chmod(0o600)
        engine = ("--cluster", "redis://127.0.0.1", "--cluster-name", "chat")
        more = ("--cluster-password", str(password), "--node", "one")
        options = self.parse(*engine, *more)
        self.assertIsNone(options.handover)
        openStore: Any = options.factory.manager.openStore
        store = openStore()
        self.assertEqual(store._engine.key("log"), "{aesm:chat}:log")
        self.assertEqual(store._engine._password, "word")
        for name in ("relay", "echo", "inbox", "chat", "chat-free-names"):
            self.parse(*engine, "--handler", name)
        for given, words in (
            (("--cluster", "http://127.0.0.1"), "redis+sentinel"),
            ((*engine, "--cluster-sync", "all"), "--cluster-sync must be"),
            ((*engine, "--node", "a b"), "--node must be"),
            (
                (*engine, "--spool", str(self.home / "spool")),
                "--cluster takes the place of --spool: give one of them",
            ),
            ((*engine, "--cluster-name", "{}"), "--cluster-name is"),
            ((*engine, "--upgrade"), "one by one"),
            ((*engine, "--cluster-password", str(self.home / "none")), "0600"),
            ((*engine, "--cluster-key", str(password)), "base64"),
        ):
            error = self.assertRaises(usage.UsageError, self.parse, *given)
            self.assertIn(words, str(error))
            self.assertNotIn("\n", str(error))

    def test_help(self) -> None:
        """C{--help} names each handler and says what it does."""
        usage = str(self.parse())
        for text in (
            "relay: each message",
            "echo: each",
            "inbox: messages",
            "--listen",
        ):
            self.assertIn(text, usage)


class WrongOptionsTests(TapTestCase):
    """What is wrong is one line, that says what would be right."""

    def refuse(self, *arguments: str) -> str:
        """
        Parse options that are wrong.

        @param arguments: what follows C{twistd aesm}.
        @return: the error's text.
        """
        error = self.assertRaises(usage.UsageError, self.parse, *arguments)
        self.assertTrue(str(error).isprintable(), error)
        return str(error)

    def test_numbers(self) -> None:
        """Numbers are numbers, and in their range; the text names the option."""
        for option, value in (
            ("--max-connections", "0"),
            ("--max-connections", "1.5"),
            ("--max-connections-per-host", "-1"),
            ("--max-message", "many"),
            ("--max-message", str(1 << 31)),
            ("--heartbeat", "nan"),
            ("--heartbeat", "often"),
            ("--handshake-timeout", "inf"),
            ("--session-grace", "-1"),
            ("--session-grace", "later"),
        ):
            text = self.refuse(option, value)
            self.assertTrue(text.startswith(f"{option} must be "), text)

    def test_name(self) -> None:
        """A name has a length that fits, and is text."""
        self.assertIn(
            "--name is longer than 255 bytes", self.refuse("--name", "ä" * 128)
        )
        self.assertIn("surrogates", self.refuse("--name", "\udcff"))

    def test_files(self) -> None:
        """Files are there, safe, and hold what they should."""
        missing = str(self.home / "missing")
        self.assertIn("aesm psk", self.refuse("--psk", missing))
        elsewhere = self.mktemp()
        self.assertIn("aesm keygen", self.refuse("--key", elsewhere))
        self.assertIn("KEY NAME", self.refuse("--authorized-keys", missing))
        bad = self.file("bad", "# clients\nnonsense\n")
        self.assertIn("line 2", self.refuse("--authorized-keys", bad))
        self.assertIn("X25519", self.refuse("--key", bad))
        os.chmod(bad, 0o644)
        self.assertIn("chmod 600", self.refuse("--key", bad))
        self.assertIn("regular file", self.refuse("--key", ""))
        log = str(self.home / "missing" / "log")
        self.assertIn("--activity-log", self.refuse("--activity-log", log))
        os.symlink(bad, self.home / "link")
        link = str(self.home / "link")
        self.assertIn("no symbolic link", self.refuse("--activity-log", link))

    def test_background(self) -> None:
        """The activity log goes to standard output in the foreground only."""
        for arguments, works in (([], False), (["-n"], True)):
            twistd = ServerOptions()
            line = [*arguments, "aesm", "--activity-log", "-"]
            if works:
                twistd.parseOptions(line)
            else:
                ended = self.assertRaises(SystemExit, twistd.parseOptions, line)
                self.assertIn("-n", str(ended))

    def test_upgrade(self) -> None:
        """Only what is in a spool can be taken over."""
        self.assertIn("--upgrade needs the --spool", self.refuse("--upgrade"))

    def test_spool(self) -> None:
        """A spool that cannot be opened is one line; so is one that is in use."""
        bad = self.file("bad", "nonsense")
        self.assertIn("--spool: ", self.refuse("--spool", bad))
        self.assertIn("is no spool", self.refuse("--spool", bad))
        self.assertIn("regular file", self.refuse("--spool", str(self.home)))
        path = self.home / "spool"
        file = SpoolFile(path, full=False)
        self.addCleanup(file.close)
        self.assertIn("another program", self.refuse("--spool", str(path)))
        self.assertIn(
            "--spool-sync must be one of", self.refuse("--spool-sync", "often")
        )
        self.assertIn(
            "--spool-max must be 16777216 or more", self.refuse("--spool-max", "1")
        )

    def test_handler(self) -> None:
        """The handlers that there are are named."""
        text = self.refuse("--handler", "nosuch")
        self.assertIn("echo, ", text)
        self.assertIn("relay", text)

    def test_endpoints(self) -> None:
        """What is no endpoint is shown, and what would be one."""
        for listen in ("8765", "tcp:", "nosuch:1", "", "tcp:99999", "tcp6:-1"):
            text = self.refuse("--listen", listen)
            self.assertIn(repr(listen), text)
            self.assertIn("tcp:8765:interface=127.0.0.1", text)

    def test_status(self) -> None:
        """Where the status page is, is an endpoint; a word alone leads nowhere."""
        self.assertIn("--status 'nosuch:1'", self.refuse("--status", "nosuch:1"))
        self.assertIn("--status-anyone: say where", self.refuse("--status-anyone"))
        self.assertIsNone(self.parse().status)

    def test_statusSocket(self) -> None:
        """Its UNIX socket is the owner's alone, unless its string says otherwise."""
        for text, mode in (("unix:s", 0o600), ("unix:s:mode=660", 0o660)):
            endpoint: Any = self.parse("--status", text).status
            self.assertEqual(endpoint._mode, mode)

    def test_noSocket(self) -> None:
        """Where no socket was handed over, what is missing is said."""
        for which in ("index=99", "name=nosuch"):
            listen = f"systemd:domain=INET:{which}"
            text = self.refuse("--listen", listen)
            self.assertIn(repr(listen), text)
            self.assertIn("LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES", text)

    def test_control(self) -> None:
        """There is a control socket or none."""
        text = self.refuse("--control", "/a/b", "--no-control")
        self.assertIn("give one of them", text)

    def test_arguments(self) -> None:
        """There are no arguments."""
        self.refuse("tcp:8765")


class PluginTests(TapTestCase):
    """What C{twistd} and C{twist} are told."""

    def test_plugin(self) -> None:
        """C{twistd} finds the service."""
        (maker,) = (m for m in getPlugins(IServiceMaker) if m.tapname == "aesm")
        self.assertIs(maker.options, Options)
        verifyObject(IService, maker.makeService(self.parse()))
        self.assertIs(maker.makeService, makeService)
