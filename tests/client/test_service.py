"""
Tests for L{aesm.client.service}: the connection comes back, or the service says why
not.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.application.internet import backoffPolicy
from twisted.application.service import IService
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import (
    PSK,
    AESMError,
    AnyServer,
    ClientService,
    ConnectionClosed,
    HandshakeTimeout,
    HeartbeatLost,
    KeyFileError,
    MessageTooBig,
    NameOrKeyMismatch,
    NotAuthorized,
    OfferRefused,
    Pinned,
    SendBufferFull,
    Server,
    ServerKeyChanged,
    SessionLost,
    TamperedRecord,
    Truncated,
    UntrustedServer,
    listen,
)
from aesm.client.retry import isTransient
from aesm.errors import NoAnswer
from aesm.server.sessions import SESSION_GRACE
from aesm.testing import MemoryNetwork
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, PairTestCase, Recorder


@implementer(IStreamClientEndpoint)
class Nowhere:
    """
    An endpoint that leads nowhere.

    @ivar attempts: who was promised a connection.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self.attempts: list[Deferred[Any]] = []

    def connect(self, protocolFactory: object) -> Deferred[Any]:
        """
        Promise a connection.

        @param protocolFactory: who it is for.
        """
        self.attempts.append(Deferred())
        return self.attempts[-1]


class TransientTests(PairTestCase):
    """Which failures are worth trying again."""

    def test_table(self) -> None:
        """What people have to mend is not; what may be otherwise the next time is."""
        final: tuple[Exception, ...] = (
            NotAuthorized(),
            UntrustedServer(""),
            ServerKeyChanged(""),
            OfferRefused(""),
            NameOrKeyMismatch(),
            KeyFileError(""),
            ConnectionClosed("", 4001),
            TypeError(),
            ValueError(),
        )
        for reason in final:
            self.assertFalse(isTransient(reason), reason)
        passing: tuple[Exception, ...] = (
            NoAnswer(),
            HandshakeTimeout(),
            Truncated(""),
            HeartbeatLost(""),
            TamperedRecord(),
            ConnectionClosed("", 1000),
            ConnectionClosed("", 1001),
            ConnectionClosed("", 1013),
            ConnectionClosed("", 4000),
            error.ConnectionRefusedError(),
            error.TimeoutError(),
            error.DNSLookupError(),
            OSError(),
        )
        for reason in passing:
            self.assertTrue(isTransient(reason), reason)


class ServiceTestCase(PairTestCase):
    """
    A network in memory, and services on it.

    @ivar network: the network.
    """

    def setUp(self) -> None:
        """Make the network."""
        self.network = MemoryNetwork()
        self.server: Server | None = None
        self.addCleanup(self.endServer)

    def endServer(self) -> None:
        """Take the server down, if there is one."""
        if self.server is not None:
            self.takeDown(self.network, self.server)
        self.server = None

    def delays(self) -> list[float]:
        """
        Look at what is to happen by the clients' doing.

        @return: in how many seconds.
        """
        clock = self.network.clock
        return [
            call.getTime() - clock.seconds()
            for call in clock.getDelayedCalls()
            if "AESMServerFactory" not in repr(call)
        ]

    def listening(self, handler: object = None, **options: Any) -> Server:
        """Make a server, in the place of any other."""
        self.endServer()
        options = {"key": SERVER_KEY} | options
        self.server = self.successResultOf(
            listen(
                self.network.clock,
                self.network.endpoint(),
                handler=handler,
                **options,
            )
        )
        return self.server

    def service(self, start: bool = True, **options: Any) -> ClientService:
        """
        Make a service.

        @param start: whether to start it, and deliver all.
        """
        settings: dict[str, Any] = {
            "key": CLIENT_KEY,
            "trust": AnyServer(),
            "retryPolicy": backoffPolicy(jitter=lambda: 0.0),
            "reactor": self.network.clock,
            "endpoint": self.network.endpoint(),
        }
        service = ClientService(**(settings | options))
        if start:
            service.startService()
            self.network.deliver()
            self.addCleanup(self.stop, service)
        return service

    def stop(self, service: ClientService) -> None:
        """Stop a service, and check that nothing is left of it."""
        stopped = service.stopService()
        self.network.deliver()
        self.successResultOf(stopped)

    def lines(self, events: Any, level: LogLevel = LogLevel.error) -> list[str]:
        """Get what was logged."""
        return [
            event["reason"]
            for event in events
            if event["log_level"] is level
            and event["log_namespace"].startswith("aesm.service")
        ]


