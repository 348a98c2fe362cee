"""
Early messages, L{aesm.client.pending} and L{aesm.core.messages.conversation}: what
waits for a new session follows the handshake at once, and arrives once and in order, or
its sender is told.  And how many flights a connection takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from aesm import (
    PSK,
    AnyServer,
    ClientService,
    Connection,
    ConnectionClosed,
    MessageTooBig,
    Packet,
    PrivateKey,
    PublicKey,
    Server,
    SessionLost,
)
from aesm.client import connect
from aesm.core.channel.settings import SUITES
from aesm.core.messages.hello import EARLY_WINDOW, Hello
from aesm.testing.transport import BUFFER, MemoryLink, MemoryTransport
from tests.support.pairs import CLIENT_KEY, Recorder
from tests.support.spooled import SpoolTestCase

OTHER_KEY = PrivateKey(b"\x33" * 32)
NAME = "0123456789abcdef" * 2
MESSAGES = ["one", "two", b"three"]
ROOM = EARLY_WINDOW - 64  # bytes of one early message


def answer(connection: Connection, packet: Packet) -> None:
    """Send a packet back."""
    assert packet.data is not None
    connection.sendData(packet.data)


class EarlyTestCase(SpoolTestCase):
    """A client that has something to say before it is connected."""

    def serve(self, handler: object = None, **options: Any) -> Any:
        """Start a server, without a spool unless there is one in the options."""
        return self.serving(handler, **{"spool": None, "suites": SUITES[2:3]} | options)

    def dial(
        self, messages: list[Any], deliver: bool = False, **options: Any
    ) -> tuple[ClientService, list[Deferred[None]]]:
        """
        Start a client for which messages wait.

        @param options: of the client.
        @return: the client, and what becomes of the messages.
        """
        service = self.service(deliver=False, suites=SUITES[2:3], **options)
        sent = [service.sendData(message) for message in messages]
        self.network.clock.advance(0)
        if deliver:
            self.network.deliver()
        return service, sent

    @property
    def link(self) -> MemoryLink:
        """The newest connection."""
        return self.network.links[-1]

    def flights(self) -> Iterator[int]:
        """Deliver what is on its way, to one end after the other, and count that."""
        link = self.link
        ways = [(link.server, link.client), (link.client, link.server)]
        for number in count(1):
            receiver, sender = ways[(number - 1) % 2]
            self.fly(receiver, sender)
            yield number

    def fly(
        self,
        receiver: MemoryTransport,
        sender: MemoryTransport,
        most: int = sys.maxsize,
    ) -> int:
        """
        Deliver what is on its way to one end.

        @param most: bytes at the most.
        @return: how many of these are left.
        """
        pipe = receiver.incoming
        while most > 0:
            before = len(pipe.inFlight)
            if not (receiver.receive(min(most, BUFFER)) or sender.proceed()):
                break
            most -= max(0, before - len(pipe.inFlight))
        receiver.proceed()  # it may close at once
        self.network.clock.advance(0)
        return most

    def after(self, flights: int) -> None:
        """Let so many flights pass."""
        for number in self.flights():
            if number == flights:
                return

    def flightsUntil(self, done: Deferred[Any]) -> int:
        """Count the flights until a Deferred has fired."""
        for number in self.flights():
            if done.called:
                return number
            self.assertLess(number, 20)
        raise AssertionError

    def unsent(self, sent: list[Deferred[None]]) -> None:
        """Check that nothing has become of messages yet."""
        for each in sent:
            self.assertNoResult(each)

    def unread(self, server: Server) -> list[Any]:
        """Take what came to a server without a handler."""
        data = []
        while (taken := server.connections.getDataOrdinal())[0] is not None:
            data.append(taken[1].data)
        return data

    def settled(self, sent: list[Deferred[None]]) -> list[bool]:
        """Look which messages were acknowledged; of the others their senders know."""
        results: list[Any] = []
        for each in sent:
            each.addBoth(results.append)
        self.assertEqual(len(results), len(sent))
        for result in results:
            self.assertTrue(result is None or result.check(ConnectionClosed), result)
        return [result is None for result in results]


class FlightTests(EarlyTestCase):
    """How many flights there are; over TCP two more come before."""

    def test_firstAcknowledgement(self) -> None:
        """
        What waits when a client connects is acknowledged with the WELCOME, after two
        round trips; what cannot leave early after three.
        """
        self.serve(Recorder())
        for messages, flights in ((MESSAGES, 4), (["x" * (ROOM + 1), *MESSAGES], 6)):
            service, sent = self.dial(messages)
            self.assertEqual(self.flightsUntil(sent[-1]), flights)
            self.assertEqual(self.settled(sent), [True] * len(messages))
            self.stopService(service)

    def test_close(self) -> None:
        """
        A client that closes does not wait for the server if all is acknowledged; else
        that takes there and back.
        """
        server = self.serve(Recorder())
        for sending, flights in ((False, 0), (True, 2)):
            service, _ = self.dial(MESSAGES, deliver=True)
            (accepted,) = server.connections.values()
            if sending:
                service.sendData("more")
            stopped = service.stopService()
            self.network.clock.advance(0)
            if flights:
                self.assertEqual(self.flightsUntil(stopped), flights)
            self.successResultOf(stopped)
            self.after(1)
            self.assertTrue(accepted.isClosing)
            self.network.deliver()
            self.assertEqual(self.closedReason(accepted).code, 1000)
            self.assertEqual(self.network.links, [])

    def test_connect(self) -> None:
        """Without anything to say it takes no more, and no fewer, than that."""
        self.serve()
        service, _ = self.dial([])
        connected = service.whenConnected()
        self.assertEqual(self.flightsUntil(connected), 4)


class EarlyTests(EarlyTestCase):
    """What follows the handshake."""

    def helloOf(self, messages: list[Any], **options: Any) -> Hello:
        """See what a client says that has messages to send; it is stopped then."""
        hellos: list[Hello] = []
        decode = Hello.decode

        def decoding(payload: bytes) -> Hello:
            hellos.append(decode(payload))
            return hellos[-1]

        self.patch(Hello, "decode", decoding)
        service, _ = self.dial(messages, deliver=True, **options)
        self.stopService(service)
        self.patch(Hello, "decode", decode)
        return hellos[0]

    def test_bound(self) -> None:
        """What costs up to 64 KiB is early, and no message in part."""
        self.serve(Recorder())
        for size, early in ((ROOM - 1, ROOM + 12), (ROOM, ROOM + 13), (ROOM + 1, 0)):
            hello = self.helloOf([bytes(size), b"more"])
            self.assertEqual((hello.early, bool(hello.session)), (early, early > 0))
        for size in (1, 2):
            hello = self.helloOf([bytes(ROOM - 65), bytes(size)])
            self.assertEqual(hello.early, ROOM - 65 + 13 + (14 if size == 1 else 0))
        self.assertEqual(self.helloOf([]).early, 0)

    def test_order(self) -> None:
        """What waits behind these follows once the server has accepted, in order."""
        recorder = Recorder()
        self.serve(recorder)
        messages = [f"{number}" * 100 for number in range(2000)]
        service, sent = self.dial(messages)
        self.after(3)
        self.assertEqual(recorder.data, messages[: len(recorder.data)])
        self.assertTrue(0 < len(recorder.data) < len(messages))
        last = service.sendData("last")
        self.fly(self.link.client, self.link.server)
        self.assertGreater(len(self.link.toServer.inFlight), EARLY_WINDOW)
        self.network.deliver()
        self.assertEqual(recorder.data, [*messages, "last"])
        self.assertEqual(self.settled([*sent, last]), [True] * 2001)

    def test_handler(self) -> None:
        """A handler is told of the connection first, and may take its time for that."""
        ready: Deferred[None] = Deferred()
        recorder = Recorder()
        accepted = recorder.connectionAccepted

        def accepting(connection: Connection) -> Deferred[None]:
            accepted(connection)
            return ready

        recorder.connectionAccepted = accepting  # type: ignore[method-assign, assignment]
        server = self.serve(recorder)
        service, sent = self.dial(MESSAGES, deliver=True)
        self.assertEqual(recorder.names, ["accepted"])
        self.assertEqual([entry.event for entry in self.entries(server)], ["accepted"])
        self.assertTrue(service.former and service.former.isOpen)
        ready.callback(None)
        self.network.deliver()
        self.assertEqual(recorder.data, MESSAGES)
        self.assertEqual(self.settled(sent), [True] * 3)

    def test_answers(self) -> None:
        """An answer comes with the WELCOME."""
        self.serve(Recorder(answer))
        service, _ = self.dial(MESSAGES)
        answered = service.retrieved.get()
        self.assertEqual(self.flightsUntil(answered), 4)
        self.assertEqual(self.successResultOf(answered).data, MESSAGES[0])
        self.assertEqual(self.taking(service.retrieved), MESSAGES[1:])

    def test_untakenWindow(self) -> None:
        """
        A server whose window, or whose largest message, has less than all that may come
        early takes none: it is skipped, and sent again, and who sent what is too big
        for it is told as ever.
        """
        for options in ({"maxMessage": EARLY_WINDOW - 1}, {"receiveBuffer": 1000}):
            recorder = Recorder()
            self.serve(recorder, **options)
            service, sent = self.dial(MESSAGES)
            self.assertEqual(self.flightsUntil(sent[-1]), 6)
            self.assertEqual(recorder.data, MESSAGES)
            self.assertEqual(self.settled(sent), [True] * 3)
            self.stopService(service)
            self.stopServer()
        recorder = Recorder()
        self.serve(recorder, maxMessage=5)
        service, sent = self.dial(["a", "too big", "c"])
        self.network.deliver()
        self.assertEqual(recorder.data, ["a", "c"])
        self.failureResultOf(sent.pop(1), MessageTooBig)
        self.assertEqual(self.settled(sent), [True] * 2)

    def test_skippedInPieces(self) -> None:
        """What is not taken is skipped however it comes."""
        self.network.chunkSize = 7
        recorder = Recorder()
        self.serve(recorder, receiveBuffer=1000)
        _, sent = self.dial([*MESSAGES, "x" * 3000], deliver=True)
        self.assertEqual(recorder.data, [*MESSAGES, "x" * 3000])
        self.assertEqual(self.settled(sent), [True] * 4)

    def test_psk(self) -> None:
        """A pre-shared key changes nothing."""
        recorder = Recorder()
        psk = PSK.generate()
        self.serve(recorder, psk=psk)
        _, sent = self.dial(MESSAGES, psk=psk)
        self.assertEqual(self.flightsUntil(sent[-1]), 4)
        self.assertEqual(recorder.data, MESSAGES)


class NameTests(EarlyTestCase):
    """The client names the session, and a name is nobody else's way in."""

    def setUp(self) -> None:
        """Have all clients choose the same name."""
        super().setUp()
        self.patch(connect, "token_hex", lambda size: NAME)

    def test_adopted(self) -> None:
        """The server's session has the client's name."""
        self.serve()
        service, _ = self.dial(MESSAGES, deliver=True)
        self.assertEqual(self.accepted.session.name, NAME)
        self.assertTrue(service.former and service.former.session.name == NAME)

    def test_taken(self) -> None:
        """
        A name that is in use, whoever has it, is not taken a second time: nothing of
        the other session is touched, and the messages go into one of another name.
        """
        for spool in (None, self.path):
            server = self.serve(spool=spool)
            first, sent = self.dial(MESSAGES, deliver=True)
            for key in (OTHER_KEY, CLIENT_KEY):
                service, more = self.dial(["more", "other"], deliver=True, key=key)
                self.assertEqual(self.settled(more), [True] * 2)
                self.assertTrue(service.former and service.former.session.name != NAME)
                self.stopService(service)
            self.assertEqual(self.settled(sent), [True] * 3)
            self.network.links[0].cut()
            self.network.advance(5)
            still = first.sendData("still")
            self.network.deliver()
            self.successResultOf(still)
            self.assertEqual(
                self.unread(server), [*MESSAGES, *["more", "other"] * 2, "still"]
            )
            self.stopService(first)
            self.stopServer()

    def test_pending(self) -> None:
        """So while the other session is being written down; after that it is free."""
        self.byHand = True
        self.serve(spool=self.path)
        worker = self.worker
        self.dial(MESSAGES, key=OTHER_KEY)
        self.network.deliver()
        self.assertEqual(len(worker.waiting), 1)
        _, sent = self.dial(MESSAGES)
        self.network.deliver()
        self.onDisk(worker)
        self.network.deliver()
        self.onDisk(worker)
        assert self.server is not None
        names = [each.session.name for each in self.server.connections.values()]
        self.assertEqual(len(set(names)), 2)
        self.assertEqual(names.count(NAME), 1)
        self.assertEqual(self.settled(sent), [True] * 3)

    def test_freeAgain(self) -> None:
        """A name is free once nothing is left of its session, also at the server."""
        self.serve(spool=self.path)
        service, _ = self.dial(MESSAGES, deliver=True)
        self.stopService(service)
        service, _ = self.dial(["unread"], deliver=True)
        self.assertNotEqual(service.former and service.former.session.name, NAME)
        self.stopService(service)
        assert self.server is not None
        self.unread(self.server)
        service, _ = self.dial(["again"], deliver=True)
        self.assertEqual(service.former and service.former.session.name, NAME)


