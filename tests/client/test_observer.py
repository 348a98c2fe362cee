"""
Tests for L{aesm.client.observer}: a client that stays tells how it fares.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import (
    AESMError,
    AnyServer,
    ClientService,
    Connection,
    ConnectionClosed,
    IClientObserver,
    NotAuthorized,
    SessionLost,
)
from tests.client.test_service import ServiceTestCase
from tests.support.pairs import CLIENT_KEY, PairTestCase, Recorder
from tests.support.spooled import SpoolTestCase


@implementer(IClientObserver)
class Diary:
    """
    An observer that remembers.

    @ivar entries: what it was told, in order: a connection, a delay and a reason, or a
        reason.
    @ivar greeting: what to send over each connection, if anything.
    @ivar failing: whether to raise, too.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.entries: list[Any] = []
        self.greeting = ""
        self.failing = False

    def note(self, entry: object) -> None:
        """Remember something."""
        self.entries.append(entry)
        if self.failing:
            raise ZeroDivisionError

    def onConnected(self, connection: Connection) -> None:
        """Remember a connection."""
        if self.greeting:
            connection.sendData(self.greeting)
        self.note(connection)

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """Remember a failure."""
        self.note((delay, reason))

    def onStopped(self, reason: Exception) -> None:
        """Remember the end."""
        self.note(reason)

    def take(self) -> list[Any]:
        """Take what there is, with the classes of failures in the place of them."""
        taken, self.entries = self.entries, []
        return [
            type(entry[1]) if isinstance(entry, tuple) else entry for entry in taken
        ]


class ObserverTests(ServiceTestCase):
    """What an observer is told."""

    def setUp(self) -> None:
        """Have an observer."""
        super().setUp()
        self.diary = Diary()

    def observed(self, **options: Any) -> ClientService:
        """Start a service."""
        settings: dict[str, Any] = {"key": CLIENT_KEY, "trust": AnyServer()}
        service = ClientService(
            self.network.endpoint(),
            observer=self.diary,
            reactor=self.network.clock,
            **(settings | options),
        )
        service.startService()
        self.network.deliver()
        self.addCleanup(self.stop, service)
        return service

    def test_interface(self) -> None:
        """The observer of these tests is one; what is none is refused at once."""
        verifyObject(IClientObserver, self.diary)
        for wrong in (Diary, object(), print):
            with self.assertRaisesRegex(TypeError, "observer must provide"):
                ClientService("tcp:127.0.0.1:1", observer=wrong)

    def test_resumed(self) -> None:
        """A session that goes on keeps its connection."""
        self.listening()
        service = self.observed()
        first = self.successResultOf(service.whenConnected())
        self.assertEqual(self.diary.take(), [first])
        self.network.links[0].cut()
        self.network.deliver()
        (failure,) = self.diary.take()
        self.assertTrue(issubclass(failure, ConnectionClosed))
        self.network.advance(1)
        self.assertEqual(self.diary.take(), [first])

    def test_ended(self) -> None:
        """After one that has ended there is another connection."""
        server = self.listening()
        service = self.observed()
        first = self.successResultOf(service.whenConnected())
        self.diary.take()
        (connection,) = server.connections.values()
        connection.closeWith(1013, "full")
        self.network.deliver()
        ((delay, reason),) = self.diary.entries
        self.assertEqual(reason.code, 1013)
        self.assertTrue(0 < delay < 1)
        self.diary.take()
        self.network.advance(1)
        (second,) = self.diary.take()
        self.assertIs(second, self.successResultOf(service.whenConnected()))
        self.assertIsNot(second, first)

    def test_lost(self) -> None:
        """
        So there is where the server has given the session up, and the former one is
        over then.
        """
        server = self.listening(sessionGrace=0)
        service = self.observed()
        first = self.successResultOf(service.whenConnected())
        self.diary.take()
        self.network.links[0].cut()
        self.network.deliver()
        self.assertEqual(list(server.connections), [])
        self.network.advance(1)
        _, second = self.diary.take()
        self.assertIsInstance(second, Connection)
        self.assertIsNot(second, first)
        self.assertIsInstance(self.closedReason(first), SessionLost)

    def test_first(self) -> None:
        """What is sent when there is a connection goes before what waits."""
        service = self.observed()
        service.sendData("second")
        self.diary.greeting = "first"
        server = self.listening()
        self.network.advance(3)
        (connection,) = server.connections.values()
        self.assertEqual([p.data for p in connection.retrieved], ["first", "second"])

    def test_attempts(self) -> None:
        """Each attempt that fails is told, with the delay until the next."""
        self.observed()
        for _ in range(300):
            self.network.advance(1)
        delays = [delay for delay, _ in self.diary.entries]
        self.assertTrue(delays[0] < delays[2] < delays[4] <= delays[-1], delays)
        self.assertIn(ConnectionRefusedError, self.diary.take())

    def test_stopped(self) -> None:
        """The end is told once, when nothing is open, however often it is asked for."""
        self.listening()
        service = self.observed()
        self.diary.take()
        stopped = [service.stopService(), service.stopService()]
        self.assertEqual(self.diary.take(), [])
        self.network.deliver()
        for each in stopped:
            self.successResultOf(each)
        (reason,) = self.diary.take()
        self.assertEqual(reason.code, 1000)
        self.assertEqual(self.network.links, [])
        self.successResultOf(service.stopService())
        self.assertEqual(self.diary.take(), [])
        service.startService()
        self.network.deliver()
        self.assertEqual(len(self.diary.take()), 1)

    def test_stopCancelled(self) -> None:
        """So it is if who has stopped it does not wait for that."""
        self.listening()
        service = self.observed()
        self.diary.take()
        stopped, packet = service.stopService(), service.retrieved.get()
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        self.assertEqual(self.diary.take(), [])
        self.assertNoResult(packet)
        self.network.deliver()
        self.assertEqual(len(self.diary.take()), 1)
        self.failureResultOf(packet, ConnectionClosed)
        self.assertEqual(self.network.links, [])

    def test_final(self) -> None:
        """So is that of a failure that will not pass."""
        server = self.listening()
        service = self.observed()
        self.diary.take()
        (connection,) = server.connections.values()
        connection.closeWith(1008, "")
        self.network.deliver()
        (reason,) = self.diary.take()
        self.assertIsInstance(reason, NotAuthorized)
        self.failureResultOf(service.whenConnected(), NotAuthorized)
        # As the application does that it belongs to.
        self.successResultOf(service.stopService())
        self.assertEqual(self.diary.take(), [])

    def test_fails(self) -> None:
        """An error in it is logged, and breaks nothing."""
        self.diary.failing = True
        self.listening()
        service = self.observed()
        sent = service.sendData("x")
        self.network.deliver()
        self.successResultOf(sent)
        self.network.links[0].cut()
        self.network.advance(3)
        self.assertTrue(self.successResultOf(service.whenConnected()).isOpen)
        self.stop(service)
        self.assertEqual(len(self.diary.entries), 4)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 4)
        self.diary.failing = False

    def test_readsToTheEnd(self) -> None:
        """
        What the server says before it hears of the end still comes, if that is wanted:
        people see answers to all that they have sent.
        """
        server = self.listening()
        service = self.observed()
        service.leaves = False
        self.network.links[0].cut()
        self.network.advance(1)
        server.sendAll("before")
        stopped = service.stopService()
        self.network.deliver()
        self.successResultOf(stopped)
        packet = service.retrieved.getData()
        self.assertEqual(None if packet is None else packet.data, "before")