class ConnectTests(ServiceTestCase):
    """Connecting, and connecting again."""

    def test_service(self) -> None:
        """It is a service."""
        verifyObject(IService, self.service(start=False))

    def test_connects(self) -> None:
        """Who waits gets the connection, and who asks later, too."""
        server = self.listening()
        service = self.service(start=False)
        waiting = service.whenConnected()
        self.network.deliver()
        self.assertNoResult(waiting)
        service.startService()
        self.network.deliver()
        connection = self.successResultOf(waiting)
        self.assertIs(self.successResultOf(service.whenConnected()), connection)
        self.assertEqual(len(server.connections), 1)
        self.stop(service)
        self.assertEqual(self.closedReason(connection).code, 1000)

    def test_options(self) -> None:
        """
        What is wrong with the options is said when the service is made, as far as
        that is possible.
        """
        for wrong in (
            {"heartbeat": 0},
            {"sendBuffer": 0},
            {"spoolMax": 1},
            {"endpoint": "nonsense:"},
        ):
            with self.assertRaises(ValueError):
                self.service(start=False, **wrong)
        for wrong in ({"trust": "nobody"}, {"authorizedKeys": "keys"}):
            with self.assertRaises(TypeError):
                self.service(start=False, **wrong)

    def test_lateOptions(self) -> None:
        """The rest is said when it connects: it stops."""
        service = self.service(suites=["nonsense"])
        self.failureResultOf(service.whenConnected(), ValueError)
        self.assertClosed(service.sendData("x"))
        self.assertFalse(service.running)

    def test_defaults(self) -> None:
        """With an endpoint string, and Twisted's delays."""
        reactor: Any = MemoryReactorClock()
        service = ClientService(
            "tcp:127.0.0.1:8765", reactor=reactor, key=CLIENT_KEY, trust=AnyServer()
        )
        service.startService()
        reactor.advance(0)
        self.assertEqual(reactor.tcpClients[0][:2], ("127.0.0.1", 8765))
        self.successResultOf(service.stopService())
        untrusting = ClientService("tcp:127.0.0.1:8765", reactor=reactor)
        self.successResultOf(untrusting.stopService())
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_backoff(self) -> None:
        """The delay grows over failures, and starts again after a connection."""
        service = self.service()
        times = []

        def wait() -> None:
            """Let the delay pass."""
            (delay,) = self.delays()
            times.append(round(delay, 2))
            self.network.advance(delay + 0.001)

        wait()
        wait()
        self.listening(sessionGrace=0)
        wait()
        for _ in range(2):
            self.successResultOf(service.whenConnected())
            self.network.links[0].cut()
            self.network.deliver()
            wait()
        self.successResultOf(service.whenConnected())
        self.network.advance(31)
        self.network.links[0].cut()
        self.network.deliver()
        wait()
        self.assertEqual(times, [1.5, 2.25, 3.37, 1.5, 1.5, 1.5])

    def test_delays(self) -> None:
        """
        By default it tries often enough to come back within a server's grace, as
        Twisted does but for the ceiling, and for a while that is left to chance.
        """
        step = 0.001  # which each delay is looked at after it began, at the most
        for chance in (0.0, 0.5, 0.999):
            policy = partial(backoffPolicy, jitter=partial(float, chance))
            with patch("aesm.client.retry.backoffPolicy", policy):
                service = self.service(retryPolicy=None)
            for attempt in range(1, 21):
                (delay,) = self.delays()
                expected = min(1.5**attempt, 15) + chance
                self.assertLess(abs(delay - expected), 1.01 * step)
                self.network.advance(delay + step)
            self.assertLess(2 * expected, SESSION_GRACE)
            self.stop(service)

    def test_logged(self) -> None:
        """
        The log says what is connected, and keeps nothing of it: Twisted's keeps what is
        said, thousands of times, for who begins logging, which other programs never do.
        """
        self.listening()
        with capturedLogs() as events:
            service = self.service()
            connection = self.successResultOf(service.whenConnected())
        (event,) = [e for e in events if e["log_namespace"] == "aesm.service"]
        self.assertEqual(event["peer"], connection.peer)
        self.assertEqual(event["address"], connection.address)
        self.assertNotIn(connection, event.values())

    def test_goodbye(self) -> None:
        """
        A server that says over how long its clients are to come back has them come at
        moments of their own, also where there is another policy.
        """
        for policy in (None, lambda failures: 99.0):
            delays = []
            for _ in range(20):
                server = self.listening()
                service = self.service(retryPolicy=policy)
                self.successResultOf(service.whenConnected())
                for wrong in (-1, 3601, float("nan")):
                    self.assertRaises(ValueError, server.stop, spread=wrong)
                stopped = server.stop("upgrade", spread=8.0)
                self.network.deliver()
                self.successResultOf(stopped)
                self.server = None
                delays += self.delays()
                self.stop(service)
            self.assertEqual(len(delays), 20)
            self.assertLessEqual(max(delays), 8)
            self.assertGreater(max(delays) - min(delays), 2)

    def test_identity(self) -> None:
        """
        Key, pre-shared key and trust are those of the start: a folder that is away
        later changes nothing; the next start reads them again.
        """
        home = Path(self.mktemp())
        home.mkdir()
        PSK.generate().save(home / "psk")
        self.patch(os, "environ", {**os.environ, "AESM_HOME": str(home)})
        psk = PSK.load(home / "psk")
        server = self.listening(psk=psk)
        service = self.service(key=None, psk=home / "psk")
        first = self.successResultOf(service.whenConnected())
        (connection,) = server.connections.values()
        key = connection.peer
        home.rename(f"{home}.away")
        for _ in range(3):
            self.network.links[0].cut()
            self.network.advance(3)
            self.assertTrue(first.isOpen)
        self.assertEqual(connection.peer, key)
        self.assertFalse(home.exists())
        self.stop(service)
        service.startService()
        self.network.deliver()
        self.failureResultOf(service.whenConnected(), KeyFileError)

    def test_nobody(self) -> None:
        """
        An endpoint that connects to nobody, or raises, ends the service with that.
        """
        for outcome in (succeed(None), fail(TypeError("a mistake"))):
            endpoint = Nowhere()
            self.patch(endpoint, "connect", lambda factory, outcome=outcome: outcome)
            service = self.service(endpoint=endpoint)
            self.failureResultOf(service.whenConnected(), TypeError)

    def test_drain(self) -> None:
        """
        There is room while less than half of the buffer waits, for a connection or an
        acknowledgement; who waits for it goes on over whichever connection.
        """
        service = self.service(sendBuffer=1000)
        self.successResultOf(service.drain())
        service.sendData("x" * 500)
        draining = [service.drain(), service.drain()]
        draining[1].cancel()
        self.failureResultOf(draining[1], CancelledError)
        self.network.advance(2)
        self.assertNoResult(draining[0])
        server = self.listening(Recorder(lambda *_: working), sessionGrace=0)
        working: Deferred[None] = Deferred()
        self.network.advance(10)
        self.assertEqual(len(server.connections), 1)
        self.assertNoResult(draining[0])  # it is sent, and not acknowledged
        working.callback(None)
        self.network.deliver()
        self.successResultOf(draining[0])
        self.successResultOf(service.drain())

    def test_drainLost(self) -> None:
        """If the session is lost, what is lost with it makes room."""
        server = self.listening(Recorder(lambda *_: Deferred()), sessionGrace=0)
        service = self.service(sendBuffer=1000)
        sent = service.sendData("x" * 900)
        draining = service.drain()
        self.network.deliver()
        self.assertNoResult(draining)
        for connection in server.connections.values():
            connection.abort()
        self.network.advance(2)
        self.failureResultOf(sent, SessionLost)
        self.successResultOf(draining)

    def test_drainStopped(self) -> None:
        """Who waits for room is told that the service stops, connected or not."""
        for listening in (False, True):
            if listening:
                self.listening(Recorder(lambda *_: Deferred()))
            service = self.service(sendBuffer=1000)
            service.sendData("x" * 900)
            draining = service.drain()
            self.assertNoResult(draining)
            stopped = service.stopService()
            self.network.advance(20)
            self.successResultOf(stopped)
            self.assertClosed(draining, 1000)
            self.assertClosed(service.drain(), 1000)

    def test_failAfterFailures(self) -> None:
        """Who does not want to wait is told of the failure; others wait on."""
        service = self.service(start=False)
        waiting = [service.whenConnected(n) for n in (1, 2, None)]
        service.startService()
        self.network.deliver()
        self.failureResultOf(waiting[0], error.ConnectionRefusedError)
        self.assertNoResult(waiting[1])
        self.network.advance(2)
        self.failureResultOf(waiting[1], error.ConnectionRefusedError)
        self.assertNoResult(waiting[2])
        self.stop(service)
        self.assertClosed(waiting[2], 1000)

    def test_noOther(self) -> None:
        """
        Who stops the service at the first failure hears nothing of another attempt,
        which there will not be; one who starts it again at once hears of that alone.
        """
        service = self.service(start=False)

        def stop(failure: object) -> None:
            """Stop."""
            service.stopService()

        def restart(failure: object) -> None:
            """Stop, and start again."""
            service.stopService()
            service.startService()

        for act, times in ((stop, 0), (restart, 1)):
            service.whenConnected(1).addErrback(act)
            with capturedLogs() as events:
                service.startService()
                self.network.advance(0)
            said = [event["log_format"] for event in events]
            self.assertEqual(sum("trying again" in each for each in said), times, said)

    def test_cancelled(self) -> None:
        """Who waits may give up."""
        service = self.service()
        waiting = service.whenConnected()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.listening()
        self.network.advance(2)
        self.successResultOf(service.whenConnected())

    def test_goingAway(self) -> None:
        """
        A server that stops and comes back finds its client again, also if it
        closes without a word meanwhile.
        """
        service = self.service()
        server = self.listening()
        self.network.advance(2)
        self.successResultOf(service.whenConnected())
        stopped = server.stop()
        self.network.deliver()
        self.successResultOf(stopped)
        self.server = None
        full = self.listening(maxConnections=1)
        other = self.join(self.network)
        waiting = service.whenConnected(1)
        self.network.advance(10)
        self.failureResultOf(waiting, AESMError)
        self.assertTrue(service.running)
        other.abort()
        self.network.advance(60)
        self.successResultOf(service.whenConnected())
        self.assertEqual(len(full.connections), 1)


