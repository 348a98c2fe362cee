"""
Tests for L{aesm.server.manager} and L{aesm.server.admission}, where sessions meet:
whose session it is, who takes over, who is listed, and who has to make room.

@see: PROTOCOL section 8
"""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from zope.interface import implementer
from zope.interface.verify import verifyObject

from aesm import (
    AESMError,
    ClientService,
    Connection,
    ISessionHandler,
    PrivateKey,
    SendBufferFull,
)
from aesm.core.messages.frames import BINARY, Partial
from aesm.messages.budget import Budget, heldBy
from aesm.server.manager import RESUMES_PER_SESSION
from tests.messages.test_resume import DELAY, GRACE, ResumeTestCase
from tests.support.helpers import XX
from tests.support.pairs import Recorder


class HubTestCase(ResumeTestCase):
    """Clients that name sessions."""

    def thief(self, **options: Any) -> ClientService:
        """
        Connect a client that will come back to the session of C{near} instead of
        its own.

        @param options: as L{ClientService}.
        """
        thief = self.another(**options)
        assert thief.former is not None
        thief.former.session.name = self.near.session.name
        return thief

    def cutLast(self) -> None:
        """Pull the plug of who came last."""
        self.network.links[-1].cut()
        self.network.deliver()

    def exchange(self) -> None:
        """Check that the session of C{near} and C{far} works."""
        sent = self.near.sendData("to"), self.far.sendData("fro")
        self.network.deliver()
        for deferred in sent:
            self.assertIsNone(self.successResultOf(deferred))
        self.assertEqual(self.take(self.near), ["fro"])
        self.assertEqual(self.take(self.far), ["to"])


