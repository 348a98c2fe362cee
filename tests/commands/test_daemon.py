"""
The service of C{twistd aesm}.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.stdio import PipeAddress
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import AnyServer, ClientService, PrivateKey
from aesm.commands.activity import ActivityFile
from aesm.commands.daemon import (
    AESMService,
    _ReportingEndpoint,
    clientLine,
)
from aesm.commands.history import linesOf, verified
from aesm.status.actions import Operator
from tests.commands.test_tap import TapTestCase
from tests.support.notify import NotifySocket


@implementer(IStreamServerEndpoint)
class LateEndpoint:
    """
    An endpoint that takes its time.

    @ivar isAsked: whether somebody wants to listen there.
    """

    def __init__(self) -> None:
        """Nobody listens yet."""
        self.listening: Deferred[Any] = Deferred()
        self.isAsked = False

    @classmethod
    def fired(cls) -> LateEndpoint:
        """Make one that listens already."""
        self = cls()
        self.listening.callback(_Port())
        return self

    def listen(self, protocolFactory: object) -> Deferred[Any]:
        """
        Begin to listen.

        @param protocolFactory: not used.
        @see: L{IStreamServerEndpoint}
        """
        self.isAsked = True
        return self.listening


class ServiceTests(TapTestCase):
    """The service listens by itself, and says so."""

    def serve(self, *arguments: str, **endpoints: IStreamServerEndpoint) -> AESMService:
        """
        Make a service on a reactor in memory.

        @param arguments: options.
        @param endpoints: where it listens; none for a port of TCP.
        """
        self.reactor = MemoryReactorClock()
        self.reactor.hasStopped = False  # former versions begin stopped
        self.reactor.iterate = self.reactor.advance  # type: ignore[assignment]
        options = self.parse(*arguments)
        options.endpoints = endpoints or {
            "tcp": TCP4ServerEndpoint(self.reactor, 8765, interface="127.0.0.1")
        }
        return AESMService(
            self.reactor,
            options.factory,
            options.endpoints,
            activityLog=options.activityLog,
            clientOptions=options.clientOptions(),
            control=options.control,
            needsControl=options["control"] is not None,
        )

    def test_interfaces(self) -> None:
        """It is a service, and gives its server endpoints."""
        verifyObject(IService, self.serve())
        verifyObject(IStreamServerEndpoint, _ReportingEndpoint("", LateEndpoint()))

    def test_start(self) -> None:
        """It listens once, also where nobody has called C{privilegedStartService}."""
        for privileged in (True, False):
            service = self.serve()
            if privileged:
                service.privilegedStartService()
            service.startService()
            self.assertEqual(len(self.reactor.tcpServers), 1)
            self.successResultOf(service.stopService())

    def test_again(self) -> None:
        """It can be started again; its log goes on then."""
        log = Path(self.file("log", ""))
        service = self.serve("--activity-log", str(log))
        for number in (1, 2):
            service.startService()
            service.server.connections.record("unix-1", "refused", 1.5, "", None)
            self.assertEqual(len(self.reactor.tcpServers), number)
            self.successResultOf(service.stopService())
            self.assertEqual(eventsIn(log), ["started", "refused", "stopped"] * number)

    def test_says(self) -> None:
        """
        The log shows what to type at a client, once the reactor runs: who waits for
        that may send signals.
        """
        service = self.serve()
        with capturedLogs() as events:
            service.startService()
            self.assertFalse([event for event in events if "line" in event])
            self.reactor.run()
        lines = [event["line"] for event in events if "line" in event]
        key = service.server.factory.publicKey
        self.assertEqual(lines, [f"aesm connect tcp:HOST:8765 --pin {key}"])

    def test_cannotListen(self) -> None:
        """Where it cannot listen, the log says why, and the process ends."""
        late, log = LateEndpoint(), Path(self.file("log", ""))
        service = self.serve(
            *("--activity-log", str(log)),
            **{"first": FailingEndpoint(), "late": late, "last": FailingEndpoint()},
        )
        with capturedLogs() as events:
            ended = self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertEqual(ended.code, 1)
        # twistd in the background hears of an Exception only.
        self.assertIsInstance(ended, Exception)
        self.assertIn("cannot listen", str(ended))
        said = [event for event in events if event["log_level"].name == "critical"]
        self.assertEqual([event["endpoint"] for event in said], ["first", "last"])
        self.assertIn("in use", said[0]["reason"])
        self.assertFalse(self.reactor.hasStopped)
        self.assertTrue(late.listening.called)
        # It may be the log of a server that runs: nobody was thrown out.
        self.assertEqual(eventsIn(log), [])
        self.successResultOf(service.stopService())

    def test_stoppedBefore(self) -> None:
        """If it is stopped before it listens, that is no failure."""
        service = self.serve(late=LateEndpoint())
        with capturedLogs() as events:
            service.startService()
            self.successResultOf(service.stopService())
        self.assertEqual(events, [])
        self.assertFalse(self.reactor.hasStopped)

    def test_noClients(self) -> None:
        """Where clients cannot connect to, there is nothing for them to type."""
        late = LateEndpoint()
        service = self.serve(late=late)
        service.startService()
        with capturedLogs() as events:
            late.listening.callback(_Port())
            self.reactor.run()
        self.assertEqual([event for event in events if "line" in event], [])

    def test_cannotListenLater(self) -> None:
        """Where it turns out later, the reactor is stopped."""
        late = LateEndpoint()
        service = self.serve(late=late)
        service.startService()
        late.listening.errback(OSError("no"))
        self.assertTrue(self.reactor.hasStopped)

    def test_notify(self) -> None:
        """
        Who has started it is told once all endpoints listen and the reactor runs, how
        it is doing, when it reads its files again, and that it stops.
        """
        notified = NotifySocket(self.addCleanup)
        self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": notified.path})
        late = LateEndpoint()
        calls: list[Any] = []
        service = self.serve(first=LateEndpoint.fired(), late=late)
        self.reactor.callFromThread = calls.append  # type: ignore[attr-defined]
        service.startService()
        self.reactor.run()
        self.assertEqual(notified.heard(), [])
        late.listening.callback(_Port())
        self.reactor.run()  # goes on; former versions of this one need telling
        ready, status = notified.heard()
        self.assertEqual(ready, "READY=1")
        self.assertRegex(status, "^STATUS=connections: 0, of which 0 wait for")
        signal.raise_signal(signal.SIGHUP)
        with capturedLogs():
            calls[0]()
        reloading, ready = notified.heard()
        self.assertRegex(reloading, r"^RELOADING=1\nMONOTONIC_USEC=\d+$")
        self.assertEqual(ready, "READY=1")
        self.successResultOf(service.stopService())
        self.assertEqual(notified.heard(), ["STOPPING=1"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_notifyStopped(self) -> None:
        """One that is stopped before its reactor runs is never ready."""
        notified = NotifySocket(self.addCleanup)
        self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": notified.path})
        service = self.serve()
        service.startService()
        self.assertEqual(notified.heard(), [])
        self.successResultOf(service.stopService())
        self.reactor.run()
        self.assertEqual(notified.heard(), [])

    def test_hangUp(self) -> None:
        """
        SIGHUP reads the authorized keys again, from before the service listens until
        it has stopped; without such a file it says that there is none.
        """
        before = signal.getsignal(signal.SIGHUP)
        calls: list[Any] = []
        service = self.serve()
        self.reactor.callFromThread = calls.append  # type: ignore[attr-defined]
        service.startService()
        signal.raise_signal(signal.SIGHUP)
        with capturedLogs() as events:
            calls[0]()
        self.assertIn("no file of authorized keys", events[0]["log_format"])
        self.successResultOf(service.stopService())
        clients = self.file("clients", "")
        service = self.serve("--authorized-keys", clients)
        self.reactor.callFromThread = calls.append  # type: ignore[attr-defined]
        service.startService()
        signal.raise_signal(signal.SIGHUP)
        self.file("clients", "nonsense")
        with capturedLogs() as events:
            calls[1]()
        self.assertIn("line 1", events[0]["error"])
        service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)

    def test_rotated(self) -> None:
        """
        SIGHUP has the activity go on in a new file, once the former has been given
        another name.
        """
        log, former = self.home / "log", self.home / "log.1"
        calls: list[Any] = []
        service = self.serve("--activity-log", str(log))
        self.reactor.callFromThread = calls.append  # type: ignore[attr-defined]
        service.startService()
        record = service.server.factory.connections.record
        record("unix-1", "lost", 1.5, "")
        log.rename(former)
        record("unix-2", "lost", 1.5, "")
        signal.raise_signal(signal.SIGHUP)
        calls[0]()
        record("unix-3", "lost", 1.5, "")
        self.successResultOf(service.stopService())
        for path, names in ((former, ["unix-1", "unix-2"]), (log, ["unix-3"])):
            lines = map(json.loads, path.read_text().splitlines())
            addresses = [line["address"] for line in lines if line["address"]]
            self.assertEqual(addresses, names)

    def control(self, service: AESMService, command: str) -> str:
        """Have something done at the control socket."""
        factory = self.reactor.unixServers[-1][1]
        request = {"command": command}
        return "".join(factory.actions.perform(Operator(7, 8), request))

    def test_control(self) -> None:
        """There is a control socket while it runs, unless it is to have none."""
        service = self.serve("--no-control")
        service.startService()
        self.assertEqual(self.reactor.unixServers, [])
        self.successResultOf(service.stopService())
        service = self.serve()
        service.startService()
        path = str(self.home / "control.sock")
        self.assertEqual(self.reactor.unixServers[0][0], path)
        self.assertIn('"connections": []', self.control(service, "status"))
        self.successResultOf(service.stopService())

    def test_reload(self) -> None:
        """What SIGHUP does can be asked for there."""
        service = self.serve("--authorized-keys", self.file("clients", ""))
        service.startService()
        self.file("clients", "nonsense")
        with capturedLogs() as events:
            self.control(service, "reload")
        self.assertIn("line 1", events[0]["error"])
        self.successResultOf(service.stopService())

    def test_drain(self) -> None:
        """It can be ended from there, once; its end is the process's."""
        service = self.serve()
        service.startService()
        self.assertIn('"connections": 0', self.control(service, "drain"))
        self.assertTrue(self.reactor.hasStopped)
        self.successResultOf(service.stopService())

        def stop() -> None:
            """Be stopped already."""
            raise ReactorNotRunning

        service = self.serve()
        self.reactor.stop = stop  # type: ignore[method-assign]
        service.startService()
        self.control(service, "drain")
        self.successResultOf(service.stopService())

    def test_noControl(self) -> None:
        """
        Where a socket that is named cannot be, the process ends, before it listens; the
        usual one may be another server's, and is done without.
        """
        self.home.chmod(0o777)
        service = self.serve("--control", str(self.home / "socket"))
        with capturedLogs() as events:
            self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertEqual(events[0]["log_level"].name, "critical")
        self.assertEqual(self.reactor.tcpServers, [])
        service = self.serve()
        with capturedLogs() as events:
            service.startService()
        self.assertEqual(events[0]["log_level"].name, "warn")
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.successResultOf(service.stopService())

    def test_fullDisk(self) -> None:
        """
        Where the activity cannot be written that is one line, and another at the end;
        the log goes on.
        """
        service = self.serve("--activity-log", "/dev/full")
        with capturedLogs() as events:
            service.startService()
            for number in range(3):
                address = ("10.0.0.1", number)
                service.server.factory.connections.record(address, "lost", 1.5, "")
            self.successResultOf(service.stopService())
        daemons = [e for e in events if e["log_namespace"] == "aesm.daemon"]
        first, last = map(formatEvent, daemons)
        self.assertIn("cannot write the activity log: No space left", first)
        self.assertIn("entries that are missing: 5", last)
        self.assertEqual(sum("accepted" in event for event in events), 3)

    test_fullDisk.skip = None if os.path.exists("/dev/full") else "no /dev/full"  # type: ignore[attr-defined]

    def test_activityLog(self) -> None:
        """The activity goes into its file as it happens, and nothing else does."""
        log = Path(self.file("log", "before\n"))
        service = self.serve("--activity-log", str(log))
        service.startService()
        connections = service.server.factory.connections
        connections.record(("10.0.0.1", 5), "refused", 1.5, "why\n", None)
        Logger(namespace="aesm.activity").warn("about the log")
        Logger(namespace="other").info("{event}", event="accepted")
        before, started, line = log.read_bytes().splitlines(keepends=True)
        self.assertEqual(before, b"before\n")
        self.assertIn(b'"started"', started)
        self.assertEqual(
            json.loads(line),
            {
                "time": 1.5,
                "event": "refused",
                "accepted": False,
                "address": "10.0.0.1:5",
                "peer": None,
                "reason": "why\n",
                "times": 1,
                "seq": 2,
                "prev": sha256(started).hexdigest(),
            },
        )
        self.successResultOf(service.stopService())
        connections.record("unix-1", "refused", 2.5, "", None)
        self.assertEqual(len(log.read_text().splitlines()), 4)