class FatalTests(ServiceTestCase):
    """At what will not pass by itself the service stops, and says why."""

    def refused(self, reason: type[Exception], **options: Any) -> Any:
        """
        Start a service that is to stop at once.

        @return: the error.
        """
        service = self.service(start=False, **options)
        waiting, sent = service.whenConnected(), service.sendData("hello")
        got = service.retrieved.get()
        with capturedLogs() as events:
            service.startService()
            self.network.deliver()
        why = self.failureResultOf(waiting, reason).value
        self.assertClosed(sent)
        self.assertClosed(got)
        self.assertEqual(self.lines(events), [str(why)])
        self.assertFalse(service.running)
        self.assertIs(self.failureResultOf(service.whenConnected()).value, why)
        self.assertEqual(self.delays(), [])
        self.successResultOf(service.stopService())
        return why

    def test_untrusted(self) -> None:
        """The server has another key."""
        self.listening()
        self.refused(UntrustedServer, trust=Pinned(CLIENT_KEY.publicKey))

    def test_offer(self) -> None:
        """The server does not take what we offer."""
        self.listening(suites=["Noise_XX_25519_ChaChaPoly_SHA256"])
        self.refused(OfferRefused, suites=["Noise_XX_25519_AESGCM_SHA256"])

    def test_keyFile(self) -> None:
        """The pre-shared key cannot be read."""
        self.refused(KeyFileError, psk=self.mktemp())

    def test_name(self) -> None:
        """The handshake does not authenticate."""
        self.listening()
        self.refused(NameOrKeyMismatch, name="other")

    def test_notAuthorized(self) -> None:
        """The server does not let our key in."""
        self.listening(authorizedKeys=lambda publicKey, address: False)
        self.refused(NotAuthorized)

    def test_later(self) -> None:
        """
        The server takes the permission back, or lets another connection of our key
        take our place.
        """
        for code, kind in ((1008, NotAuthorized), (4001, ConnectionClosed)):
            server = self.listening()
            service = self.service()
            (connection,) = server.connections.values()
            sent = service.retrieved.get()
            with capturedLogs() as events:
                connection.closeWith(code, "enough")
                self.network.deliver()
            self.failureResultOf(service.whenConnected(), kind)
            self.assertClosed(sent)
            self.assertIn("enough", *self.lines(events))
            self.assertEqual(self.network.links, [])

    def test_noWords(self) -> None:
        """An error without words is called by its name."""
        endpoint = Nowhere()
        with capturedLogs() as events:
            self.service(endpoint=endpoint)
            endpoint.attempts[0].errback(ValueError())
        self.assertEqual(self.lines(events), ["ValueError"])


