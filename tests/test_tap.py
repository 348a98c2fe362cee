"""
The options and the service of C{twistd aesm}.
"""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

from twisted.application.service import IService, IServiceMaker
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.stdio import PipeAddress
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, capturedLogs
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm.keys import PSK, PrivateKey
from aesm.tap import AESMService, Options, activityLine, clientLine, makeService


class TapTestCase(SynchronousTestCase):
    """
    Options with a state directory of their own.

    @ivar home: the state directory.
    """

    def setUp(self) -> None:
        """
        Make a state directory.
        """
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir(0o700)
        self.patch(os, "environ", {**os.environ, "AESM_HOME": str(self.home)})

    def parse(self, *arguments: str) -> Options:
        """
        Parse options.

        @param arguments: what follows C{twistd aesm}.
        """
        options = Options()
        options.parseOptions(list(arguments))
        if options.activityLog is not None:
            self.addCleanup(options.activityLog.close)
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
    """
    What is right is taken.
    """

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

    def test_all(self) -> None:
        """
        All options together.
        """
        PSK.generate().save(self.home / "psk")
        clients = self.file("clients", "")
        key, psk, log = (str(self.home / name) for name in ("key", "psk", "log"))
        options = self.parse(
            *("--listen", "tcp:1", "--listen", "unix:/x"),
            *("--name", "other", "--key", key, "--psk", psk),
            *("--authorized-keys", clients, "--handler", "echo"),
            *("--max-connections", "1", "--max-connections-per-host", "2"),
            *("--max-message", "3", "--heartbeat", "4.5", "--handshake-timeout", "6"),
            *("--activity-log", log),
        )
        self.assertEqual(list(options.endpoints), ["tcp:1", "unix:/x"])
        self.assertFalse(options.factory.isOpen)
        public = PrivateKey.load(key).publicKey
        self.assertEqual(options.factory.publicKey, public)
        self.assertEqual(options.factory.handshakeTimeout, 6)
        self.assertEqual(options.clientOptions(), ["--name", "other", "--psk", psk])
        self.assertEqual(stat.S_IMODE(os.stat(log).st_mode), 0o600)

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
        self.assertEqual(events, [])

    def test_help(self) -> None:
        """
        C{--help} names each handler and says what it does.
        """
        usage = str(self.parse())
        for text in (
            "relay: each message",
            "echo: each",
            "inbox: messages",
            "--listen",
        ):
            self.assertIn(text, usage)


class WrongOptionsTests(TapTestCase):
    """
    What is wrong is one line, that says what would be right.
    """

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
        """
        Numbers are numbers, and in their range; the text names the option.
        """
        for option, value in (
            ("--max-connections", "0"),
            ("--max-connections", "1.5"),
            ("--max-connections-per-host", "-1"),
            ("--max-message", "many"),
            ("--max-message", str(1 << 31)),
            ("--heartbeat", "nan"),
            ("--heartbeat", "often"),
            ("--handshake-timeout", "inf"),
        ):
            text = self.refuse(option, value)
            self.assertTrue(text.startswith(f"{option} must be "), text)

    def test_name(self) -> None:
        """
        A name has a length that fits, and is text.
        """
        self.assertIn(
            "--name is longer than 255 bytes", self.refuse("--name", "ä" * 128)
        )
        self.assertIn("surrogates", self.refuse("--name", "\udcff"))

    def test_files(self) -> None:
        """
        Files are there, safe, and hold what they should.
        """
        missing = str(self.home / "missing")
        self.assertIn("aesm psk", self.refuse("--psk", missing))
        self.assertIn("KEY NAME", self.refuse("--authorized-keys", missing))
        bad = self.file("bad", "# clients\nnonsense\n")
        self.assertIn("line 2", self.refuse("--authorized-keys", bad))
        self.assertIn("X25519", self.refuse("--key", bad))
        os.chmod(bad, 0o644)
        self.assertIn("chmod 600", self.refuse("--key", bad))
        self.assertIn("regular file", self.refuse("--key", ""))
        log = str(self.home / "missing" / "log")
        self.assertIn("--activity-log", self.refuse("--activity-log", log))

    def test_handler(self) -> None:
        """
        The handlers that there are are named.
        """
        text = self.refuse("--handler", "nosuch")
        self.assertIn("echo, ", text)
        self.assertIn("relay", text)

    def test_endpoints(self) -> None:
        """
        What is no endpoint is shown, and what would be one.
        """
        for listen in ("8765", "tcp:", "nosuch:1", "", "systemd:domain=INET:index=99"):
            text = self.refuse("--listen", listen)
            self.assertIn(repr(listen), text)
            self.assertIn("tcp:8765:interface=127.0.0.1", text)

    def test_arguments(self) -> None:
        """
        There are no arguments.
        """
        self.refuse("tcp:8765")


@implementer(IStreamServerEndpoint)
class LateEndpoint:
    """
    An endpoint that takes its time.
    """

    def __init__(self) -> None:
        """
        Nobody listens yet.
        """
        self.listening: Deferred[Any] = Deferred()

    def listen(self, protocolFactory: object) -> Deferred[Any]:
        """
        Begin to listen.

        @param protocolFactory: not used.
        @see: L{IStreamServerEndpoint}
        """
        return self.listening


