"""
Sessions that outlive their connections, in memory: what was sent arrives once and in
order over any number of cuts, wherever they fall, or its sender is told.

@see: PROTOCOL sections 7 and 8
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import LogLevel, capturedLogs

from aesm import (
    AESMServerFactory,
    ClientService,
    Connection,
    ConnectionClosed,
    KnownServers,
    NotAuthorized,
    Packet,
    PeerAway,
    PrivateKey,
    Server,
    ServerKeyChanged,
    SessionLost,
    TamperedRecord,
)
from aesm.server.admission import PER_KEY
from tests.client.test_service import ServiceTestCase
from tests.support.helpers import XX
from tests.support.pairs import PairTestCase, React, Recorder

DELAY = 1.0  # seconds until a client dials again
GRACE = 60.0  # seconds that a server waits
HEADER = 13  # bytes of a frame's length, type and time


def constantly(failures: int) -> float:
    """
    Dial again after the same time, however often it failed.

    @param failures: how often.
    """
    return DELAY


class ResumeTestCase(ServiceTestCase):
    """
    A service, its server, and somebody who pulls the plug.

    @ivar client: the service.
    @ivar near: its connection.
    @ivar far: the server's end of it.
    """

    server: Any

    def begin(self, handler: object = None, client: Any = None, **options: Any) -> None:
        """
        Connect.

        @param handler: the server's.
        @param client: options of the service.
        @param options: options of the server.
        """
        self.listening(handler, **({"suites": [XX]} | options))
        self.client = self.another(**(client or {}))
        self.near = self.successResultOf(self.client.whenConnected())
        self.far: Connection
        (self.far,) = self.server.connections.values()

    def another(self, **options: Any) -> ClientService:
        """
        Make one more service, and connect it.

        @param options: its options.
        """
        usual: dict[str, Any] = {"suites": [XX], "retryPolicy": constantly}
        return self.service(**(usual | options))

    @property
    def factory(self) -> AESMServerFactory:
        """The server's factory."""
        factory: AESMServerFactory = self.server.factory
        return factory

    def cut(self) -> None:
        """Pull the plug of all."""
        for link in self.network.links:
            link.cut()
        self.network.deliver()

    def back(self) -> None:
        """Let the clients come back."""
        self.network.advance(DELAY)

    def cutAndBack(self) -> None:
        """Pull the plug, and let the clients come back."""
        self.cut()
        self.assertFalse(self.near.isOpen)
        self.back()
        self.assertTrue(self.near.isOpen)
        self.assertTrue(self.far.isOpen)

    def take(self, connection: Connection | ClientService) -> list[Any]:
        """
        Take all packets.

        @param connection: whose.
        @return: their data.
        """
        taken = []
        while (packet := connection.retrieved.getData()) is not None:
            taken.append(packet.data)
        return taken

    def events(self) -> list[str]:
        """
        Take the activity log.

        @return: what happened.
        """
        return [entry.event for entry in self.entries(self.server)]

    def assertSessionLost(self, sent: Deferred[Any]) -> None:
        """
        Check that a Deferred has failed since its session is over.

        @param sent: the Deferred.
        """
        self.failureResultOf(sent, SessionLost)

    def replace(self, **options: Any) -> None:
        """
        Stop the server, and put another in its place.

        @param options: of the other.
        """
        stopped = self.server.stop()
        self.network.deliver()
        self.successResultOf(stopped)
        self.assertNothingLeft(self.server)
        self.server = None
        self.listening(**({"suites": [XX]} | options))

    def endServer(self) -> None:
        """Take the server down, and look whether anything is left."""
        server = self.server
        super().endServer()
        if server is not None:
            self.assertNothingLeft(server)

    def assertNothingLeft(self, server: Server) -> None:
        """
        Check that a server that has stopped counts nothing any more.

        @param server: the server.
        """
        manager, places = server.factory._manager, server.factory._places
        self.assertEqual(manager.sessions._waiting, {})
        self.assertEqual(manager.sessions._byName, {})
        self.assertEqual((len(places._hosts), len(places._pending)), (0, 0))
        self.assertEqual(manager.budget._kept, 0)
        self.assertEqual(server.connections.arrivals.held, 0)
        self.assertEqual(list(server.connections), [])