class SendTests(ServiceTestCase):
    """Messages, with and without a connection."""

    def test_waits(self) -> None:
        """What is sent without a connection goes out in order once there is one."""
        recorder = Recorder()
        service = self.service(start=False)
        sent = [service.sendData(data) for data in ("one", b"two", bytearray(b"3"))]
        ignored = service.sendData("four")
        service.startService()
        self.network.deliver()
        for deferred in sent:
            self.assertNoResult(deferred)
        self.listening(recorder)
        self.network.advance(2)
        for deferred in [*sent, ignored]:
            self.assertIsNone(self.successResultOf(deferred))
        sent = [service.sendData("five")]
        self.network.deliver()
        self.successResultOf(sent[0])
        self.assertEqual(recorder.data, ["one", b"two", b"3", "four", "five"])
        self.stop(service)

    def test_wrong(self) -> None:
        """What is no message is refused at once."""
        service = self.service(start=False)
        wrong: Any = 5
        self.assertRaises(TypeError, service.sendData, wrong)
        self.assertRaises(ValueError, service.sendData, "\ud800")

    def test_full(self) -> None:
        """No more than C{sendBuffer} waits; what was accepted is not affected."""
        self.listening()
        service = self.service(start=False, sendBuffer=2 * 64 + 5)
        first, second = service.sendData("abc"), service.sendData("de")
        self.failureResultOf(service.sendData(""), SendBufferFull)
        service.startService()
        self.network.deliver()
        self.successResultOf(first)
        self.successResultOf(second)
        self.stop(service)

    def test_tooBig(self) -> None:
        """
        What turns out to be too large for the server fails alone; what is sent then
        comes behind what waited.
        """
        recorder = Recorder()
        self.listening(recorder, maxMessage=3)
        service = self.service(start=False)
        big = service.sendData("much")
        big.addErrback(lambda failure: (failure, service.sendData("new"))[0])
        service.sendData("old")
        service.startService()
        self.network.deliver()
        self.failureResultOf(big, MessageTooBig)
        self.assertEqual(recorder.data, ["old", "new"])
        self.stop(service)

    def test_serverLeaves(self) -> None:
        """
        What has left in a session that the server has given up fails; what was sent
        while it was closing, and so has not, goes into the next.
        """
        recorder = Recorder()
        server = self.listening(recorder)
        service = self.service()
        self.network.links[0].toServer.stalled = True
        early = service.sendData("early")
        (connection,) = server.connections.values()
        connection.closeWith(1001, "")
        self.network.deliver()
        late, waiting = service.sendData("late"), service.whenConnected()
        self.assertNoResult(late)
        self.assertNoResult(waiting)
        self.network.links[0].cut()
        self.network.advance(2)
        self.failureResultOf(early, SessionLost)
        self.successResultOf(late)
        self.successResultOf(waiting)
        sent = service.sendData("new")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(recorder.data, ["late", "new"])
        self.stop(service)

    def test_neverSent(self) -> None:
        """
        What never left goes into the next session in order and before what is sent by
        those who are told of the loss; whoever looks at a Deferred, and whenever.
        """
        recorder = Recorder()
        self.listening(recorder, sessionGrace=0)
        service = self.service()
        self.network.links[0].toServer.stalled = True
        again: list[Deferred[None]] = []
        perhaps = service.sendData("perhaps")
        perhaps.addErrback(lambda why: again.append(service.sendData("again")))
        self.network.links[0].cut()
        self.network.deliver()
        never = [service.sendData(data) for data in ("1", b"2", "\u00fc", "4", "5")]
        told: list[None] = []
        never[1].addCallback(told.append)
        never[2].addErrback(lambda failure: failure.trap(CancelledError))
        never[2].cancel()
        self.network.advance(2)
        self.successResultOf(perhaps)
        self.assertEqual(told, [None])
        for sent in [*never[2:], *again]:
            self.successResultOf(sent)
        self.assertEqual(recorder.data, ["1", b"2", "\u00fc", "4", "5", "again"])
        self.network.links[0].cut()
        self.successResultOf(never[0])  # nobody has looked at it before

    def test_neverSentTwice(self) -> None:
        """Also over several sessions, each of which lets some leave and is lost."""
        server = self.listening(sessionGrace=0, receiveBuffer=100)
        service = self.service()
        sent = [service.sendData(data) for data in "12345"]
        self.network.deliver()
        arrived: list[list[Any]] = []
        for _ in range(3):
            self.network.links[0].cut()
            self.network.deliver()
            arrived.append([])
            while (taken := server.connections.getDataOrdinal())[0] is not None:
                arrived[-1].append(taken[1].data)
            self.network.advance(2)
        self.assertEqual(arrived, [["1", "2"], ["3", "4"], ["5"]])
        for each in sent:
            self.successResultOf(each)

    def test_neverSentStopped(self) -> None:
        """It fails if the service is stopped before it has left."""
        self.listening(sessionGrace=0)
        service = self.service()
        self.network.links[0].toServer.stalled = True
        perhaps = service.sendData("perhaps")
        perhaps.addErrback(lambda failure: service.stopService())
        self.network.links[0].cut()
        self.network.deliver()
        never = service.sendData("never")
        self.network.advance(2)
        self.assertClosed(never, 1000)

    def test_brokenAtOnce(self) -> None:
        """
        A connection that is lost before, or in the turn in which it was accepted is
        not used; what may have left with it goes on in its session, or its sender is
        told.
        """
        told = 0
        for turns in range(12):
            recorder = Recorder()
            self.listening(recorder)
            service = self.service(start=False)
            sent = service.sendData("kept")
            service.startService()
            self.network.clock.advance(0)
            (link,) = self.network.links
            for _ in range(turns):
                link.deliver()
            link.cut()
            self.network.advance(3)
            if recorder.data:
                self.successResultOf(sent)
                self.assertEqual(recorder.data, ["kept"])
            else:
                self.failureResultOf(sent, SessionLost)
                told += 1
            self.stop(service)
        self.assertEqual(told, 1)

    def test_received(self) -> None:
        """
        Packets of one connection after another are one stream; what is unread
        leaves the next server less room.
        """
        recorder = Recorder(
            lambda connection, packet: connection.sendData(packet.data or "")
        )
        self.listening(recorder)
        service = self.service(receiveBuffer=300)
        service.sendData("a" * 100)
        self.network.deliver()
        self.network.links[0].cut()
        self.network.advance(2)
        service.sendData("b" * 100)
        service.sendData("c" * 100)
        self.network.deliver()
        self.assertEqual([p.data[0] for p in service.retrieved if p.data], ["a", "b"])
        for letter in "abc":
            packet = self.successResultOf(service.retrieved.get())
            self.assertEqual(packet.data, letter * 100)
            self.network.deliver()
        self.stop(service)


