"""
Tests for L{aesm.client.states}, and for L{ClientService} in each of its states:
whatever happens there, and whoever is called and calls back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from aesm import (
    AnyServer,
    ClientService,
    Connection,
    ConnectionClosed,
    IClientObserver,
    Packet,
    Pinned,
)
from aesm.client.states import SERVICE_TRANSITIONS, ServiceState
from tests.client.test_service import ServiceTestCase
from tests.support.pairs import CLIENT_KEY, Recorder

EVENTS = ("start", "stop", "due", "accepted", "lost", "gone")


@implementer(IClientObserver)
class TracedService(ClientService):
    """
    A service that remembers its way, and has something done on it.

    @ivar trace: where it was, and what happened.
    @ivar meddle: called at each place where a service calls others, with its name.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """
        @param arguments: as L{ClientService}.
        @param options: as L{ClientService}.
        """
        self.trace: list[tuple[ServiceState, str]] = []
        self.meddle: Callable[[str], None] = lambda place: None
        super().__init__(*arguments, observer=self, **options)
        self.early = True

    def _move(self, event: str) -> ServiceState:
        """Remember it."""
        before = super()._move(event)
        self.trace.append((before, event))
        return before

    def onConnected(self, connection: Connection) -> None:
        """Let somebody meddle."""
        self.meddle("onConnected")

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """Let somebody meddle."""
        self.meddle("onWaiting")

    def onStopped(self, reason: Exception) -> None:
        """Let somebody meddle."""
        self.meddle("onStopped")


@implementer(IStreamClientEndpoint)
class MeddlingEndpoint:
    """
    An endpoint at which somebody meddles.

    @ivar hangs: whether it never connects.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        """@param endpoint: where it leads."""
        self.endpoint = endpoint
        self.hangs = False
        self.meddle: Callable[[str], None] = lambda place: None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect."""
        self.meddle("connect")
        if self.hangs:
            return Deferred(lambda connecting: self.meddle("cancel"))
        return self.endpoint.connect(protocolFactory)


class StateTestCase(ServiceTestCase):
    """Services that are brought into a state."""

    def traced(self, **options: Any) -> TracedService:
        """Make a service, and do not start it."""
        self.endpoint = MeddlingEndpoint(self.network.endpoint())
        settings: dict[str, Any] = {"key": CLIENT_KEY, "trust": AnyServer()}
        service = TracedService(
            self.endpoint, reactor=self.network.clock, **(settings | options)
        )
        self.addCleanup(self.stop, service)
        return service

    def bring(self, state: ServiceState, **options: Any) -> TracedService:
        """Make a service that is in a state."""
        self.listening(sessionGrace=0)
        service = self.traced(**options)
        match state.value:
            case "waiting":
                service.startService()
            case "dialling":
                service.startService()
                self.network.clock.advance(0)
            case "connected" | "stopping" | "restarting" | "stopped":
                service.startService()
                self.network.deliver()
        if state.value in ("stopping", "restarting", "stopped"):
            service.stopService()
        if state.value == "restarting":
            service.startService()
        if state.value == "stopped":
            self.network.deliver()
        self.assertIs(service._state, state)
        service.trace.clear()
        return service

    def check(self, service: TracedService) -> None:
        """Check that there is what goes with its state, and nothing else."""
        state = service._state
        self.assertEqual(service._timer is not None, state is ServiceState.WAITING)
        self.assertEqual(service._attempt is not None, state is ServiceState.DIALLING)
        mayHave = (
            ServiceState.CONNECTED,
            ServiceState.STOPPING,
            ServiceState.RESTARTING,
        )
        if state is ServiceState.CONNECTED:
            self.assertIsNotNone(service._connection)
        self.assertTrue(service._connection is None or state in mayHave)
        halted = state in (ServiceState.STOPPING, ServiceState.STOPPED)
        self.assertEqual(service._reason is not None, halted)
        self.assertEqual(
            bool(service.running), not halted and state is not ServiceState.NEW
        )

    def assertConnects(self, service: TracedService) -> None:
        """Check that a service finds the server, and that it is there once."""
        self.network.advance(60)
        self.check(service)
        self.assertIs(service._state, ServiceState.CONNECTED)
        connection = self.successResultOf(service.whenConnected())
        self.assertTrue(connection.isOpen)
        self.assertEqual(self.count(), 1)

    def count(self) -> int:
        """Count the server's connections, without those that are over and unread."""
        assert self.server is not None
        connections = self.server.connections.values()
        return sum(not connection.isOver for connection in connections)

    def assertStopped(self, service: TracedService) -> None:
        """Check that a service has stopped, and that nothing is left of it."""
        self.network.advance(60)
        self.check(service)
        self.assertIs(service._state, ServiceState.STOPPED)
        self.assertEqual(self.count(), 0)
        self.assertEqual(self.network.links, [])
        self.assertEqual(self.delays(), [])