class WhoseTests(HubTestCase):
    """A session belongs to a key."""

    def test_stranger(self) -> None:
        """
        Another key's client that names it gets a session of its own; the owner's is
        not touched, whether it is connected or away.
        """
        for away in (False, True):
            self.begin()
            stranger = self.thief(key=PrivateKey.generate())
            wanted = stranger.sendData("for the owner")
            self.network.links[-1].toServer.inFlight.clear()
            if away:
                self.network.links[0].cut()
            for_ = self.far.sendData("for the owner only")
            self.cutLast()
            unsent = stranger.sendData("never left")
            self.network.clock.advance(DELAY / 2)
            self.back()
            self.assertIsNone(self.successResultOf(unsent))
            self.assertSessionLost(wanted)
            self.assertIsNone(self.successResultOf(for_))
            self.assertEqual(self.take(stranger), [])
            self.assertEqual(self.take(self.near), ["for the owner only"])
            self.assertTrue(self.near.isOpen)
            self.cutAndBack()
            self.exchange()
            self.stop(stranger)
            self.stop(self.client)

    def test_forged(self) -> None:
        """A name that no session has: a new one."""
        self.begin()
        for name in ("0" * 32, self.near.session.name.upper()):
            self.cut()
            self.near.session.name = name
            unsent = self.near.sendData("never left")
            self.back()
            self.assertIsNone(self.successResultOf(unsent))
            near = self.successResultOf(self.client.whenConnected())
            self.assertIsNot(near, self.near)
            self.near = near

    def test_impossible(self) -> None:
        """
        A client that has received what was not sent, or has not what it
        acknowledged, gets a new session, and takes nobody's place.
        """
        for difference in (1, -1):
            self.begin()
            self.successResultOf(self.delivered(self.far.sendData("x")))
            self.cut()
            self.near.session.inbox.received += difference
            self.back()
            self.assertTrue(self.near.isOver)
            self.assertFalse(self.far.isOver)
            self.assertEqual(len(self.server.connections), 2)
            self.stop(self.client)

    def delivered(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """
        Deliver all.

        @param deferred: what fires then.
        """
        self.network.deliver()
        return deferred


class TakeOverTests(HubTestCase):
    """A session that is resumed while its connection looks alive."""

    def test_takenOver(self) -> None:
        """
        Who names it takes it over: the former client is told so, with code 4001, and
        stops; nothing that it had not taken is lost.
        """
        recorder = Recorder()
        self.begin(recorder)
        self.network.links[0].toClient.stalled = True
        kept = self.far.sendData("kept")
        thief = self.thief()
        self.cutLast()
        self.network.links[0].toClient.stalled = True
        self.back()
        self.assertIsNone(self.successResultOf(kept))
        self.assertEqual(self.take(thief), ["kept"])
        late = self.near.sendData("late")
        self.network.links[0].toClient.stalled = False
        with capturedLogs() as events:
            self.network.deliver()
        self.assertClosed(late, 4001)
        self.assertEqual(self.closedReason(self.near).code, 4001)
        self.assertFalse(self.client.running)
        self.assertIn("taken over", self.lines(events)[0])
        self.assertEqual(recorder.data, [])
        self.assertEqual(recorder.names, ["accepted", "accepted"])
        sent = thief.sendData("new")
        self.network.deliver()
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual(recorder.data, ["new"])

    def test_backAndForth(self) -> None:
        """
        Over a network that never tells the server of a cut: each connection takes
        over from the one before.
        """
        self.begin()
        former = []
        for _ in range(10):
            link = self.network.links[-1]
            former.append(link)
            link.toServer.stalled = True
            sent = self.near.sendData("to"), self.far.sendData("fro")
            link.client.abortConnection()
            self.network.deliver()
            self.assertTrue(self.far.isOpen)
            self.back()
            for deferred in sent:
                self.assertIsNone(self.successResultOf(deferred))
        self.assertEqual(self.take(self.near), ["fro"] * 10)
        self.assertEqual(self.take(self.far), ["to"] * 10)
        self.assertEqual(self.events(), ["accepted"] * 11)
        self.network.advance(10)
        for link in former:
            self.assertTrue(link.server.lost)
            link.toServer.stalled = False
        self.exchange()

    def test_tooOften(self) -> None:
        """
        A client that comes back more often than anybody has reason to is told to try
        again later; its session is kept.
        """
        self.begin(client={"retryPolicy": lambda failures: 0.1})
        most = int(RESUMES_PER_SESSION * 10)
        sent = self.far.sendData("kept")
        for _ in range(2 * most):
            self.cut()
            self.network.advance(0.1)
        refusals = [e.reason for e in self.entries(self.server) if e.event == "refused"]
        self.assertGreaterEqual(len(refusals), 1)
        self.assertIn("too often", refusals[0])
        self.network.advance(10)
        self.assertTrue(self.far.isOpen)
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual(self.take(self.near), ["kept"])

    def test_unheard(self) -> None:
        """
        A client that comes back and says nothing gets what waits for it in pieces, now
        and then, so that it costs little if it is cut at once; all the same it gets
        it all.
        """

        @implementer(ISessionHandler)
        class Stalling(Recorder):
            """Hears nothing of a client that is back."""

            def connectionDetached(self, connection: object, reason: object) -> None:
                """Go on."""

            def connectionAttached(self, connection: object) -> None:
                """Nothing comes from now on."""
                network.links[-1].toServer.stalled = True

        self.begin(Stalling())
        network = self.network
        self.cut()
        sent = [self.far.sendData(bytes(1000)) for _ in range(1000)]
        network.advance(DELAY)
        for _ in range(5):
            self.network.advance(0)
        pieces = len(self.near.retrieved)
        self.assertTrue(20 < pieces < 150, pieces)
        for _ in range(100):
            self.network.advance(0.02)
        self.assertEqual(len(self.near.retrieved), 1000)
        network.links[-1].toServer.stalled = False
        network.deliver()
        for each in sent:
            self.assertIsNone(self.successResultOf(each))

    def test_counted(self) -> None:
        """
        What was taken over counts until its transport is gone: so nobody has more
        transports than there may be connections.
        """
        self.begin(maxConnections=2)
        for number in range(2):
            link = self.network.links[-1]
            link.toServer.stalled = True
            link.client.abortConnection()
            self.network.deliver()
            self.back()
            self.assertEqual(self.near.isOpen, number == 0)
        self.assertEqual(self.events(), ["accepted", "accepted", "refused"])
        self.network.advance(6)
        self.assertTrue(self.near.isOpen)
        for link in self.network.links:
            link.toServer.stalled = False
        self.network.advance(10)
        self.assertEqual(len(self.network.links), 1)

    def test_ending(self) -> None:
        """A session that somebody is ending is not taken over: it ends."""
        for code in (1000, 1011):
            recorder = Recorder()
            self.begin(recorder, perKey="allow")
            (link,) = self.network.links
            link.toServer.stalled = link.toClient.stalled = True
            ended = self.far.closed()
            self.far.closeWith(code, "enough")
            lost = self.near.sendData("lost")
            link.client.abortConnection()
            self.network.deliver()
            self.back()
            self.assertSessionLost(lost)
            self.assertEqual(len(self.server.connections), 2)
            self.network.advance(10)
            self.assertIn(f"code {code}", str(self.successResultOf(ended)))
            self.assertEqual(len(self.server.connections), 1)
            self.assertEqual(recorder.names, ["accepted", "accepted", "lost"])
            link.toServer.stalled = False
            self.stop(self.client)

    def test_goingAway(self) -> None:
        """A client that says that it goes away may take over before that is done."""
        self.begin()
        (link,) = self.network.links
        link.toClient.stalled = True
        self.near.closeWith(1001, "")
        self.network.deliver()
        self.assertFalse(self.far.isOpen)
        self.assertFalse(self.far.isOver)
        thief = self.thief()
        link.toClient.stalled = True
        self.cutLast()
        self.back()
        self.assertTrue(self.far.isOpen)
        sent = thief.sendData("x")
        self.network.deliver()
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual(self.take(self.far), ["x"])
        link.toClient.stalled = False
        self.network.advance(10)
        self.assertTrue(self.far.isOpen)


class RoomTests(HubTestCase):
    """Who may come back, and who has to make room."""

    def test_reject(self) -> None:
        """
        C{perKey="reject"}: who comes back is no second connection, unless there is
        one by then; and who names a session that cannot go on is one.
        """
        self.begin(perKey="reject")
        self.cutAndBack()
        link = self.network.links[0]
        link.toServer.stalled = True  # the server still thinks it is there
        link.client.abortConnection()
        self.network.deliver()
        self.near.session.inbox.received += 1
        self.back()
        self.assertEqual(self.events()[-1], "refused")
        self.near.session.inbox.received -= 1
        self.network.advance(DELAY)
        self.assertTrue(self.near.isOpen)
        self.cut()
        self.assertEqual(len(self.server.connections), 1)
        other = self.join(self.network, key=self.client._options["key"], suites=[XX])
        self.back()
        self.assertFalse(self.near.isOpen)
        other.abort()
        self.network.advance(DELAY)
        self.assertTrue(self.near.isOpen)
        self.exchange()

    def test_replace(self) -> None:
        """
        C{perKey="replace"}: who comes back replaces nobody; a new client of the key
        ends its sessions, also those that wait, and needs room if these have none.
        """
        recorder = Recorder()
        self.begin(recorder, perKey="replace", maxConnections=1)
        self.cutAndBack()
        self.assertEqual(recorder.names, ["accepted"])
        self.cut()
        other = self.join(self.network, suites=[XX])
        second = self.another()
        self.assertFalse(self.far.isOver)
        self.failureResultOf(self.refusedNow(second))
        other.abort()
        self.network.deliver()
        self.stop(self.client)
        self.network.advance(DELAY)
        self.assertTrue(self.successResultOf(second.whenConnected()).isOpen)
        self.assertTrue(self.far.isOver)
        self.assertEqual(self.closedReason(self.far).code, 4001)

    def refusedNow(self, service: ClientService) -> Deferred[Connection]:
        """
        Let a service try once more.

        @return: fails with what it failed with.
        """
        waiting = service.whenConnected(1)
        self.network.advance(DELAY)
        return waiting

    def test_full(self) -> None:
        """One who is away takes no room; to come back, it needs some."""
        self.begin(maxConnections=1)
        self.cut()
        other = self.join(self.network, suites=[XX])
        self.back()
        self.assertFalse(self.near.isOpen)
        self.near.session.inbox.received += 1  # whatever it says
        self.network.advance(DELAY)
        self.assertFalse(self.near.isOpen)
        self.near.session.inbox.received -= 1
        self.assertEqual(len(self.server.connections), 2)
        other.abort()
        self.network.advance(DELAY)
        self.assertTrue(self.near.isOpen)
        self.exchange()

    def test_tooManyWaiting(self) -> None:
        """
        No more sessions wait than there may be connections: the one that has waited
        longest is over.
        """
        recorder = Recorder()
        self.begin(recorder, maxConnections=2)
        lost: list[Deferred[Any]] = [self.near.sendData("lost")]
        self.network.links[0].cut()
        for _ in range(2):
            self.stop(self.another(key=PrivateKey.generate()))
        for number in range(2):
            self.assertFalse(self.far.isOver, number)
            service = self.another(key=PrivateKey.generate())
            self.network.links[-1].cut()
            self.stop(service)
        self.assertTrue(self.far.isOver)
        self.assertEqual(len(self.server.connections), 2)
        self.back()
        self.assertSessionLost(lost[0])

    def test_totalBuffer(self) -> None:
        """
        When too much is kept for all together, the session that waits of who holds most
        makes room; not one that keeps nothing.
        """
        self.begin(totalBuffer=3000)
        idle = self.another(key=PrivateKey.generate())
        held = self.another(key=PrivateKey.generate())
        ends = {c.peer: c for c in self.server.connections.values()}
        farIdle, farHeld = (ends[s._options["key"].publicKey] for s in (idle, held))
        self.network.links[1].cut()
        self.network.links[2].cut()
        self.network.deliver()
        lost = farHeld.sendData("x" * 1800)
        self.assertTrue(self.near.sendData("y" * 800))
        self.network.deliver()
        self.assertNoResult(lost)
        sent = self.near.sendData("z" * 400)
        self.network.deliver()
        self.assertSessionLost(lost)
        self.assertIsNone(self.successResultOf(sent))
        self.assertFalse(farIdle.isOver)
        self.assertTrue(self.near.isOpen)
        self.assertEqual(len(self.take(self.far)), 2)
        self.network.advance(DELAY)
        self.assertTrue(farIdle.isOpen)
        self.assertEqual(len(self.server.connections), 3)

    def three(self) -> list[Connection]:
        """Have three connections of one key, whose clients acknowledge nothing."""
        self.begin(Recorder(), totalBuffer=5000)
        for _ in range(2):
            self.another()
        for link in self.network.links:
            link.toServer.stalled = True
        return list(self.server.connections.values())

    def keep(self, connection: Connection, size: int) -> None:
        """Send something over a connection."""
        connection.sendData(bytes(size))
        self.network.deliver()

    def test_waitingFirst(self) -> None:
        """Of one key a session that waits makes room before a connection does."""
        connections = self.three()
        for connection in connections:
            self.keep(connection, 1300)
        self.network.links[1].cut()
        self.network.deliver()
        self.keep(connections[0], 300)
        self.factory._manager.overfull(connections[2])
        self.assertEqual([c.isOver for c in connections], [False, True, False])
        self.assertEqual([c.isClosing for c in connections], [False, True, False])
        for link in self.network.links:
            link.toServer.stalled = False

    def test_partialsFirst(self) -> None:
        """The beginning of a message that was cut makes room before any session."""
        first, second, _ = self.three()
        self.keep(second, 3000)
        self.cut()
        first.session.inbox.partial = Partial(BINARY, bytes(2500))
        first.account()
        self.factory._manager.overfull(second)
        self.assertEqual(first.session.inbox.partialSize, 0)
        self.assertEqual([first.isOver, second.isOver], [False, False])

    def test_oneLook(self) -> None:
        """
        Many sessions in which next to nothing is kept make room in one pass over all,
        and no more of them than is needed; not below an equal share.
        """
        self.begin(Recorder())
        others = [self.another() for _ in range(20)]
        ends = list(self.server.connections.values())
        for link in self.network.links:
            link.toServer.stalled = True
        for each in ends:
            self.keep(each, 100)
        self.cut()
        manager = self.factory._manager
        looks = count()
        look = Budget.richest
        self.patch(Budget, "richest", lambda budget: (next(looks), look(budget))[1])
        manager.budget.bound = 16 * heldBy(ends[0]) + 1
        manager.overfull(ends[0])
        self.assertEqual(next(looks), 1)
        self.assertEqual([each.isOver for each in ends], [True] * 5 + [False] * 16)
        for client in others:
            self.stop(client)

    def test_totalBufferHandler(self) -> None:
        """What a handler is not done with counts, too."""
        waiting: Deferred[None] = Deferred()
        self.begin(Recorder(lambda *arguments: waiting), totalBuffer=2000)
        self.near.sendData("x" * 1000)
        self.network.deliver()
        self.cut()
        other = self.another(key=PrivateKey.generate())
        for data in ("y" * 900, "one more"):
            other.sendData(data)
            self.network.deliver()
        self.assertTrue(self.far.isOver)
        self.assertEqual(len(self.server.connections), 1)
        waiting.callback(None)
        self.network.advance(DELAY)

    def test_waitingIsBounded(self) -> None:
        """What is sent to one who is away is bounded as ever."""
        self.begin(sendBuffer=200)
        self.cut()
        sent = [self.far.sendData("x") for _ in range(4)]
        self.failureResultOf(sent.pop(), SendBufferFull)
        self.back()
        for deferred in sent:
            self.assertIsNone(self.successResultOf(deferred))

    def test_slowConsumer(self) -> None:
        """With a handler, that is the end of the session."""
        recorder = Recorder()
        self.begin(recorder, sendBuffer=200)
        self.cut()
        for _ in range(4):
            self.far.sendData("x")
        self.assertEqual(self.closedReason(self.far).code, 4000)
        self.assertEqual(recorder.names, ["accepted", "lost"])
        self.back()
        self.assertTrue(self.near.isOver)


class RegistryTests(HubTestCase):
    """Who is listed, and under which address."""

    def test_order(self) -> None:
        """
        One entry for a session, under the address that its client has come from
        last, behind those that were accepted before that.
        """
        self.begin()
        others = [self.join(self.network, suites=[XX]) for _ in range(2)]
        addresses = list(self.server.connections)
        self.network.links[0].cut()
        self.network.deliver()
        self.assertEqual(list(self.server.connections), addresses)
        self.back()
        moved = [*addresses[1:], ("127.0.0.1", 50004)]
        self.assertEqual(list(self.server.connections), moved)
        self.assertIs(self.server.connections[moved[2]], self.far)
        self.assertEqual(self.server.connections.byPeer(self.far.peer), [self.far])
        self.assertTrue(all(other.isOpen for other in others))
        log = self.entries(self.server)
        self.assertEqual([each.event for each in log[3:]], ["lost", "accepted"])
        self.assertEqual([each[0] for each in log[3:]], [addresses[0], moved[2]])
        self.assertIn("its session is kept", log[3].reason)
        self.assertIn("back by", log[4].reason)
        self.assertEqual({each.peer for each in log[3:]}, {self.far.peer})

    def test_samePort(self) -> None:
        """
        A client that comes back from the same port stays where it is; another that
        comes from there meanwhile is listed under a name of its own.
        """
        client = {"endpoint": self.network.endpoint(port=7)}
        self.begin(client=client)
        address = ("127.0.0.1", 7)
        self.cutAndBack()
        self.assertEqual(list(self.server.connections), [address])
        self.cut()
        other = self.join(self.network, port=7, suites=[XX])
        self.assertEqual(list(self.server.connections), [address, "127.0.0.1:7-2"])
        self.back()
        self.assertIs(self.server.connections[address], self.far)
        self.exchange()
        other.abort()

    def test_lateForGood(self) -> None:
        """A session that is over stays listed while packets of it are unread."""
        self.begin()
        self.successResultOf(self.sent("x"))
        self.cut()
        self.network.factory = None
        self.network.advance(GRACE)
        self.assertTrue(self.far.isOver)
        self.assertEqual(list(self.server.connections), [self.far.address])
        address, packet = self.server.connections.getDataOrdinal()
        self.assertEqual((address, packet.data), (self.far.address, "x"))
        self.assertEqual(list(self.server.connections), [])
        self.network.factory = self.factory

    def sent(self, data: str) -> Deferred[None]:
        """Send, and deliver."""
        sent = self.near.sendData(data)
        self.network.deliver()
        return sent


@implementer(ISessionHandler)
class Watching(Recorder):
    """A handler that is told of cuts and returns, too."""

    def connectionDetached(self, connection: Connection, reason: AESMError) -> None:
        """Remember it, and send something for the client."""
        self.events.append(("detached", reason))
        connection.sendData("meanwhile")
        if self.failing == "detached":
            raise ZeroDivisionError

    async def connectionAttached(self, connection: Connection) -> None:
        """Remember it."""
        self.events.append(("attached", connection))
        if self.failing == "attached":
            raise ZeroDivisionError


class AwayTests(HubTestCase):
    """A handler may be told that a client is away, and that it is back."""

    def test_interface(self) -> None:
        """The handler of these tests is one."""
        verifyObject(ISessionHandler, Watching())

    def test_told(self) -> None:
        """It is told of each cut and each return, and at last of the end."""
        handler = Watching()
        self.begin(handler)
        self.assertEqual(handler.names, ["accepted"])
        for _ in range(2):
            self.cutAndBack()
            self.assertEqual(self.take(self.near), ["meanwhile"])
        self.assertEqual(handler.names[1:], ["detached", "attached"] * 2)
        self.assertIs(handler.events[2][1], self.far)
        self.cut()
        self.network.clock.advance(0)
        self.far.abort()
        self.assertEqual(handler.names[5:], ["detached", "lost"])

    def test_unnoticed(self) -> None:
        """A client that comes back before it was missed was away as well."""
        handler = Watching()
        self.begin(handler)
        self.network.links[0].toClient.stalled = True
        self.thief()
        self.cutLast()
        self.network.links[0].toClient.stalled = True
        self.back()
        names = [name for name in handler.names if name != "accepted"]
        self.assertEqual(names[-2:], ["detached", "attached"])
        for link in self.network.links:
            link.toClient.stalled = False
        self.network.deliver()

    def checkFails(self, failing: str) -> None:
        """Let one of the two methods fail."""
        handler = Watching()
        self.begin(handler)
        handler.failing = failing
        self.cut()
        self.back()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(self.far.isOver)
        self.assertEqual(handler.names.count("lost"), 1)

    def test_detachedFails(self) -> None:
        """An error of C{connectionDetached} ends the session."""
        self.checkFails("detached")

    def test_attachedFails(self) -> None:
        """So does one of C{connectionAttached}."""
        self.checkFails("attached")