class RefusedTests(EarlyTestCase):
    """What surely was not taken waits again, in front of what came meanwhile."""

    def test_noRoom(self) -> None:
        """A server that has no room says so: all of it arrives once there is some."""
        recorder = Recorder()
        self.serve(recorder, maxConnections=1, perKey="reject", spool=self.path)
        first, _ = self.dial([], deliver=True)
        service, sent = self.dial(MESSAGES, deliver=True, spool=self.clientPath)
        more = [service.sendData("more")]
        self.assertEqual(recorder.data, [])
        self.unsent(sent)
        self.stopService(first)
        self.network.advance(5)
        self.assertEqual(recorder.data, [*MESSAGES, "more"])
        self.assertEqual(self.settled(sent + more), [True] * 4)

    def test_notAuthorized(self) -> None:
        """Who is not let in is told with the end of the service."""
        self.serve(Recorder(), authorizedKeys=lambda key, address: None)
        with capturedLogs():
            service, sent = self.dial(MESSAGES, deliver=True)
        self.assertEqual(self.settled(sent), [False] * 3)
        self.assertFalse(service.running)

    def test_beforeItLeft(self) -> None:
        """
        A connection that is lost while the client's spool is written has not taken
        anything.
        """
        recorder = Recorder()
        self.serve(recorder)
        self.byHand = True
        service, sent = self.dial(MESSAGES, spool=self.clientPath)
        self.after(2)
        self.assertEqual(len(self.worker.waiting), 1)
        self.assertEqual(self.link.toServer.inFlight, b"")
        self.link.cut()
        more = service.sendData("more")
        for _ in range(3):
            self.network.advance(5)
            self.onDisk(self.worker)
        self.assertEqual(recorder.data, [*MESSAGES, "more"])
        self.assertEqual(self.settled([*sent, more]), [True] * 4)

    def test_stopped(self) -> None:
        """A client that is stopped meanwhile tells the senders."""
        self.serve()
        for flights in range(1, 4):
            service, sent = self.dial(MESSAGES)
            self.after(flights)
            self.stopService(service)
            self.assertEqual(self.settled(sent), [False] * 3)

    def test_stoppedByPolicy(self) -> None:
        """
        A client that is stopped, and started again, by who trusts the server has the
        next attempt send what waits then.
        """
        recorder = Recorder()
        self.serve(recorder)
        more: list[Deferred[None]] = []

        class Meddling(AnyServer):
            def checkServer(self, location: str, publicKey: PublicKey) -> Any:
                if not more:
                    service.stopService()
                    service.startService()
                    more.append(service.sendData("more"))
                return super().checkServer(location, publicKey)

        service, sent = self.dial(MESSAGES, trust=Meddling())
        self.network.advance(5)
        self.assertEqual(self.settled(sent), [False] * 3)
        self.assertEqual(self.settled(more), [True])
        self.assertEqual(recorder.data, ["more"])

    def test_noRoomOnDisk(self) -> None:
        """A store that cannot be written has nothing leave, and all of it wait."""
        recorder = Recorder()
        self.serve(recorder)
        service, sent = self.dial(MESSAGES, spool=self.clientPath)
        self.worker.room = False
        with capturedLogs():
            service.sendData("x")
            self.network.deliver()
        self.worker.room = True
        self.network.advance(30)
        self.assertEqual(self.settled(sent), [True] * 3)
        self.assertEqual(recorder.data, [*MESSAGES, "x"])