class TableTests(StateTestCase):
    """Every state times every event."""

    def happen(self, service: TracedService, event: str) -> None:
        """Have something happen, not before it does by itself."""
        match event:
            case "start":
                service.startService()
            case "stop":
                service.stopService()
            case "due":
                self.network.clock.advance(0)
            case "lost":
                self.network.links[0].cut()
                self.network.links[0].deliver()
            case _:
                while not service.trace:
                    self.assertTrue(self.network.links[0].deliver())

    def test_table(self) -> None:
        """
        What is in the table happens, and leads where it says; nobody who waits is
        forgotten when the service is stopped then, and nothing is left of it.
        """
        for (state, event), after in SERVICE_TRANSITIONS.items():
            service = self.bring(state)
            waiting: list[Deferred[Any]] = [
                service.whenConnected(),
                service.sendData("x"),
                service.retrieved.get(),
            ]
            self.happen(service, event)
            self.assertEqual(service.trace[0], (state, event))
            self.check(service)
            if after in (ServiceState.STOPPING, ServiceState.STOPPED):
                if state in (ServiceState.CONNECTED, ServiceState.RESTARTING):
                    self.assertIs(service._state, after)
                self.assertStopped(service)
            else:
                self.assertIs(service._state, after)
                if after is ServiceState.RESTARTING:
                    self.network.deliver()
                self.assertConnects(service)
            self.stop(service)
            for deferred in waiting:
                deferred.addErrback(lambda failure: failure.trap(ConnectionClosed))
                self.successResultOf(deferred)
            self.assertStopped(service)

    def test_missing(self) -> None:
        """What is not in the table raises, and leaves the service where it is."""
        for state in ServiceState:
            service = self.bring(state)
            for event in EVENTS:
                if (state, event) not in SERVICE_TRANSITIONS:
                    self.assertRaises(KeyError, service._move, event)
            self.assertIs(service._state, state)
            self.check(service)
            self.stop(service)

    def test_closed(self) -> None:
        """
        All states and events occur, each state can be reached and left, and can be
        stopped and started.
        """
        states = set(ServiceState)
        self.assertEqual({state for state, _ in SERVICE_TRANSITIONS}, states)
        self.assertEqual({event for _, event in SERVICE_TRANSITIONS}, set(EVENTS))
        reached = set(SERVICE_TRANSITIONS.values()) | {ServiceState.NEW}
        self.assertEqual(reached, states)
        for state in states:
            self.assertIn((state, "start"), SERVICE_TRANSITIONS)
            self.assertIn((state, "stop"), SERVICE_TRANSITIONS)

    def test_fatal(self) -> None:
        """
        After a failure that will not pass, of an attempt or a connection, no attempt is
        waited for: it is a stop.
        """
        service = self.bring(ServiceState.DIALLING, trust=Pinned(CLIENT_KEY.publicKey))
        self.network.deliver()
        self.assertEqual(service.trace[1], (ServiceState.WAITING, "stop"))
        self.assertStopped(service)
        service = self.bring(ServiceState.CONNECTED)
        assert self.server is not None
        (connection,) = self.server.connections.values()
        connection.closeWith(4001, "")
        self.network.deliver()
        self.assertEqual(service.trace[1], (ServiceState.WAITING, "stop"))
        self.assertStopped(service)

    def test_cancelled(self) -> None:
        """In any state, who waits for a connection or for the stop may give up."""
        for state in ServiceState:
            service = self.bring(state)
            waiting: list[Deferred[Any]] = [
                service.whenConnected(),
                service.whenConnected(1),
                service.retrieved.get(),
            ]
            stopped = service.stopService()
            for deferred in [*waiting, stopped]:
                deferred.cancel()
                deferred.addErrback(
                    lambda failure: failure.trap(CancelledError, ConnectionClosed)
                )
                self.successResultOf(deferred)
            self.assertStopped(service)

    def test_stopTwice(self) -> None:
        """
        Who stops a service that is being stopped, and started meanwhile, waits for
        the same.
        """
        service = self.bring(ServiceState.RESTARTING)
        waiting, sent = service.whenConnected(), service.sendData("x")
        stopped = [service.stopService(), service.stopService()]
        for deferred in [*stopped, waiting, sent]:
            self.assertNoResult(deferred)
        self.network.deliver()
        for deferred in stopped:
            self.successResultOf(deferred)
        self.assertClosed(waiting, 1000)
        self.assertClosed(sent, 1000)
        self.assertStopped(service)

    def test_stranger(self) -> None:
        """That a connection of a former start ends means nothing."""
        service = self.bring(ServiceState.CONNECTED)
        former = self.successResultOf(service.whenConnected())
        self.stop(service)
        service.startService()
        self.network.deliver()
        service.detached(former, ConnectionClosed("late"))
        self.assertConnects(service)