def _returning(result: Deferred[None]) -> React:
    """
    Make a handler's reaction.

    @param result: what it returns.
    """
    return lambda connection, packet: result


class CutTests(ResumeTestCase):
    """The connection is cut, and comes back."""

    def test_idle(self) -> None:
        """
        A hundred times, and no message ever: both ends keep their connection, the
        handler is told once, and the activity log each time.
        """
        recorder = Recorder()
        self.begin(recorder)
        closed = self.near.closed()
        for number in range(100):
            before = self.far.handshakeHash
            self.cutAndBack()
            self.assertEqual(self.far.handshakeHash, self.near.handshakeHash)
            self.assertNotEqual(self.far.handshakeHash, before)
            address = ("127.0.0.1", 50002 + number)
            self.assertEqual(list(self.server.connections), [address])
            self.assertEqual((self.far.address, self.far.isOver), (address, False))
        self.assertIs(self.server.connections[address], self.far)
        self.assertIs(self.successResultOf(self.client.whenConnected()), self.near)
        self.assertEqual(recorder.names, ["accepted"])
        self.assertEqual(self.events(), ["accepted"] + ["lost", "accepted"] * 100)
        self.assertNoResult(closed)
        self.stop(self.client)
        self.assertEqual(recorder.names, ["accepted", "lost"])

    def test_windowsFull(self) -> None:
        """Nobody takes anything, and both directions have sent all that they may."""
        self.begin(receiveBuffer=1000, client={"receiveBuffer": 1000})
        numbers = [str(number).zfill(10) for number in range(100)]
        sent = [end.sendData(n) for n in numbers for end in (self.near, self.far)]
        self.network.deliver()
        waiting = len(self.near.retrieved), len(self.far.retrieved)
        self.assertEqual(waiting, (14, 14))  # of 74 bytes each
        self.cutAndBack()
        self.assertEqual((len(self.near.retrieved), len(self.far.retrieved)), waiting)
        taken: tuple[list[Any], list[Any]] = ([], [])
        while len(taken[0]) < 100 or len(taken[1]) < 100:
            for end, all_ in zip((self.near, self.far), taken, strict=True):
                packet = end.retrieved.getData()
                if packet is not None:
                    all_.append(packet.data)
            if len(taken[0]) % 10 == 0:
                self.cutAndBack()
            self.network.deliver()
        self.assertEqual(taken, (numbers, numbers))
        for deferred in sent:
            self.assertIsNone(self.successResultOf(deferred))

    def sendBoth(self, number: int) -> list[Deferred[None]]:
        """
        Send three messages each way: two together, one by itself.

        @param number: what to send.
        """
        sent = [end.sendData(str(number)) for end in (self.near, self.far)]
        self.network.clock.advance(0)
        for data in (f"{number}, and then once more", b"%d" % number):
            sent += [end.sendData(data) for end in (self.near, self.far)]
        return sent

    def test_everywhere(self) -> None:
        """
        After each byte of what is in flight in one direction, with the other
        delivered or not.
        """
        self.begin()
        sent: list[Deferred[None]] = []
        for toServer in (True, False):
            for other in (True, False):
                position, more = 0, True
                while more:
                    sent += self.sendBoth(len(sent))
                    self.network.clock.advance(0)
                    (link,) = self.network.links
                    first, second = (link.server, link.client)[:: 1 if toServer else -1]
                    self.assertTrue(first.incoming.inFlight)
                    more = position < len(first.incoming.inFlight)
                    if position:
                        first.receive(position)
                    if other:
                        second.receive(1 << 16)
                    self.cutAndBack()
                    position += 1
                self.assertGreater(position, 100)
        self.assertArrived(sent)

    def test_comingBack(self) -> None:
        """
        After each byte, counted from the dialling, while messages wait on both
        sides.
        """
        self.begin(sessionGrace=1e6)
        sent = self.sendBoth(0)
        for position in range(2000):
            self.cut()
            self.network.clock.advance(DELAY)
            self.network.clock.advance(0)
            (link,) = self.network.links
            for _ in range(position):
                link.deliver(1)
                self.network.clock.advance(0)
            if not any(end.incoming.inFlight for end in (link.server, link.client)):
                break
        self.assertGreater(position, 300)
        self.cutAndBack()
        self.assertArrived(sent)

    def assertArrived(self, sent: list[Deferred[None]]) -> None:
        """
        Check that all that C{sendBoth} sent is there, once and in order.

        @param sent: what it returned.
        """
        self.network.deliver()
        for deferred in sent:
            self.assertIsNone(self.successResultOf(deferred))
        expected: list[Any] = []
        for n in range(0, len(sent), 6):
            expected += [str(n), f"{n}, and then once more", str(n).encode()]
        self.assertEqual(self.take(self.near), expected)
        self.assertEqual(self.take(self.far), expected)

    def test_shortLived(self) -> None:
        """
        Connections that are cut before they have carried much more than a handshake
        carry something nevertheless, so that all arrives in the end.
        """
        self.begin()
        sent = [self.near.sendData(bytes([n]) * 1000) for n in range(200)]
        for _ in range(60):
            self.cut()
            self.network.clock.advance(DELAY)
            (link,) = self.network.links
            for _ in range(12):  # kilobytes
                self.network.clock.advance(0)
                link.deliver(1000)
        for each in sent:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(self.take(self.far), [bytes([n]) * 1000 for n in range(200)])

    def test_splitTurn(self) -> None:
        """
        Of messages that were sent together some are sent, some of these
        acknowledged, and some of these handled: each comes once.
        """
        handling: list[Deferred[None]] = []

        def handle(connection: Connection, packet: Packet) -> Deferred[None]:
            """
            Ask for time.

            @param connection: where it came from.
            @param packet: the packet.
            """
            handling.append(Deferred())
            return handling[-1]

        recorder = Recorder(handle)
        self.begin(recorder, receiveBuffer=700)
        data = [str(number) for number in range(40)]
        sent = [self.near.sendData(each) for each in data]
        self.network.deliver()
        done = 0
        for burst in (0, 3, 1, 0, 7, 2, 40):
            for _ in range(burst):
                if done < len(handling):
                    handling[done].callback(None)
                    done += 1
            self.network.clock.advance(0)
            self.cut()
            self.back()
            acknowledged = sum(1 for each in sent if each.called)
            self.assertEqual(acknowledged, done)
        while done < len(handling):
            handling[done].callback(None)
            done += 1
            self.network.deliver()
        self.assertEqual(recorder.data, data)
        for each in sent:
            self.assertIsNone(self.successResultOf(each))

    def test_tampered(self) -> None:
        """
        Somebody flips a bit: nothing of that record is taken, and it is sent again.
        """
        self.begin()
        for direction in ("toServer", "toClient"):
            with capturedLogs() as events:
                sent = [self.near.sendData("to"), self.far.sendData("fro")]
                (link,) = self.network.links
                getattr(link, direction).corrupt()
                self.network.deliver()
            self.assertFalse(self.near.isOpen)
            self.assertFalse(self.near.isOver)
            if direction == "toClient":
                self.assertIn(
                    str(TamperedRecord()), self.lines(events, LogLevel.warn)[0]
                )
            self.back()
            for deferred in sent:
                self.assertIsNone(self.successResultOf(deferred))
        self.assertEqual(self.take(self.near), ["fro", "fro"])
        self.assertEqual(self.take(self.far), ["to", "to"])

    def test_half(self) -> None:
        """
        Neither side hears the other: both notice, whoever is first, and the
        session goes on.
        """
        for heartbeats in ((5.0, 9.0), (9.0, 5.0), (5.0, 1000.0)):
            near, far = heartbeats
            self.begin(heartbeat=far, client={"heartbeat": near})
            (link,) = self.network.links
            link.toServer.stalled = link.toClient.stalled = True
            sent = [self.near.sendData("to"), self.far.sendData("fro")]
            self.network.advance(30)
            self.assertTrue(self.far.isOpen)
            for deferred in sent:
                self.assertIsNone(self.successResultOf(deferred))
            self.assertEqual(self.take(self.near), ["fro"])
            self.assertEqual(self.take(self.far), ["to"])
            link.toServer.stalled = link.toClient.stalled = False
            self.network.advance(10)
            self.assertEqual(len(self.network.links), 1)
            self.assertEqual(self.take(self.far), [])
            self.stop(self.client)

    def test_whenConnected(self) -> None:
        """Who asks for a connection while there is none gets the same again."""
        self.begin()
        self.cut()
        waiting = self.client.whenConnected()
        self.assertNoResult(waiting)
        self.back()
        self.assertIs(self.successResultOf(waiting), self.near)