class CutTests(EarlyTestCase):
    """Cuts, anywhere."""

    def cutAfter(self, size: int, toServer: bool) -> bool:
        """
        Cut the connection after so many bytes of one direction.

        @return: whether there were as many.
        """
        link = self.link
        left = {True: sys.maxsize, False: sys.maxsize} | {toServer: size}
        moved = True
        while moved and left[toServer]:
            before = dict(left)
            for way in (True, False):
                receiver, sender = (
                    (link.server, link.client) if way else (link.client, link.server)
                )
                left[way] = self.fly(receiver, sender, left[way])
                if not left[toServer]:
                    break
            moved = left != before
        link.cut()
        return not left[toServer]

    def check(self, got: list[Any], sent: list[Deferred[None]]) -> None:
        """Check that each message arrived once and in order, or its sender knows."""
        acknowledged = self.settled(sent)
        expected = [m for m in MESSAGES if m in got]
        self.assertEqual(got, expected)
        for message, has in zip(MESSAGES, acknowledged, strict=True):
            self.assertTrue(message in got or not has, message)

    def cuts(
        self,
        toServer: bool,
        start: int,
        step: int = 1,
        kill: str = "",
        spools: str = "",
    ) -> list[int]:
        """
        Cut at one byte after another.

        @param start: the first of them.
        @param kill: which of the two is killed then, and started again.
        @param spools: which of them have one.
        @return: where a message was told of.
        """
        told = []
        for size in count(start, step):
            recorder = Recorder()
            spool = self.path if "server" in spools else None
            own = self.clientPath if "client" in spools else None
            self.serve(recorder, spool=spool)
            service, sent = self.dial(MESSAGES, spool=own)
            wasCut = self.cutAfter(size, toServer)
            with capturedLogs():
                if kill == "server":
                    self.killServer()
                    self.serve(recorder, spool=spool)
                elif kill == "client":
                    self.killService(service)
                    service, _ = self.dial([], spool=own)
                self.network.advance(20)
            if kill != "client":
                self.check(recorder.data, sent)
            self.assertIn(recorder.data, ([], MESSAGES))
            if not recorder.data:
                told.append(size)
            self.stopService(service)
            self.stopServer()
            for path in (self.path, self.clientPath):
                path.unlink(missing_ok=True)
            if not wasCut:
                return told
        raise AssertionError

    def test_everyByteToServer(self) -> None:
        """
        At each byte to the server all goes on, but where message 3 has left and has not
        come: then it is told.
        """
        told = self.cuts(True, 60)
        self.assertEqual(told, list(range(told[0], told[-1] + 1)))
        self.assertEqual(told[0], 72)  # behind offer and message 1
        self.assertTrue(66 < len(told) < 300, told)

    def test_everyByteToClient(self) -> None:
        """At each byte to the client it goes on, but where message 3 was just sent."""
        self.assertEqual(self.cuts(False, 90), [98])

    def test_spools(self) -> None:
        """So it is with spools, and with a server that is killed meanwhile."""
        for spools in ("server", "client", "server client"):
            self.assertTrue(max(self.cuts(True, 61, 23, spools=spools)) < 72 + 300)
            self.assertEqual(self.cuts(False, 97, 41, spools=spools), [])
        for spools in ("server", "server client"):
            self.assertTrue(max(self.cuts(True, 61, 23, "server", spools)) < 72 + 300)
            self.assertEqual(self.cuts(False, 97, 41, "server", spools), [])

    def test_serverKilled(self) -> None:
        """
        What a server without a spool had when it was killed is told: it may have been
        handled.
        """
        recorder = Recorder()
        self.serve(recorder)
        _, sent = self.dial(MESSAGES)
        self.after(3)
        self.assertEqual(recorder.data, MESSAGES)
        self.killServer()
        self.serve(recorder)
        self.network.advance(20)
        for each in sent:
            self.failureResultOf(each, SessionLost)
        self.assertEqual(recorder.data, MESSAGES)

    def test_expired(self) -> None:
        """So it is where the server has given the session up, and began no other."""
        recorder = Recorder()
        self.serve(recorder, sessionGrace=0)
        _, sent = self.dial(MESSAGES)
        self.after(3)
        self.link.cut()
        self.network.advance(20)
        for each in sent:
            self.failureResultOf(each, SessionLost)
        self.assertEqual(recorder.data, MESSAGES)

    def test_clientKilled(self) -> None:
        """
        A client with a spool that is killed before the WELCOME goes on with the session
        that it has named.
        """
        recorder = Recorder()
        self.serve(recorder)
        service, _ = self.dial(MESSAGES, spool=self.clientPath)
        self.after(3)
        self.killService(service)
        service = self.service(spool=self.clientPath, suites=SUITES[2:3])
        sent = service.sendData("more")
        self.network.advance(20)
        self.successResultOf(sent)
        self.assertEqual(recorder.data, [*MESSAGES, "more"])

    def test_takenOver(self) -> None:
        """A client that comes back before it is missed takes its session over."""
        recorder = Recorder()
        self.serve(recorder)
        service, sent = self.dial(MESSAGES)
        self.after(3)
        self.link.client.lose(error.ConnectionLost())
        self.link.toServer.stalled = True
        self.network.advance(20)
        self.assertEqual(self.settled(sent), [True] * 3)
        self.assertEqual(recorder.data, MESSAGES)
        self.assertTrue(service.former and service.former.isOpen)

    def test_silent(self) -> None:
        """A WELCOME that does not come in time is as a cut."""
        recorder = Recorder()
        self.serve(recorder)
        _, sent = self.dial(MESSAGES)
        self.after(3)
        self.link.toClient.stalled = True
        self.network.advance(30)
        self.assertEqual(self.settled(sent), [True] * 3)
        self.assertEqual(recorder.data, MESSAGES)

    def test_committed(self) -> None:
        """
        A server with a spool writes the session down before it lets the client in, and
        acknowledges once it has written what came.
        """
        self.byHand = True
        server = self.serve(spool=self.path)
        _, sent = self.dial(MESSAGES)
        self.network.deliver()
        self.assertEqual(len(server.connections), 0)
        self.worker.work()
        self.network.deliver()
        self.assertEqual(len(server.connections), 1)
        for each in sent:
            self.assertNoResult(each)
        self.onDisk(self.worker)
        self.assertEqual(self.settled(sent), [True] * 3)
        self.assertEqual(self.unread(server), MESSAGES)
        self.onDisk(self.worker)

    def test_abandoned(self) -> None:
        """A client that is gone before its session is written down leaves nothing."""
        self.byHand = True
        server = self.serve(spool=self.path)
        _, sent = self.dial(MESSAGES)
        self.network.deliver()
        self.link.cut()
        self.network.deliver()
        self.onDisk(self.worker)
        for _ in range(3):
            self.network.advance(5)
            self.onDisk(self.worker)
        self.assertEqual(self.settled(sent), [False] * 3)
        self.assertEqual(self.unread(server), [])
        self.assertEqual(len(server.connections), 1)
        self.assertEqual(len(server.factory._manager._names), 1)