class _Port:
    """A port that is no socket."""

    def getHost(self) -> PipeAddress:
        """Say where it is."""
        return PipeAddress()

    def stopListening(self) -> None:
        """There is nothing to stop."""


@implementer(IStreamServerEndpoint)
class FailingEndpoint:
    """An endpoint that is in use."""

    def listen(self, protocolFactory: object) -> Deferred[Any]:
        """
        Fail.

        @param protocolFactory: not used.
        @see: L{IStreamServerEndpoint}
        """
        return fail(CannotListenError("127.0.0.1", 1, OSError(98, "in use")))


def eventsIn(log: Path) -> list[str]:
    """Read what an activity log says has happened."""
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


class _Lasting:
    """The reactor, which does not stop."""

    def __init__(self) -> None:
        """It runs."""
        self.stopped: Deferred[None] = Deferred()

    def stop(self) -> None:
        """Say that it was to stop."""
        self.stopped.callback(None)

    def __getattr__(self, name: str) -> Any:
        """Be the reactor."""
        return getattr(reactor, name)


class _HangsUp(Protocol):
    """Says nothing."""

    def connectionMade(self) -> None:
        """Hang up."""
        cast(Any, self.transport).loseConnection()


class UpgradeTests(TapTestCase, TestCase):
    """A service that takes over from another one, over real sockets."""

    timeout = 600

    def setUp(self) -> None:
        """Have a folder with a path that is short enough for sockets."""
        super().setUp()
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.path = folder / "spool"
        self.socket = folder / "socket"
        self.log = folder / "log"

    def serve(self, *arguments: str, **endpoints: Any) -> AESMService:
        """
        Make a service, which is stopped in the end.

        @param endpoints: more of them.
        """
        options = self.parse(
            *("--spool", str(self.path), "--handler", "echo", "--upgrade"),
            *("--listen", f"unix:{self.socket}:mode=600"),
            *arguments,
        )
        service = AESMService(
            _Lasting(),
            options.factory,
            options.endpoints | endpoints,
            activityLog=ActivityFile(str(self.log)),
            handover=options.handover,
            upgrade=True,
        )
        service.startService()
        self.addCleanup(service.stopService)
        return service

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that comes about by itself."""
        while not condition():
            await deferLater(reactor, 0.01)

    async def began(self, *arguments: str) -> AESMService:
        """Have a service that can be taken over from."""
        service = self.serve(*arguments)
        await self.until(lambda: service._heirs)
        return service

    async def test_takesOver(self) -> None:
        """
        It listens where the other one did, has its clients, and can itself be taken
        over from; the socket is as it was, and stays.  The activity log goes on, also
        if it was rotated just before.
        """
        old = await self.began("--listen", "tcp:0:interface=127.0.0.1")
        client = ClientService(
            f"unix:{self.socket}", trust=AnyServer(), key=PrivateKey.generate()
        )
        client.startService()
        self.addCleanup(client.stopService)
        await client.sendData("one")
        logs = [self.log]
        for number in range(2):
            before = self.socket.stat()
            logs.append(self.log.rename(self.log.with_name(f"log{number}")))
            new = self.serve()
            await old._reactor.stopped
            await old.stopService()
            # As the end of the process does.
            for port in old._lent:
                port.socket.close()
                old._factory.doStop()
            await self.until(partial(getattr, new, "_heirs"))
            self.assertEqual(self.socket.stat().st_ino, before.st_ino)
            self.assertEqual(self.socket.stat().st_mode, before.st_mode)
            await client.sendData("two")
            old = new
        said = verified(linesOf(map(str, logs)), None)
        self.assertEqual(len([*said]), 1)
        handover = Path(f"{self.path}.handover")
        self.assertEqual(stat.S_IMODE(handover.stat().st_mode), 0o600)

    async def test_brokenOff(self) -> None:
        """
        One that cannot listen as well ends; the other one goes on, and can be taken
        over from.
        """
        old = await self.began()
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        with capturedLogs() as events:
            where = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            new = self.serve("--listen", where)
            await new._reactor.stopped
        self.assertIn("cannot listen on tcp", "".join(map(formatted, events)))
        await new.stopService()
        await self.until(lambda: not old._lent)
        client = ClientService(
            f"unix:{self.socket}", trust=AnyServer(), key=PrivateKey.generate()
        )
        client.startService()
        self.addCleanup(client.stopService)
        await client.sendData("one")

    async def test_silent(self) -> None:
        """It ends if the other one breaks off before it has shared anything."""
        running = Factory.forProtocol(_HangsUp)
        port = cast(Any, reactor).listenUNIX(f"{self.path}.handover", running)
        self.addCleanup(port.stopListening)
        with capturedLogs() as events:
            new = self.serve()
            await new._reactor.stopped
        self.assertIn("cannot take over", "".join(map(formatted, events)))

    async def test_meanwhile(self) -> None:
        """It ends if the other one breaks off before it listens itself."""
        old, late = await self.began(), LateEndpoint()
        new = self.serve(late=late)
        # Not before it has what the other one shares: it would have nothing to end.
        await self.until(lambda: late.isAsked)
        old._successors.end()
        with capturedLogs() as events:
            await new._reactor.stopped
        await new.stopService()
        self.assertIn("has broken off", "".join(map(formatted, events)))
        await self.until(lambda: not old._lent)

    async def test_refused(self) -> None:
        """One that the other one refuses ends, and says why."""
        old = await self.began()
        old._factory._manager.predecessor = cast(Any, old)  # it is taking over itself
        with capturedLogs() as events:
            new = self.serve()
            await new._reactor.stopped
        self.assertIn("is being replaced already", "".join(map(formatted, events)))
        old._factory._manager.predecessor = None

    async def test_stopped(self) -> None:
        """One that is stopped before it has taken over leaves all as it is."""
        old = await self.began()
        new = self.serve()
        await new.stopService()
        await deferLater(reactor, 0)
        self.assertTrue(old.server.running)

    def test_tooLong(self) -> None:
        """A path that no socket can have is no reason not to serve."""
        service = self.serve()
        service._heirs = None
        service._handover = f"/{'x' * 200}"
        with capturedLogs() as events:
            service._awaitHeirs()
        self.assertIn("no new process can take over", formatted(events[-1]))


def formatted(event: Any) -> str:
    """Put a log event into words."""
    return formatEvent(event)


class LineTests(SynchronousTestCase):
    """What the service writes."""

    def test_clientLine(self) -> None:
        """A client's line can be pasted into a shell."""
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