class AwayTests(ResumeTestCase):
    """What happens on the server while its client is away."""

    def test_sends(self) -> None:
        """
        What is sent meanwhile, to it or to all, arrives when it is back; nobody waits
        for that, nor counts it.
        """
        self.begin()
        other = self.another(key=PrivateKey.generate())
        self.cut()
        self.back()
        self.network.links[0].cut()
        toOne = self.server.sendTo("to one", self.far.address)
        toAll = self.server.sendAll("to all")
        self.network.deliver()
        self.assertEqual(self.take(other), ["to all"])
        self.failureResultOf(toOne, PeerAway)
        self.assertEqual(self.successResultOf(toAll), 1)
        self.back()
        self.assertEqual(self.take(self.near), ["to one", "to all"])

    def test_sentBefore(self) -> None:
        """
        So it is if the client is cut while its acknowledgement is waited for; the
        connection's own C{sendData} waits until the client is back.
        """
        self.begin()
        other = self.another(key=PrivateKey.generate())
        link = self.network.links[0]
        link.toClient.stalled = True
        toAll = self.server.sendAll("to all")
        toOne = self.server.sendTo("to one", self.far.address)
        own = self.far.sendData("its own")
        for sent in (toAll, toOne, own):
            self.assertNoResult(sent)
        self.network.deliver()
        self.assertNoResult(toAll)
        link.cut()
        self.network.deliver()
        self.assertEqual(self.successResultOf(toAll), 1)
        self.failureResultOf(toOne, PeerAway)
        self.assertNoResult(own)
        self.back()
        self.assertIsNone(self.successResultOf(own))
        self.assertEqual(self.take(self.near), ["to all", "to one", "its own"])
        self.assertEqual(self.take(other), ["to all"])

    def test_hadIt(self) -> None:
        """
        Who had the message before it was cut is counted, also if nobody had asked yet.
        """
        self.begin()
        toAll, toOne = (
            self.server.sendAll("x"),
            self.server.sendTo("x", self.far.address),
        )
        self.network.deliver()
        self.cut()
        self.assertEqual(self.successResultOf(toAll), 1)
        self.assertIsNone(self.successResultOf(toOne))

    def test_givenUp(self) -> None:
        """What was sent to one that is given up may have been lost."""
        self.begin()
        self.cut()
        toOne = self.server.sendTo("x", self.far.address)
        self.network.clock.advance(0)
        self.far.abort()
        self.assertClosed(toOne)

    def test_handlerSends(self) -> None:
        """What a handler sends meanwhile does so, too."""
        waiting: list[Deferred[None]] = []

        def later(connection: Connection, packet: Packet) -> Deferred[None]:
            """
            Answer when it is time.

            @param connection: where it came from.
            @param packet: the packet.
            """
            waiting.append(Deferred())
            answer = f"answer to {packet.data!s}"
            return waiting[-1].addCallback(lambda _: connection.sendData(answer))

        self.begin(Recorder(later))
        sent = [self.near.sendData("a"), self.near.sendData("b")]
        self.network.deliver()
        self.cut()
        waiting[0].callback(None)
        self.assertEqual(len(waiting), 1)  # an answer that is not there yet
        self.back()
        self.assertIsNone(self.successResultOf(sent[0]))
        self.assertNoResult(sent[1])
        self.cutAndBack()
        waiting[1].callback(None)
        self.network.deliver()
        self.assertIsNone(self.successResultOf(sent[1]))
        self.assertEqual(self.take(self.near), ["answer to a", "answer to b"])

    def test_handlerFails(self) -> None:
        """
        A handler that fails meanwhile ends the session: the client begins another.
        """
        for back in (False, True):
            waiting: Deferred[None] = Deferred()
            recorder = Recorder(_returning(waiting))
            self.begin(recorder)
            sent = self.near.sendData("a")
            self.network.deliver()
            self.cut()
            if back:
                self.back()
            waiting.errback(ZeroDivisionError())
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
            self.network.deliver()
            self.network.advance(2 * DELAY)
            self.assertClosed(sent, 1011 if back else None)
            self.assertEqual(recorder.names, ["accepted", "packet", "lost", "accepted"])
            self.assertEqual(len(self.server.connections), 1)
            self.stop(self.client)

    def test_unread(self) -> None:
        """What is unread can be taken meanwhile, under the same address."""
        self.begin()
        for data in "abc":
            self.near.sendData(data)
        self.network.deliver()
        self.cut()
        address = self.far.address
        taken = [self.server.connections.getDataOrdinal() for _ in range(2)]
        self.assertEqual(
            [(a, p.data) for a, p in taken], [(address, "a"), (address, "b")]
        )
        self.back()
        address, packet = self.server.connections.getDataOrdinal()
        self.assertEqual((address, packet.data), (self.far.address, "c"))