class StopTests(ServiceTestCase):
    """Stopping, in any state."""

    def assertStops(self, service: ClientService) -> None:
        """Stop it, twice, and look through what is left."""
        waiting, sent = service.whenConnected(), service.sendData("x")
        got = service.retrieved.get()
        stopped, again = service.stopService(), service.stopService()
        self.network.deliver()
        self.successResultOf(stopped)
        self.successResultOf(again)
        self.assertClosed(waiting, 1000)
        self.assertClosed(sent, 1000)
        self.assertClosed(got, 1000)
        self.assertClosed(service.whenConnected(), 1000)
        self.assertClosed(service.sendData("x"), 1000)
        self.assertEqual(self.network.links, [])
        self.assertEqual(self.delays(), [])

    def test_neverStarted(self) -> None:
        """Before it was started; and it can be started later."""
        service = self.service(start=False)
        self.assertStops(service)
        self.listening()
        service.startService()
        self.network.deliver()
        self.successResultOf(service.whenConnected())
        self.stop(service)

    def test_atOnce(self) -> None:
        """Before it has done anything."""
        service = self.service(start=False)
        service.startService()
        self.assertStops(service)

    def test_connecting(self) -> None:
        """While there is no transport yet."""
        endpoint = Nowhere()
        service = self.service(endpoint=endpoint)
        self.assertStops(service)
        self.assertTrue(endpoint.attempts[0].called)

    def test_inHandshake(self) -> None:
        """While the server does not answer."""
        server = self.listening()
        service = self.service(start=False)
        service.startService()
        self.network.clock.advance(0)
        self.assertEqual(len(self.network.links), 1)
        self.assertStops(service)
        self.assertEqual(len(server.connections), 0)

    def test_waiting(self) -> None:
        """While it waits to try again."""
        self.assertStops(self.service())

    def test_connected(self) -> None:
        """
        While it is connected: what was sent arrives, and what comes until the end
        can be taken.
        """
        recorder = Recorder(lambda connection, packet: connection.sendData("bye"))
        self.listening(recorder)
        service = self.service()
        connection = self.successResultOf(service.whenConnected())
        sent = service.sendData("last")
        got = service.retrieved.get()
        stopped = service.stopService()
        self.assertNoResult(stopped)
        self.network.deliver()
        self.successResultOf(stopped)
        self.successResultOf(sent)
        self.assertEqual(self.successResultOf(got).data, "bye")
        self.assertClosed(service.retrieved.get(), 1000)
        self.assertEqual(self.closedReason(connection).code, 1000)
        self.assertEqual(recorder.names, ["accepted", "packet", "lost"])

    def test_deadline(self) -> None:
        """A server that does not answer is not waited for longer than 5 seconds."""
        self.listening()
        service = self.service()
        self.network.links[0].toServer.stalled = True
        service.sendData("unacknowledged")
        stopped = service.stopService()
        self.network.advance(4)
        self.assertNoResult(stopped)
        self.network.advance(20)
        self.successResultOf(stopped)

    def test_whenAccepted(self) -> None:
        """In the turn in which the server accepts."""
        self.listening()
        for turns in range(12):
            service = self.service(start=False)
            service.startService()
            self.network.clock.advance(0)
            for _ in range(turns):
                for link in self.network.links:
                    link.deliver()
            stopped = service.stopService()
            self.network.advance(10)
            self.successResultOf(stopped)
            self.assertEqual(self.network.links, [])

    def test_whenFailed(self) -> None:
        """In a callback of who was told of a failure."""
        service = self.service(start=False)
        stopping = service.whenConnected(1)
        stopping.addErrback(lambda failure: service.stopService())
        service.startService()
        self.network.deliver()
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(self.delays(), [])

    def test_startedWhenStopped(self) -> None:
        """Who is told that it has stopped may start it again."""
        service = self.service(start=False, name="other")
        self.listening()
        again = service.whenConnected()
        again.addErrback(lambda failure: service.startService())
        service.startService()
        self.network.deliver()
        self.successResultOf(again)
        self.assertFalse(service.running)
        self.failureResultOf(service.whenConnected(), NameOrKeyMismatch)
        self.assertEqual(self.network.links, [])

    def test_again(self) -> None:
        """It can be started again, with a new stream."""
        self.listening()
        service = self.service()
        former = service.retrieved
        self.stop(service)
        service.startService()
        self.network.deliver()
        self.successResultOf(service.whenConnected())
        self.assertIsNot(service.retrieved, former)
        self.stop(service)


class RefusingEndpointTests(ServiceTestCase):
    """Endpoints that fail at once."""

    def test_manyTimes(self) -> None:
        """
        A failure without any delay is tried again after one, and stopping leaves
        nothing.
        """
        service = self.service()
        for _ in range(20):
            self.network.advance(100)
        self.stop(service)
        self.assertEqual(self.delays(), [])