class HandlerTests(ServiceTestCase):
    """What a handler of a client that stays is told."""

    def handled(self, handler: object, start: bool = True, **options: Any) -> Any:
        """Make a service with a handler."""
        return self.service(start=start, handler=handler, **options)

    def test_packets(self) -> None:
        """
        Packets are handed over one at a time, through cuts, and acknowledged once they
        are handled; nothing is left in C{retrieved}.
        """
        working: list[Deferred[None]] = []

        def react(connection: Connection, packet: object) -> Deferred[None]:
            """Ask for time."""
            working.append(Deferred())
            return working[-1]

        server, handler = self.listening(), Recorder(react)
        service = self.handled(handler)
        self.network.deliver()
        (accepted,) = server.connections.values()
        sent = [accepted.sendData(data) for data in "abc"]
        for number in range(3):
            self.network.deliver()
            self.assertEqual(handler.data, list("abc")[: number + 1])
            self.assertEqual([d.called for d in sent].count(True), number)
            if number == 1:
                self.network.links[0].cut()
                self.network.advance(2)
            working[number].callback(None)
        self.network.deliver()
        self.successResultOf(sent[2])
        self.assertEqual(list(service.retrieved), [])
        self.stop(service)
        self.assertEqual(handler.names, ["accepted", *["packet"] * 3, "lost"])
        self.assertEqual(handler.events[-1][1].code, 1000)

    def test_told(self) -> None:
        """It is told of cuts and returns, and of each session's begin and end."""

        class Sessions(Recorder):
            """Wants to know all."""

            def connectionDetached(self, connection: object, reason: object) -> None:
                """Remember it."""
                self.events.append(("detached", reason))

            def connectionAttached(self, connection: object) -> None:
                """Remember it."""
                self.events.append(("attached", connection))

        server, handler = self.listening(), Sessions()
        service = self.handled(handler)
        self.network.deliver()
        self.network.links[0].cut()
        self.network.advance(2)
        self.assertEqual(handler.names, ["accepted", "detached", "attached"])
        (accepted,) = server.connections.values()
        accepted.closeWith(1013, "")
        self.network.advance(2)
        self.assertEqual(handler.names[3:], ["lost", "accepted"])
        self.network.links[0].cut()
        self.network.deliver()
        self.stop(service)
        self.assertEqual(handler.names[5:], ["detached", "lost"])

    def test_first(self) -> None:
        """What it sends when it is told of a session goes before what waits."""

        class Greeting(Recorder):
            """Has something to say first."""

            def connectionAccepted(self, connection: Connection) -> None:
                """Say it."""
                connection.sendData("first")

        server = self.listening()
        service = self.handled(Greeting(), start=False)
        service.sendData("second")
        service.startService()
        self.addCleanup(self.stop, service)
        self.network.deliver()
        (connection,) = server.connections.values()
        self.assertEqual([p.data for p in connection.retrieved], ["first", "second"])

    def test_stopped(self) -> None:
        """
        That what it still would send cannot be sent any more, since the service is
        stopped, is no failure of it; what it was not done with is not acknowledged.
        """

        async def late(connection: Connection, packet: object) -> str:
            """Take some time, and send something."""
            await going
            await connection.sendData("too late")
            return "too late"

        async def talk(connection: Connection) -> None:
            """Do so in a coroutine for all."""
            await late(connection, None)

        class Requests(Recorder):
            """Does so with requests."""

            requestReceived = staticmethod(late)

        server, waiting = self.listening(), Recorder(late)
        for handler in (waiting, Requests(), talk):
            going: Deferred[None] = Deferred()
            service = self.handled(handler)
            self.network.deliver()
            (accepted,) = server.connections.values()
            sent, asked = accepted.sendData("x"), accepted.request("?")
            self.network.deliver()
            stopped = service.stopService()
            going.callback(None)
            self.network.deliver()
            self.successResultOf(stopped)
            asked.addErrback(lambda failure: failure.trap(AESMError))
            self.assertEqual(self.flushLoggedErrors(), [])
            if handler is waiting:
                self.assertClosed(sent, 1000)
            else:
                self.successResultOf(sent)

    def test_fails(self) -> None:
        """Where it fails, that session is closed with 1011, and there is another."""
        server, handler = self.listening(), Recorder(lambda *_: 1 / 0)
        service = self.handled(handler)
        self.network.deliver()
        (accepted,) = server.connections.values()
        sent = accepted.sendData("x")
        self.network.deliver()
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertClosed(sent, 1011)
        self.network.advance(2)
        self.assertEqual(handler.names, ["accepted", "packet", "lost", "accepted"])
        self.assertTrue(self.successResultOf(service.whenConnected()).isOpen)

    def test_requests(self) -> None:
        """It answers the server's requests, over whichever connection."""

        class Answering(Recorder):
            """Answers."""

            def requestReceived(self, connection: object, packet: Any) -> str:
                """Give the same."""
                return f"re: {packet.data!r}"

        server = self.listening()
        self.handled(Answering())
        (accepted,) = server.connections.values()
        self.network.links[0].cut()
        asked = accepted.request("x")
        self.network.advance(2)
        self.assertEqual(self.successResultOf(asked), "re: 'x'")

    def test_stop(self) -> None:
        """A service that stops waits for it, connected or cut, and not for ever."""

        class Slow(Recorder):
            """Takes its time over the end."""

            ending: Deferred[None]

            def connectionLost(self, connection: object, reason: object) -> Any:
                """Ask for time."""
                self.ending = Deferred()
                return self.ending

        for isCut in (False, True):
            for isDone in (False, True):
                self.listening()
                handler = Slow()
                service = self.handled(handler)
                self.network.deliver()
                if isCut:
                    self.network.links[0].cut()
                stopped = service.stopService()
                self.network.advance(4)
                self.assertNoResult(stopped)
                if isDone:
                    handler.ending.callback(None)
                else:
                    self.network.advance(2)
                self.successResultOf(stopped)
                if not isDone:
                    handler.ending.callback(None)

    def test_coroutine(self) -> None:
        """
        A coroutine is begun for each session, goes on through cuts, and ends with it.
        """
        begun: list[Connection] = []

        async def talk(connection: Connection) -> None:
            """Answer."""
            begun.append(connection)
            async for packet in connection.retrieved:
                connection.sendData(f"re: {packet.data!r}")

        server = self.listening()
        self.handled(talk)
        self.network.deliver()
        for number in (1, 2):
            (accepted,) = server.connections.values()
            self.network.links[0].cut()
            accepted.sendData("x")
            self.network.advance(2)
            packet = accepted.retrieved.getData()
            self.assertEqual(packet and packet.data, "re: 'x'")
            self.assertEqual(len(begun), number)
            accepted.closeWith(1013, "")
            self.network.advance(2)

    def test_returns(self) -> None:
        """
        One that returns has done what the service was for: its session is closed with
        1000, and the service stops, whether it is connected or not.
        """
        for isCut in (False, True):
            going: Deferred[None] = Deferred()

            async def talk(connection: Connection, going: Any = going) -> None:
                """Say something when told to, and leave."""
                await going
                connection.sendData("bye")

            diary = Diary()
            server = self.listening()
            service = self.handled(talk, observer=diary)
            self.network.deliver()
            (accepted,) = server.connections.values()
            if isCut:
                self.network.links[0].cut()
                self.network.deliver()
            going.callback(None)
            self.assertClosed(service.sendData("x"), 1000)
            self.network.advance(2)
            self.assertFalse(service.running)
            self.assertEqual(diary.entries[-1].code, 1000)
            if not isCut:
                packet = accepted.retrieved.getData()
                self.assertEqual(packet and packet.data, "bye")
                self.assertEqual(self.closedReason(accepted).code, 1000)
                self.assertEqual(len(diary.entries), 2)

    def test_raises(self) -> None:
        """One that fails is begun again in the next session, as a handler is."""
        begun: list[Connection] = []

        async def talk(connection: Connection) -> None:
            """Fail the first time."""
            begun.append(connection)
            if len(begun) == 1:
                raise ZeroDivisionError
            await connection.closed()

        self.listening()
        self.handled(talk)
        self.network.deliver()
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(self.closedReason(begun[0]).code, 1011)
        self.network.advance(2)
        self.assertEqual(len(begun), 2)