class OverTests(ResumeTestCase):
    """Sessions that nobody comes back to, or that somebody ends."""

    def test_grace(self) -> None:
        """
        A client that comes back too late: all that may have arrived fails, on both
        sides, and nothing arrives twice; what never left goes into the new session.
        """
        recorder = Recorder()
        self.begin(recorder)
        (link,) = self.network.links
        link.toServer.stalled = link.toClient.stalled = True
        lost = [self.near.sendData("lost"), self.far.sendData("lost")]
        drained = self.near.drain()
        self.assertIsNone(self.successResultOf(drained))
        self.network.factory = None  # nobody listens
        self.cut()
        lost.append(self.far.sendData("later"))
        got = self.far.retrieved.get()
        self.network.advance(GRACE - 1)
        self.assertEqual(recorder.names, ["accepted"])
        self.assertEqual(self.events(), ["accepted", "lost"])
        never = self.near.sendData("never left")
        self.network.advance(1)
        self.assertEqual(recorder.names, ["accepted", "lost"])
        self.assertIsInstance(recorder.events[1][1], SessionLost)
        self.assertEqual(self.events(), ["lost"])
        self.assertEqual(list(self.server.connections), [])
        self.assertSessionLost(lost[1])
        self.assertSessionLost(lost[2])
        self.assertSessionLost(got)
        self.assertNoResult(lost[0])
        self.network.factory = self.factory
        self.network.advance(DELAY)
        self.assertSessionLost(lost[0])
        self.successResultOf(never)
        self.assertIsInstance(self.closedReason(self.near), SessionLost)
        self.assertEqual(self.events(), ["accepted"])
        sent = self.client.sendData("new")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(recorder.data, ["never left", "new"])

    def test_noGrace(self) -> None:
        """C{sessionGrace=0}: over at once."""
        recorder = Recorder()
        self.begin(recorder, sessionGrace=0)
        sent = self.far.sendData("x")
        self.cut()
        self.failureResultOf(sent, ConnectionClosed)
        self.assertEqual(recorder.names, ["accepted", "lost"])
        self.assertTrue(self.far.isOver)
        self.back()
        self.assertTrue(self.near.isOver)

    def test_connect(self) -> None:
        """A client without a service says that it will not come back."""
        recorder = Recorder()
        self.listening(recorder)
        connection = self.join(self.network)
        self.cut()
        self.assertEqual(recorder.names, ["accepted", "lost"])
        self.assertTrue(connection.isOver)
        self.assertEqual(list(self.server.connections), [])

    def test_ended(self) -> None:
        """
        Closed or aborted on the server while it waits: over at once, and the client
        begins another, with what it has not sent.
        """
        for end in ("close", "abort"):
            recorder = Recorder()
            self.begin(recorder)
            self.cut()
            never, lost = self.near.sendData("never"), self.far.sendData("lost")
            getattr(self.far, end)()
            self.far.abort()
            self.far.close()
            self.assertTrue(self.far.isOver)
            self.assertClosed(lost)
            self.assertEqual(recorder.names, ["accepted", "lost"])
            self.back()
            self.successResultOf(never)
            self.assertEqual(recorder.data, ["never"])
            self.assertEqual(recorder.names[:3], ["accepted", "lost", "accepted"])
            self.stop(self.client)

    def test_endedHere(self) -> None:
        """
        Closed or aborted on the client while it waits: over at once, and the service
        begins another; the server waits for nobody for the rest of its grace.
        """
        for end in ("close", "abort"):
            self.begin()
            self.cut()
            lost = self.near.sendData("lost")
            getattr(self.near, end)()
            self.assertClosed(lost)
            self.back()
            new = self.successResultOf(self.client.whenConnected())
            self.assertIsNot(new, self.near)
            self.assertTrue(new.isOpen)
            self.network.advance(GRACE)
            self.assertTrue(self.far.isOver)
            self.assertEqual(len(self.server.connections), 1)
            self.stop(self.client)

    def test_endedWhileDialling(self) -> None:
        """
        Closed on the client while it is coming back, at any moment: that attempt is
        given up, or what it led to is closed, and the next begins another session.
        """
        for turns in range(20):
            self.begin()
            lost = self.near.sendData("lost")
            self.cut()
            self.network.clock.advance(DELAY)
            for _ in range(turns):
                self.network.clock.advance(0)
                for link in self.network.links:
                    link.deliver()
            self.near.abort()
            lost.addErrback(lambda failure: failure.trap(ConnectionClosed))
            self.network.advance(3 * DELAY)
            self.assertTrue(lost.called)
            self.assertTrue(self.near.isOver)
            new = self.successResultOf(self.client.whenConnected())
            self.assertIsNot(new, self.near)
            self.assertEqual(len(self.network.links), 1)
            sent = self.client.sendData("new")
            self.network.advance(GRACE)
            self.assertIsNone(self.successResultOf(sent))
            self.assertEqual(self.flushLoggedErrors(), [])
            self.stop(self.client)

    def test_stopHere(self) -> None:
        """The service is stopped while it waits."""
        self.begin()
        self.cut()
        lost = self.near.sendData("lost")
        self.stop(self.client)
        self.assertClosed(lost, 1000)
        self.assertEqual(self.closedReason(self.near).code, 1000)
        self.network.advance(GRACE)
        self.assertTrue(self.far.isOver)
        self.assertEqual(self.delays(), [])

    def test_stop(self) -> None:
        """The server is stopped while it waits, and another takes its place."""
        recorder = Recorder()
        self.begin(recorder)
        self.cut()
        never, lost = self.near.sendData("never"), self.far.sendData("lost")
        self.replace()
        self.assertSessionLost(lost)
        self.assertEqual(recorder.names, ["accepted", "lost"])
        self.back()
        self.successResultOf(never)
        self.assertEqual(len(self.server.connections), 1)

    def test_stopConnected(self) -> None:
        """
        The server is stopped while the client is there: nothing waits, what was
        acknowledged arrived, and what is sent afterwards does so at its successor.
        """
        self.begin()
        sent = self.near.sendData("before")
        self.network.deliver()
        self.successResultOf(sent)
        self.successResultOf(self.far.retrieved.get())
        self.replace()
        never = self.near.sendData("after")
        self.back()
        self.successResultOf(never)

    def test_revoked(self) -> None:
        """
        The key is not authorized any more when the client comes back: the session
        is over on the server at once, and the service stops and says why.
        """
        path = self.mktemp()
        key = PrivateKey.generate()
        with open(path, "w") as file:
            file.write(f"{key.publicKey} ada\n")
        recorder = Recorder()
        self.begin(recorder, {"key": key}, authorizedKeys=path)
        self.assertEqual(self.far.peerName, "ada")
        self.cut()
        with open(path, "w") as file:
            file.write(f"{key.publicKey} lovelace\n")
        self.factory.reloadKeys()
        self.back()
        self.assertTrue(self.far.isOpen)
        self.assertEqual(self.far.peerName, "lovelace")
        lost = self.near.sendData("x")
        self.cut()
        with open(path, "w") as file:
            file.write("")
        self.factory.reloadKeys()
        self.assertEqual(recorder.names[-1], "lost")
        self.assertTrue(self.far.isOver)
        self.assertEqual(len(self.server.connections), 0)
        with capturedLogs() as events:
            self.back()
        self.assertFalse(self.client.running)
        self.assertIn("does not let our public key in", self.lines(events)[0])
        reason = self.assertClosed(lost)
        self.assertIn("does not let our public key in", str(reason))
        self.assertIsInstance(reason.__cause__, NotAuthorized)

    def test_otherKey(self) -> None:
        """
        Another server, with another key, takes the place of the first: it gets
        nothing, the service stops, and all who wait are told why.
        """
        self.begin(client={"trust": KnownServers(self.mktemp())})
        self.cut()
        lost, got = self.near.sendData("secret"), self.client.retrieved.get()
        waiting = self.client.whenConnected()
        self.replace(key=PrivateKey.generate())
        self.back()
        self.assertEqual(len(self.server.connections), 0)
        self.failureResultOf(waiting, ServerKeyChanged)
        reason = self.assertClosed(lost)
        self.assertIsInstance(reason.__cause__, ServerKeyChanged)
        self.assertEqual(str(self.assertClosed(got)), str(reason))
        self.assertIsInstance(self.closedReason(self.near), ServerKeyChanged)
        self.assertTrue(self.near.isOver)
        self.assertFalse(self.client.running)

    def test_overAtOnce(self) -> None:
        """A session that is over in the turn in which it was resumed counts once."""
        self.begin()
        self.far.sendData("unread")
        self.network.deliver()
        sent = self.near.sendData("x")
        self.cut()
        self.network.clock.advance(DELAY)
        sent.addCallback(lambda _: self.network.links[0].client.lose(ConnectionDone()))
        sent.addCallback(lambda _: self.near.abort())
        self.network.advance(3 * DELAY)
        self.successResultOf(sent)
        self.assertTrue(self.near.isOver)
        self.assertEqual(len(self.client.retrieved), 1)
        self.assertEqual(self.take(self.client), ["unread"])
        self.assertTrue(self.successResultOf(self.client.whenConnected()).isOpen)

    def test_stoppedWhenTold(self) -> None:
        """
        Who is told that a session is lost may stop the service, or close what there
        is: nothing is left of it.
        """
        for stopping in (True, False):
            self.begin()
            lost = self.near.sendData("lost")
            self.cut()
            self.far.abort()
            stopped: list[Any] = []

            def end(failure: Any, stopped: list[Any] = stopped) -> None:
                """
                Stop the service.

                @param failure: why the message may not have arrived.
                """
                stopped.append(self.client.stopService())

            lost.addErrback(end if stopping else lambda failure: self.near.abort())
            self.back()
            self.assertIsNone(self.successResultOf(lost))
            self.network.advance(10)
            for each in stopped:
                self.successResultOf(each)
            links = self.network.links
            self.assertEqual(len(links), 0 if stopping else 1)
            self.stop(self.client)