class MeddlingTests(StateTestCase):
    """Whoever is called may stop the service, or stop and start it, or both twice."""

    places = (
        "connect",
        "cancel",
        "onConnected",
        "onWaiting",
        "onStopped",
        "policy",
        "connected",
        "failed",
        "sent",
        "packet",
        "closed",
        "retrieved",
    )

    def meddling(self, place: str, action: Callable[[ClientService], None]) -> Any:
        """
        Let a service live a while, and do something to it at one place.

        @return: the service.
        """
        done: list[str] = []

        def meddle(here: object, name: str = "") -> None:
            """
            Meddle, once.

            @param here: the place, or what somebody was told there.
            """
            if (name or here) == place and not done:
                done.append(place)
                action(service)

        def policy(failures: int) -> float:
            """Meddle, and wait a second."""
            meddle("policy")
            return 1.0

        service = self.traced(retryPolicy=policy)
        service.meddle = self.endpoint.meddle = meddle
        self.endServer()
        told: list[Deferred[Any]] = []
        told.append(service.whenConnected(1).addErrback(meddle, "failed"))
        told.append(service.whenConnected().addCallback(meddle, "connected"))
        told.append(service.sendData("x").addBoth(meddle, "sent"))
        told.append(service.retrieved.get().addBoth(meddle, "packet"))
        service.startService()
        self.endpoint.hangs = place == "cancel"
        self.network.deliver()
        if self.endpoint.hangs:
            service.stopService()
        self.endpoint.hangs = False
        server = self.listening(sessionGrace=0)
        self.network.advance(1)
        for connection in list(server.connections.values()):
            connection.sendData("y")
        if service.former is not None:
            told.append(service.former.closed().addCallback(meddle, "closed"))
        self.network.deliver()
        for link in list(self.network.links):
            link.cut()
        self.network.advance(1)
        told.append(service.retrieved.get().addErrback(meddle, "retrieved"))
        if place in ("retrieved", "onStopped"):  # called by a stop
            service.stopService()
        self.network.advance(10)
        self.assertEqual(done, [place])
        self.told = told
        return service

    def assertAllTold(self) -> None:
        """Check that nobody waits any more."""
        for deferred in self.told:
            deferred.addErrback(lambda failure: failure.trap(ConnectionClosed))
            self.successResultOf(deferred)

    def test_stop(self) -> None:
        """Stopped, it is stopped."""
        for place in self.places:
            service = self.meddling(place, stop)
            self.assertStopped(service)
            self.assertAllTold()

    def test_restart(self) -> None:
        """Stopped and started, it connects, once."""

        def restart(service: ClientService) -> None:
            """Do so."""
            stop(service)
            service.startService()

        for place in self.places:
            service = self.meddling(place, restart)
            self.assertConnects(service)
            self.stop(service)
            self.assertStopped(service)
            self.assertAllTold()

    def test_restartTwice(self) -> None:
        """So it does when that is done twice, and it is stopped at the end."""

        def meddle(service: ClientService) -> None:
            """Do so."""
            for _ in range(2):
                stop(service)
                service.startService()
                service.startService()
            stop(service)
            stop(service)

        for place in self.places:
            service = self.meddling(place, meddle)
            self.assertStopped(service)
            self.assertAllTold()

    def test_abort(self) -> None:
        """The connection may be aborted where it is shown first: it is made again."""

        def abort(service: ClientService) -> None:
            """Do so."""
            assert service.former is not None
            service.former.abort()

        service = self.meddling("onConnected", abort)
        self.assertConnects(service)

    def test_runs(self) -> None:
        """
        What is sent and received after a restart is not mixed with what was before.
        """

        def react(connection: Connection, packet: Packet) -> None:
            """Answer, so that each connection has received something."""
            connection.sendData("re: " + str(packet.data))

        recorder = Recorder(react)
        self.listening(recorder, maxMessage=5)
        service = self.traced()
        told: list[Deferred[Any]] = []

        def again(failure: object) -> None:
            """
            Restart, and send.

            @param failure: that a message was too big.
            """
            stop(service)
            service.startService()
            told.append(service.sendData("new"))

        service.sendData("old")
        service.sendData("much too much").addErrback(again)
        behind = service.sendData("gone")
        former = service.retrieved
        service.startService()
        self.network.deliver()
        self.assertConnects(service)
        self.assertClosed(behind, 1000)
        self.successResultOf(told[0])
        self.assertEqual(recorder.data, ["old", "new"])
        self.assertEqual([packet.data for packet in former], ["re: old"])
        self.assertEqual([packet.data for packet in service.retrieved], ["re: new"])

    def test_restartedWhenAttached(self) -> None:
        """
        What comes over a connection that was closed as soon as it was shown does not
        come over the next.
        """
        recorder = Recorder()
        self.listening(recorder)
        service = self.traced()
        seen: list[Connection] = []

        def meddle(place: str) -> None:
            """Restart, once."""
            if place == "onConnected" and not seen:
                assert service.former is not None
                seen.append(service.former)
                recorder.events[0][1].sendData("late")
                stop(service)
                service.startService()

        service.meddle = meddle
        service.startService()
        self.network.deliver()
        self.assertConnects(service)
        self.assertEqual(len(seen), 1)
        self.assertEqual(list(service.retrieved), [])

    def test_stopCancelled(self) -> None:
        """
        Who does not wait for the stop any more does not keep the connection from being
        closed in order.
        """
        service = self.bring(ServiceState.CONNECTED)
        connection = self.successResultOf(service.whenConnected())
        sent, stopped = service.sendData("last"), service.stopService()
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.closedReason(connection).code, 1000)
        self.assertStopped(service)

    def test_abortWhileDialling(self) -> None:
        """
        A session may be ended while an attempt is under way that is to resume it: that
        attempt is given up, and the next makes another session.
        """
        self.listening()
        service = self.traced()
        service.startService()
        self.network.deliver()
        former = self.successResultOf(service.whenConnected())
        self.network.links[0].cut()
        while service._attempt is None:
            self.network.clock.advance(0.5)
            for link in self.network.links:
                link.deliver()
        self.assertIs(service.former, former)
        former.abort()
        self.assertTrue(former.isOver)
        self.assertIs(service._state, ServiceState.WAITING)
        self.assertConnects(service)
        self.assertIsNot(service.former, former)

    def test_waiters(self) -> None:
        """Who is told that there is a connection may keep others from being told."""
        self.listening()
        service = self.traced()
        first, second = service.whenConnected(), service.whenConnected()
        first.addCallback(lambda connection: second.cancel())
        service.startService()
        self.network.deliver()
        self.assertIsNone(self.successResultOf(first))
        self.failureResultOf(second, CancelledError)


def stop(service: ClientService) -> None:
    """Stop a service, and do not wait for that."""
    service.stopService()