class ConnectTests(PairTestCase):
    """A handler of one connection, as C{connect} makes it."""

    def test_packets(self) -> None:
        """It is told of the begin, of each packet and of the end."""
        handler = Recorder()
        pair = self.pair(client={"handler": handler})
        sent = [pair.accepted.sendData(data) for data in "ab"]
        pair.deliver()
        for each in sent:
            self.successResultOf(each)
        pair.network.links[0].cut()
        pair.deliver()
        self.assertEqual(handler.names, ["accepted", "packet", "packet", "lost"])
        self.assertIs(handler.events[0][1], pair.client)
        self.assertEqual(list(pair.client.retrieved), [])

    def test_coroutine(self) -> None:
        """A coroutine closes it by returning."""

        async def talk(connection: Connection) -> None:
            """Answer one packet."""
            packet = await connection.retrieved.get()
            connection.sendData(f"re: {packet.data!r}")

        pair = self.pair(client={"handler": talk})
        pair.accepted.sendData("x")
        pair.deliver()
        self.assertEqual([p.data for p in pair.accepted.retrieved], ["re: 'x'"])
        self.assertEqual(self.closedReason(pair.accepted).code, 1000)


class SpooledHandlerTests(SpoolTestCase):
    """Handlers of clients whose sessions outlive the process."""

    def test_killed(self) -> None:
        """
        A handler is told of the session that a former process has left, and handed what
        that one had not handled.
        """
        working: Deferred[None] = Deferred()
        self.serving()
        former = Recorder(lambda *_: working)
        service = self.service(spool=self.clientPath, handler=former)
        for data in "ab":
            self.accepted.sendData(data)
        self.settle()
        self.assertEqual(former.data, ["a"])
        self.killService(service)
        handler = Recorder()
        self.service(spool=self.clientPath, handler=handler)
        self.settle()
        self.assertEqual(handler.names, ["accepted", "packet", "packet"])
        self.assertEqual(handler.data, ["a", "b"])

    def test_unread(self) -> None:
        """So it is what a former process without a handler had not taken."""
        self.serving()
        service = self.service(spool=self.clientPath)
        self.accepted.sendData("a")
        self.settle()
        self.killService(service)
        handler = Recorder()
        service = self.service(spool=self.clientPath, handler=handler, deliver=False)
        self.assertEqual(handler.data, ["a"])
        self.settle()
        self.killService(service)
        self.service(spool=self.clientPath, handler=handler)
        self.settle()
        self.assertEqual(handler.data, ["a"])

    def test_coroutine(self) -> None:
        """A coroutine is begun again, for a session that is over as well."""
        said: list[object] = []
        working: list[Deferred[None]] = []

        async def talk(connection: Connection) -> None:
            """Take time over each packet."""
            async for packet in connection.retrieved:
                said.append(packet.data)
                working.append(Deferred())
                await working[-1]

        self.serving()
        service = self.service(spool=self.clientPath, handler=talk)
        for data in "abc":
            self.accepted.sendData(data)
        self.settle()
        self.killService(service)
        service = self.service(spool=self.clientPath, handler=talk)
        self.settle()
        self.accepted.closeWith(4000, "")
        self.settle()
        self.killService(service)
        self.service(spool=self.clientPath, handler=talk)
        self.settle()
        self.assertEqual(said, ["a", "b", "c"])