class RandomTests(ResumeTestCase):
    """
    Everything at once, many times: sending, taking, and all that a network can do.
    """

    def start(self, chance: Random) -> None:
        """
        Connect, with small or large windows, with a handler that is slow at times or
        none, and with any policy on several connections of one key.

        @param chance: of this run.
        """
        self.chance = chance
        self.handling: list[Deferred[None]] = []
        recorder = Recorder(self.handle) if chance.random() < 0.5 else None
        self.received: list[Any] = []
        window, heartbeat = [300, 2000, 1 << 24], [3.0, 30.0]
        self.begin(
            recorder,
            {
                "receiveBuffer": chance.choice(window),
                "heartbeat": chance.choice(heartbeat),
                "retryPolicy": lambda failures: chance.choice([0.0, 0.1, 1.0, 2.0]),
            },
            receiveBuffer=chance.choice(window),
            heartbeat=chance.choice(heartbeat),
            perKey=chance.choice(list(PER_KEY)),
            sessionGrace=1e6,
        )
        self.network.chunkSize = chance.choice([7, 50, 500, 1 << 16])

    def handle(self, connection: Connection, packet: Packet) -> Deferred[None] | None:
        """
        Take a packet, now or later.

        @param connection: where it came from.
        @param packet: the packet.
        """
        self.received.append(packet.data)
        if self.chance.random() < 0.7:
            return None
        self.handling.append(Deferred())
        return self.handling[-1]

    def disturb(self) -> None:
        """Do something to a connection."""
        if not self.network.links:
            return
        link = self.chance.choice(self.network.links)
        ends = (link.client, link.toServer), (link.server, link.toClient)
        end, pipe = self.chance.choice(ends)
        match self.chance.choice(["cut", "abort", "forget", "stall", "flip"]):
            case "cut":
                link.cut()
            case "abort":
                end.abortConnection()
            case "forget":  # the other end does not hear of it
                pipe.stalled = True
                end.abortConnection()
            case "stall":
                pipe.stalled = True
            case _ if pipe.inFlight:
                pipe.corrupt(self.chance.randrange(len(pipe.inFlight)))

    def move(self, rounds: int) -> None:
        """
        Deliver some of what is in flight.

        @param rounds: how often.
        """
        for _ in range(rounds):
            for link in self.network.links:
                link.deliver(self.network.chunkSize)
            self.network.clock.advance(0)

    def finishHandling(self, most: int) -> None:
        """
        Let the handler be done with packets.

        @param most: how many.
        """
        done, self.handling = self.handling[:most], self.handling[most:]
        for waiting in done:
            waiting.callback(None)

    def test_all(self) -> None:
        """
        When the network is well again, all is there, once and in order, and every
        sender knows.
        """
        for seed in range(40):
            chance = Random(seed)
            self.start(chance)
            there: tuple[list[Any], list[Any]] = (self.received, [])
            sent: tuple[list[str], list[str]] = ([], [])
            told = []
            for _ in range(chance.randint(20, 120)):
                match chance.choice(["send", "move", "wait", "handle", "disturb"]):
                    case "send":
                        to = chance.randrange(2)
                        for _ in range(chance.randint(1, 6)):
                            size = chance.choice([0, 10, 100])
                            sent[to].append(f"{len(sent[to])} {'x' * size}")
                            end = (self.near, self.far)[to]
                            told.append(end.send(sent[to][-1], False))
                    case "move":
                        self.move(chance.randint(0, 30))
                    case "wait":
                        self.network.advance(chance.choice([0.0, 0.05, 0.5, 3.0, 20.0]))
                    case "handle":
                        self.finishHandling(chance.randint(0, 5))
                        there[0].extend(self.take(self.far))
                        there[1].extend(self.take(self.near))
                    case _:
                        self.disturb()
            for link in self.network.links:
                link.toServer.stalled = link.toClient.stalled = False
            for _ in range(100):
                self.network.advance(5)
                self.finishHandling(len(self.handling))
                there[0].extend(self.take(self.far))
                there[1].extend(self.take(self.near))
            self.assertEqual(there, sent, seed)
            for deferred in told:
                self.assertIsNone(self.successResultOf(deferred))
            self.assertIs(self.successResultOf(self.client.whenConnected()), self.near)
            self.assertEqual(list(self.server.connections.values()), [self.far])
            self.stop(self.client)


class FailingPairTests(PairTestCase):
    """Programs that do without a service."""

    def test_cut(self) -> None:
        """A client and its server know at once that it is over."""
        pair = self.pair()
        sent = pair.client.sendData("x"), pair.accepted.sendData("y")
        pair.network.links[0].cut()
        for deferred in sent:
            self.assertClosed(deferred)
        self.assertTrue(pair.client.isOver)
        self.assertTrue(pair.accepted.isOver)