class ServiceTests(TapTestCase):
    """
    The service listens by itself, and says so.
    """

    def serve(self, *arguments: str, port: int = 8765) -> AESMService:
        """
        Make a service on a reactor in memory.

        @param arguments: options.
        @param port: where it listens.
        """
        self.reactor = MemoryReactorClock()
        options = self.parse(*arguments)
        options.endpoints = {
            "tcp:1": TCP4ServerEndpoint(self.reactor, port, interface="127.0.0.1")
        }
        return AESMService(self.reactor, options)

    def test_plugin(self) -> None:
        """
        C{twistd} finds the service.
        """
        (maker,) = (m for m in getPlugins(IServiceMaker) if m.tapname == "aesm")
        self.assertIs(maker.options, Options)
        verifyObject(IService, maker.makeService(self.parse()))
        self.assertIs(maker.makeService, makeService)

    def test_start(self) -> None:
        """
        It listens once, also where nobody has called C{privilegedStartService}.
        """
        for privileged in (True, False):
            service = self.serve()
            if privileged:
                service.privilegedStartService()
            service.startService()
            self.assertEqual(len(self.reactor.tcpServers), 1)
            stopped = service.stopService()
            assert stopped is not None
            self.successResultOf(stopped)

    def test_says(self) -> None:
        """
        The log shows what to type at a client.
        """
        service = self.serve()
        with capturedLogs() as events:
            service.startService()
        lines = [event["line"] for event in events if "line" in event]
        key = service._options.factory.publicKey
        self.assertEqual(lines, [f"aesm connect tcp:HOST:8765 --pin {key}"])

    def test_cannotListen(self) -> None:
        """
        Where it cannot listen, the log says why, and the process ends.
        """
        service = self.serve()
        service._options.endpoints["tcp:2"] = _Failing()
        with capturedLogs() as events:
            ended = self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertEqual(ended.code, 1)
        (said,) = (event for event in events if event["log_level"].name == "critical")
        self.assertEqual(said["endpoint"], "tcp:2")
        self.assertIn("in use", said["reason"])
        self.assertIsNone(service.stopService())

    def test_noClients(self) -> None:
        """
        Where clients cannot connect to, there is nothing for them to type.
        """
        service = self.serve()
        late = LateEndpoint()
        service._options.endpoints = {"late:": late}
        service.startService()
        with capturedLogs() as events:
            late.listening.callback(_Port())
        self.assertEqual([event for event in events if "line" in event], [])

    def test_cannotListenLater(self) -> None:
        """
        Where it turns out later, the reactor is stopped.
        """
        service = self.serve()
        late = LateEndpoint()
        service._options.endpoints = {"late:": late}
        service.startService()
        late.listening.errback(OSError("no"))
        self.assertTrue(self.reactor.hasStopped)

    def test_hangUp(self) -> None:
        """
        SIGHUP reads the authorized keys again, as long as the service runs; without
        such a file it means what it meant before.
        """
        before = signal.getsignal(signal.SIGHUP)
        service = self.serve()
        service.startService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)
        clients = self.file("clients", "")
        service = self.serve("--authorized-keys", clients)
        calls: list[Any] = []
        self.reactor.callFromThread = calls.append  # type: ignore[attr-defined]
        service.startService()
        signal.raise_signal(signal.SIGHUP)
        self.file("clients", "nonsense")
        with capturedLogs() as events:
            calls[0]()
        self.assertIn("line 1", events[0]["error"])
        service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    def test_activityLog(self) -> None:
        """
        The activity goes into its file as it happens, and nothing else does.
        """
        log = Path(self.file("log", "before\n"))
        service = self.serve("--activity-log", str(log))
        service.startService()
        connections = service._options.factory.connections
        connections.record(("10.0.0.1", 5), "refused", 1.5, "why\n", None)
        Logger(namespace="aesm.activity").warn("about the log")
        Logger(namespace="other").info("{event}", event="accepted")
        before, line = log.read_text().splitlines()
        self.assertEqual(before, "before")
        self.assertEqual(
            json.loads(line),
            {
                "time": 1.5,
                "event": "refused",
                "accepted": False,
                "address": "10.0.0.1:5",
                "peer": None,
                "reason": "why\n",
            },
        )
        stopped = service.stopService()
        assert stopped is not None
        self.successResultOf(stopped)
        connections.record("unix-1", "refused", 2.5, "", None)
        self.assertEqual(len(log.read_text().splitlines()), 2)


class _Port:
    """
    A port that is no socket.
    """

    def getHost(self) -> PipeAddress:
        """
        Say where it is.
        """
        return PipeAddress()


@implementer(IStreamServerEndpoint)
class _Failing:
    """
    An endpoint that is in use.
    """

    def listen(self, protocolFactory: object) -> Deferred[Any]:
        """
        Fail.

        @param protocolFactory: not used.
        @see: L{IStreamServerEndpoint}
        """
        return fail(CannotListenError("127.0.0.1", 1, OSError(98, "in use")))


class LineTests(SynchronousTestCase):
    """
    What the service writes.
    """

    def test_clientLine(self) -> None:
        """
        A client's line can be pasted into a shell.
        """
        here = os.getcwd()
        for address, options, line in (
            (IPv4Address("TCP", "127.0.0.1", 1), [], "tcp:127.0.0.1:1"),
            (IPv6Address("TCP", "::1", 1), [], r"'tcp:\:\:1:1'"),
            (IPv4Address("TCP", "0.0.0.0", 1), [], "tcp:HOST:1"),
            (IPv6Address("TCP", "::", 1), [], "tcp:HOST:1"),
            (UNIXAddress("/a b"), [], "'unix:/a b'"),
            (UNIXAddress("a"), [], f"unix:{here}/a"),
            (IPv4Address("TCP", "h", 1), ["--name", "a b"], "tcp:h:1 --name 'a b'"),
        ):
            self.assertEqual(
                clientLine(address, "KEY", options), f"aesm connect {line} --pin KEY"
            )
        for elsewhere in (PipeAddress(), UNIXAddress(None)):
            self.assertIsNone(clientLine(elsewhere, "KEY", []))

    def test_otherEvents(self) -> None:
        """
        What is not activity is no line.
        """
        self.assertIsNone(activityLine({}))
