"""
Tests for L{aesm.store.connection} and L{aesm.store.stream}: what is in a spool, and
when.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, cast

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest

from aesm import (
    AnyServer,
    ClientService,
    Connection,
    ConnectionClosed,
    MessageTooBig,
    NotAuthorized,
    Packet,
    PrivateKey,
    SendBufferFull,
    SessionLost,
    SpoolError,
    connect,
)
from aesm.blocking.threaded import ReactorStreamOwner, ThreadedServerFactory
from aesm.core.messages.conversation import Conversation
from aesm.plugins import HandlerMaker
from aesm.store.spool import RETRY
from aesm.store.sqlite import MIN_MAX_SIZE, Changes, SpoolFile
from tests.messages.test_hotpath import pythonCalls
from tests.support.compiled import excepted
from tests.support.helpers import XX
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, Recorder
from tests.support.spooled import SpoolTestCase

OTHER_KEY = PrivateKey(b"\x33" * 32)
ECHO = HandlerMaker("echo", "", "aesm.handlers.Echo")
RELAY = HandlerMaker("relay", "", "aesm.handlers.Relay")
LOST = "aesm.durable"


def sendBack(connection: Connection, packet: Packet) -> None:
    """Answer with the same."""
    connection.sendData(cast(str, packet.data))


class InboxTests(SpoolTestCase):
    """What comes to a server without a handler."""

    def test_order(self) -> None:
        """
        What came is acknowledged, and can be taken, once it is stored, and not
        before.
        """
        self.byHand = True
        server = self.serving()
        client = self.service()
        self.onDisk(self.worker)
        sent = client.sendData("hello")
        self.network.deliver()
        self.assertNoResult(sent)
        self.assertEqual(len(self.accepted.retrieved), 0)
        self.worker.work()
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(server.connections.getDataOrdinal()[1].data, "hello")
        self.network.deliver()
        self.onDisk(self.worker)

    def test_killed(self) -> None:
        """
        A server that is killed has what it acknowledged, once and in order, with
        the times at which it was sent; what it has not acknowledged comes again.
        """
        self.byHand = True
        self.serving()
        client = self.service()
        self.onDisk(self.worker)
        kept = [client.sendData(data) for data in ("a", b"\0b", "")]
        self.network.deliver()
        self.onDisk(self.worker)
        for sent in kept:
            self.successResultOf(sent)
        times = [packet.time for packet in self.accepted.retrieved]
        later = client.sendData("later")
        self.network.deliver()
        self.killServer()
        self.byHand = False
        server = self.serving()
        retrieved = self.accepted.retrieved
        self.assertEqual([packet.data for packet in retrieved], ["a", b"\0b", ""])
        self.assertEqual([packet.time for packet in retrieved], times)
        self.assertNoResult(later)
        self.network.advance(30)
        self.successResultOf(later)
        found = [server.connections.getDataOrdinal()[1].data for _ in range(5)]
        self.assertEqual(found, ["a", b"\0b", "", "later", None])

    def test_taken(self) -> None:
        """What was taken, from either end, is not there again; what is left is."""
        server = self.serving()
        client = self.service()
        for number in range(9):
            client.sendData(str(number))
        self.network.deliver()
        for oldToNew in (True, True, False, True, False, False):
            server.connections.getDataOrdinal(oldToNew)
        for expected in (list("345"), list("45")):
            self.network.deliver()
            self.killServer()
            server = self.serving()
            left = [packet.data for packet in self.accepted.retrieved]
            self.assertEqual(left, expected)
            server.connections.getDataOrdinal()
        client.sendData("9")
        self.network.advance(30)
        self.killServer()
        server = self.serving()
        self.assertEqual([p.data for p in self.accepted.retrieved], ["5", "9"])
        server.connections.getDataOrdinal(False)
        self.network.advance(30)
        client.sendData("10")
        self.network.deliver()
        self.assertEqual([p.data for p in self.accepted.retrieved], ["5", "10"])
        ranges = self.durable(self.accepted).retrieved.ranges
        self.assertEqual(ranges, [[6, 10]])
        self.assertEqual(self.taking(self.accepted.retrieved), ["5", "10"])
        self.network.deliver()
        self.assertEqual(self.durable(self.accepted).retrieved.ranges, [])

    def test_limits(self) -> None:
        """
        What a client may send ahead is the same after a restart, also if the server
        has other bounds then; it grows with what is taken, and only once that is
        stored.
        """
        self.serving(receiveBuffer=1000)
        client = self.service()
        for _ in range(30):
            client.sendData(b"x" * 36)
        self.network.deliver()
        self.assertEqual(len(self.accepted.retrieved), 10)
        self.killServer()
        self.serving(receiveBuffer=200)
        self.network.advance(30)
        self.assertEqual(len(self.accepted.retrieved), 10)
        for _ in range(5):
            self.accepted.retrieved.getData()
        self.network.deliver()
        self.assertEqual(len(self.accepted.retrieved), 10)
        self.killServer()
        self.serving()
        self.network.advance(30)
        for _ in range(2):
            self.taking(self.accepted.retrieved)
            self.network.deliver()
        self.assertEqual(len(self.taking(self.accepted.retrieved)), 5)

    def test_over(self) -> None:
        """
        What is unread of a session that is over can still be taken after a restart;
        with the last packet the session is gone.
        """
        self.serving()
        client = self.service()
        client.sendData("a")
        client.sendData("b")
        self.network.deliver()
        former = client.former
        assert former is not None
        former.close()
        self.network.deliver()
        self.stopService(client)
        for left in (["a", "b"], ["b"]):
            self.killServer()
            server = self.serving()
            self.assertTrue(self.accepted.isOver)
            self.assertEqual([p.data for p in self.accepted.retrieved], left)
            self.assertEqual(server.connections.getDataOrdinal()[1].data, left[0])
            self.network.deliver()
        self.assertEqual(list(server.connections), [])
        self.stopServer()
        self.assertEqual(self.stored(self.path), [])

    def test_overUnread(self) -> None:
        """
        Of a session that ends with nothing unread nothing is left; nor of what was
        sent over it.
        """
        server = self.serving()
        client = self.service()
        self.accepted.sendData("not read")
        self.accepted.close()
        self.network.deliver()
        self.stopService(client)
        self.assertEqual(list(server.connections), [])
        self.stopServer()
        self.assertEqual(self.stored(self.path), [])

    def test_names(self) -> None:
        """
        A restored connection has its address, unless that was made up by the former
        process, and its key's name.
        """
        self.serving(authorizedKeys=lambda key, address: "Ada")
        client = self.service()
        address = self.accepted.address
        self.killServer()
        self.serving(authorizedKeys=lambda key, address: "Ada L.")
        self.assertEqual(self.accepted.address, address)
        self.assertEqual(self.accepted.peerName, "Ada")
        self.network.advance(30)
        self.assertTrue(self.accepted.isOpen)
        self.assertEqual(self.accepted.peerName, "Ada L.")
        self.stopService(client)

    def test_unix(self) -> None:
        """
        Two connections without hosts have two addresses, also if two processes have
        made up the same one.
        """
        self.serving()
        clients = [self.service(), self.service(key=OTHER_KEY)]
        self.killServer()
        file = SpoolFile(self.path, full=False)
        for stored in file.load():
            changes = Changes()
            changes.put(stored.peer, stored.state | {"address": "unix-1"})
            file.write({stored.name: changes})
        file.close()
        server = self.serving()
        self.assertEqual(len(server.connections), 2)
        for address, connection in server.connections.items():
            self.assertEqual(address, f"session-{connection.session.name}")
        self.network.advance(30)
        for client in clients:
            self.stopService(client)

    def test_threads(self) -> None:
        """
        Of a server whose packets are taken from any thread, that goes for those of
        former processes as well.
        """
        self.serving()
        client = self.service()
        client.sendData("x")
        self.network.deliver()
        self.killServer()
        factory = ThreadedServerFactory(
            reactor=self.network.clock, key=SERVER_KEY, spool=self.path
        )
        factory.doStart()
        (connection,) = factory.connections.values()
        self.assertIsInstance(connection.retrieved.owner, ReactorStreamOwner)
        self.assertEqual(len(connection.retrieved), 1)
        connection.address = "elsewhere"
        owner = cast(Connection, connection.retrieved.owner)
        self.assertEqual(owner.address, "elsewhere")
        factory.doStop()
        stopped = factory.stop()
        self.network.deliver()
        self.successResultOf(stopped)

    def test_sameAddress(self) -> None:
        """
        A session that is over and another one, from the same port, are both found.
        """
        for number in range(2):
            server = self.serving()
            endpoint = self.network.endpoint(port=4000)
            client = self.service(deliver=False)
            client._endpoint = endpoint
            self.network.deliver()
            client.sendData(str(number))
            self.network.deliver()
            if not number:
                former = client.former
                assert former is not None
                former.close()
                self.network.deliver()
            self.killService(client)
            self.killServer()
        server = self.serving()
        addresses = list(server.connections)
        self.assertEqual(addresses[0], ("127.0.0.1", 4000))
        self.assertTrue(str(addresses[1]).startswith("session-"), addresses)
        found = {server.connections.getDataOrdinal()[1].data for _ in range(2)}
        self.assertEqual(found, {"0", "1"})

    def test_messageTooBig(self) -> None:
        """
        A client whose messages the server does not take any more is told so, and goes
        on.
        """
        self.serving()
        client = self.service()
        self.killServer()
        sent = client.sendData(b"x" * 1000)
        self.serving(maxMessage=100)
        with capturedLogs():
            self.network.advance(60)
        self.assertFails(sent, MessageTooBig)
        again = client.sendData(b"x" * 100)
        self.network.deliver()
        self.successResultOf(again)

    def test_totalBuffer(self) -> None:
        """
        What waits to be written counts against C{totalBuffer}, and no more once it
        is written or the session is over.
        """
        self.byHand = True
        server = self.serving(totalBuffer=10_000)
        self.onDisk(self.worker)
        budget = server.factory._manager.budget
        client = self.service(key=OTHER_KEY)
        self.onDisk(self.worker)
        client.sendData(b"x" * 8000)
        self.network.deliver()
        self.assertFalse(budget.full)
        self.assertEqual(budget._kept, 8064)
        self.onDisk(self.worker)
        self.assertEqual(budget._kept, 0)
        former = client.former
        client.sendData(b"x" * 4000)
        with capturedLogs():
            self.settle()
        self.assertEqual(cast(Any, former).closed().result.code, 1013)
        self.assertEqual(budget._kept, 0)
        self.stopService(client)


class BeginTests(SpoolTestCase):
    """A server's session that begins."""

    def test_killed(self) -> None:
        """
        A client has its WELCOME once its session is stored: a server that is killed
        right after it goes on with that session.
        """
        self.byHand = True
        handler = Recorder()
        server = self.serving(handler)
        client = self.service()
        self.assertIsNone(client.former)
        self.assertEqual(list(server.connections), [])
        self.assertEqual(handler.events, [])
        self.worker.work()
        self.network.deliver()
        former = client.former
        assert former is not None
        self.assertTrue(former.isOpen)
        self.killServer()
        self.byHand = False
        sent = client.sendData("hello")
        self.serving()
        self.network.advance(30)
        self.successResultOf(sent)
        self.assertIs(client.former, former)

    def test_killedAnywhere(self) -> None:
        """
        Whatever the server has done when it is killed: a client that was let in goes on
        with its session, what was accepted is there once, and else it is told.
        """
        told = 0
        for steps in count():
            self.path = Path(self.mktemp())
            done, lost = self.killedAfter(steps)
            told += lost
            if not done:
                break
        self.assertGreater(steps, 10)
        self.assertGreater(told, 0)

    def killedAfter(self, steps: int) -> tuple[bool, bool]:
        """
        Kill a server while a client comes, and start it again.

        @return: whether so much was done before, and whether the client was told that
            its message may be lost.
        """
        self.byHand = True
        self.serving(suites=(XX,))
        client = self.service(suites=(XX,), deliver=False)
        sent = client.sendData("hello")
        done = all(self.step() for _ in range(steps))
        former = client.former
        self.killServer()
        self.byHand = False
        self.serving(suites=(XX,))
        self.network.advance(30)
        again = client.former
        assert again is not None
        self.assertTrue(again.isOpen)
        if former is not None:
            self.assertIs(again, former)
        self.assertEqual(self.accepted.session.name, again.session.name)
        failures: list[Any] = []
        sent.addErrback(failures.append)
        taken = self.taking(self.accepted.retrieved)
        if failures:
            self.assertIsNone(former)
            failures[0].trap(SessionLost)
        else:
            self.successResultOf(sent)
        self.assertEqual(taken, [] if failures else ["hello"])
        self.killService(client)
        self.killServer()
        return done, bool(failures)

    def step(self) -> bool:
        """
        Let one thing happen.

        @return: whether there was anything left to happen.
        """
        self.network.clock.advance(0)
        for link in self.network.links:
            if link.deliver(60):
                return True
        if self.worker.waiting:
            self.worker.work()
            return True
        return False

    def test_resumed(self) -> None:
        """
        A session that goes on is written down already: its client is let in at once.
        """
        self.byHand = True
        self.serving()
        client = self.service()
        self.onDisk(self.worker)
        (link,) = self.network.links
        link.cut()
        self.network.advance(30)
        self.assertTrue(self.accepted.isOpen)
        self.assertTrue(client.former and client.former.isOpen)
        self.onDisk(self.worker)

    def test_noRoom(self) -> None:
        """
        While nothing can be written, clients without a session are refused with 1013,
        and come back; those who have one go on with it.
        """
        handler = Recorder()
        server = self.serving(handler)
        former = self.service()
        accepted = self.accepted
        self.worker.room = False
        client = self.service(key=OTHER_KEY, deliver=False)
        with capturedLogs():
            self.network.deliver()
            self.network.links[0].cut()
            self.network.advance(30)
        self.assertTrue(accepted.isOpen)
        self.assertIsNone(client.former)
        self.assertEqual(list(server.connections.values()), [accepted])
        self.assertEqual(handler.names, ["accepted"])
        refused = [
            activity
            for activity in iter(server.connections.activity, None)
            if activity.event == "refused"
        ]
        self.assertGreater(len(refused), 1)
        for activity in refused:
            self.assertIn("cannot write", activity.reason)
        self.worker.room = True
        with capturedLogs():
            self.network.advance(60)
        self.assertTrue(client.former and client.former.isOpen)
        self.assertIs(former.former and former.former.isOpen, True)
        self.killServer()
        self.assertEqual(len(self.stored(self.path)), 2)
        self.serving()

    def test_code(self) -> None:
        """Who is refused is told to try again later."""
        self.serving()
        self.worker.room = False
        connecting = connect(
            self.network.clock,
            self.network.endpoint(),
            trust=AnyServer(),
            key=OTHER_KEY,
        )
        with capturedLogs():
            self.network.deliver()
        refused: Any = self.failureResultOf(connecting, ConnectionClosed).value
        self.assertEqual(refused.code, 1013)
        self.worker.room = True
        self.network.advance(RETRY)
        self.killServer()
        self.assertEqual(self.stored(self.path), [])
        self.serving()

    def test_slow(self) -> None:
        """
        A disk that takes longer than the handshake may has no client let in, and
        nothing is left of the session.
        """
        self.byHand = True
        server = self.serving(handshakeTimeout=5)
        connecting = connect(
            self.network.clock,
            self.network.endpoint(),
            trust=AnyServer(),
            key=OTHER_KEY,
        )
        self.network.advance(6)
        self.failureResultOf(connecting)
        self.onDisk(self.worker)
        self.assertEqual(list(server.connections), [])
        self.byHand = False
        self.killServer()
        self.assertEqual(self.stored(self.path), [])
        self.serving()

    def test_gone(self) -> None:
        """
        Of a client that goes away before its WELCOME, or whose server stops, nothing is
        left.
        """
        for stops in (False, True):
            self.byHand = True
            server = self.serving()
            connecting = connect(
                self.network.clock,
                self.network.endpoint(),
                trust=AnyServer(),
                key=OTHER_KEY,
            )
            self.network.deliver()
            if not stops:
                connecting.cancel()
                self.network.deliver()
                self.onDisk(self.worker)
            self.assertEqual(list(server.connections), [])
            self.stopServer()
            self.failureResultOf(connecting)
            self.assertEqual(self.stored(self.path), [])

    def test_room(self) -> None:
        """
        There is room for so many, however many come while the first is written down.
        """
        self.byHand = True
        server = self.serving(maxConnections=1)
        connecting = [
            connect(
                self.network.clock, self.network.endpoint(), trust=AnyServer(), key=key
            )
            for key in (CLIENT_KEY, OTHER_KEY)
        ]
        self.network.deliver()
        self.onDisk(self.worker)
        connection = self.successResultOf(connecting[0])
        refused: Any = self.failureResultOf(connecting[1], ConnectionClosed).value
        self.assertEqual(refused.code, 1013)
        self.assertEqual(len(server.connections), 1)
        self.onDisk(self.worker)
        connection.close()
        self.settle()
        self.stopServer()
        self.assertEqual(self.stored(self.path), [])

    def test_replaced(self) -> None:
        """
        A client replaces its other connection when it is let in, and not if it is not.
        """
        self.serving(perKey="replace")
        former = self.service()
        connection = self.accepted
        self.worker.room = False
        again = [
            connect(
                self.network.clock,
                self.network.endpoint(),
                trust=AnyServer(),
                key=CLIENT_KEY,
            )
        ]
        with capturedLogs():
            self.network.deliver()
        self.failureResultOf(again[0], ConnectionClosed)
        self.assertTrue(connection.isOpen)
        self.worker.room = True
        self.network.advance(RETRY)
        again[0] = connect(
            self.network.clock,
            self.network.endpoint(),
            trust=AnyServer(),
            key=CLIENT_KEY,
        )
        self.network.deliver()
        self.assertTrue(connection.isOver)
        self.assertFalse(former.running)
        self.successResultOf(again[0]).close()
        self.network.deliver()

    def test_takenOut(self) -> None:
        """
        A key that is taken out of the list while its session is written down is not let
        in.
        """
        self.byHand = True
        path = Path(self.mktemp())
        path.write_text(f"{OTHER_KEY.publicKey} Ada\n")
        server = self.serving(authorizedKeys=path)
        connecting = connect(
            self.network.clock,
            self.network.endpoint(),
            trust=AnyServer(),
            key=OTHER_KEY,
        )
        self.network.deliver()
        path.write_text(f"{CLIENT_KEY.publicKey} Ada\n")
        server.factory.reloadKeys()
        self.onDisk(self.worker)
        self.failureResultOf(connecting, NotAuthorized)
        self.onDisk(self.worker)
        self.stopServer()
        self.assertEqual(self.stored(self.path), [])

    def test_sameAddress(self) -> None:
        """Two from one address that begin together are both listed."""
        self.byHand = True
        server = self.serving()
        endpoint = self.network.endpoint(port=4000)
        for key in (CLIENT_KEY, OTHER_KEY):
            client = self.service(key=key, deliver=False)
            client._endpoint = endpoint
        self.network.deliver()
        self.onDisk(self.worker)
        self.assertEqual(len(server.connections), 2)
        self.byHand = False
        self.killServer()
        server = self.serving()
        self.assertEqual(len(server.connections), 2)


class OutboxTests(SpoolTestCase):
    """What a server sends."""

    def test_order(self) -> None:
        """What is sent leaves once it is stored, and not before."""
        self.byHand = True
        self.serving()
        client = self.service()
        self.onDisk(self.worker)
        sent = self.accepted.sendData("hello")
        self.network.deliver()
        self.assertEqual(len(client.retrieved), 0)
        self.worker.work()
        self.network.deliver()
        self.assertEqual(self.taking(client.retrieved), ["hello"])
        self.successResultOf(sent)
        self.onDisk(self.worker)

    def test_killed(self) -> None:
        """
        What is stored is sent after a restart; what is acknowledged then is
        not in the file any more.
        """
        self.serving()
        client = self.service()
        for link in self.network.links:
            link.toClient.stalled = True
        for data in ("a", b"b"):
            self.accepted.sendData(data)
        self.network.deliver()
        self.accepted.sendData("c")
        self.network.deliver()
        self.killServer()
        self.serving()
        self.assertEqual(self.durable(self.accepted)._outbox.count, 3)
        self.network.advance(30)
        self.assertEqual(self.taking(client.retrieved), ["a", b"b", "c"])
        self.killServer()
        (stored,) = self.stored(self.path)
        self.assertEqual(stored.outgoing, [])
        self.serving()

    def test_partly(self) -> None:
        """What was sent together, and was acknowledged in part, comes for the rest."""
        self.serving()
        client = self.service(receiveBuffer=200)
        for number in range(9):
            self.accepted.sendData(b"%d" % number * 36)
        for taken, most in (([0, 1], 2), ([2, 3], 2)):
            self.network.advance(30)
            found = [cast(Any, client.retrieved.getData()) for _ in range(most)]
            self.assertEqual([int(packet.data[:1]) for packet in found], taken)
            self.network.deliver()
            self.killServer()
            (stored,) = self.stored(self.path)
            self.assertEqual(len(stored.outgoing), 1)
            self.serving()
        self.network.advance(30)
        rest = []
        while (packet := client.retrieved.getData()) is not None:
            rest.append(int(cast(bytes, packet.data)[:1]))
            self.network.deliver()
        self.assertEqual(rest, [4, 5, 6, 7, 8])

    def test_sendBuffer(self) -> None:
        """
        The bound of what is kept counts what was restored, and is that of the
        process that runs.
        """
        self.serving()
        client = self.service(receiveBuffer=1)
        for _ in range(5):
            self.accepted.sendData(b"x" * 936)
        self.network.deliver()
        self.killServer()
        self.serving(sendBuffer=5000)
        self.assertFails(self.accepted.sendData(b"x" * 937), SendBufferFull)
        self.accepted.sendData(b"x" * 936)
        self.killService(client)

    def test_closing(self) -> None:
        """
        Who closes sends first what waits to be written, and the peer's last
        messages are acknowledged once they are written.
        """
        for byServer in (False, True):
            self.byHand = True
            self.serving()
            serverWorker = self.worker
            client = self.service()
            self.onDisk(serverWorker)
            toClient = self.accepted.sendData("x")
            toServer = client.sendData("y")
            former = client.former
            assert former is not None
            (self.accepted if byServer else former).close()
            for _ in range(5):
                self.network.deliver()
                self.onDisk(serverWorker)
            for sent in (toServer, toClient) if byServer else (toServer,):
                self.successResultOf(sent)
            self.assertEqual(self.taking(self.accepted.retrieved), ["y"])
            self.assertEqual(self.taking(client.retrieved), ["x"])
            self.killService(client)
            self.killServer()
            self.path.unlink()

    def test_stopped(self) -> None:
        """
        A server that stops in order keeps the sessions: what was sent in the same
        breath, also to who is away, arrives when it is back.
        """
        self.serving()
        here, away = self.service(), self.service(key=OTHER_KEY)
        for link in self.network.links[1:]:
            link.toClient.stalled = link.toServer.stalled = True
        assert self.server is not None
        one, two = self.server.connections.values()
        one.sendData("one")
        two.sendData("two")
        self.stopServer()
        for link in self.network.links:
            link.toClient.stalled = link.toServer.stalled = False
        self.assertEqual(len(self.stored(self.path)), 2)
        self.assertEqual([s.state["over"] for s in self.stored(self.path)], [0, 0])
        self.serving()
        self.network.advance(30)
        self.assertEqual(self.taking(here.retrieved), ["one"])
        self.assertEqual(self.taking(away.retrieved), ["two"])

    def test_stoppedWaiting(self) -> None:
        """
        The same for a session that waits for its client, with packets unread; nothing
        says that it was given up.
        """
        server = self.serving()
        client = self.service()
        client.sendData("unread")
        self.network.deliver()
        self.network.links[0].cut()
        sent = self.accepted.sendData("away")
        connection = self.accepted
        self.stopServer()
        self.assertFails(sent, ConnectionClosed)
        lost = self.entries(server)[-1]
        self.assertEqual(lost.reason, "the server is stopping; the session is stored")
        self.assertEqual(len(connection.retrieved), 1)
        server = self.serving()
        self.assertEqual(server.connections.getDataOrdinal()[1].data, "unread")
        self.network.advance(30)
        self.assertEqual(self.taking(client.retrieved), ["away"])

    def test_again(self) -> None:
        """
        A server that is started again in the same process has what is unread once.
        """
        server = self.serving()
        clients = [self.service(), self.service(key=OTHER_KEY)]
        for client in clients:
            client.sendData("unread")
        self.network.deliver()
        former = clients[0].former
        assert former is not None
        former.close()
        self.network.advance(10)
        self.stopServer()
        taken = server.connections.getDataOrdinal()[1]  # too late to be stored
        self.assertEqual(taken.data, "unread")
        self.network.deliver()
        self.server = self.successResultOf(server.start())
        found = [server.connections.getDataOrdinal()[1].data for _ in range(3)]
        self.assertEqual(found, ["unread", "unread", None])

    def test_expired(self) -> None:
        """
        A client that does not come back in time after a restart is given up, and
        the log says how much it may not have.
        """
        server = self.serving(sessionGrace=50)
        client = self.service()
        self.killService(client)
        sent = self.accepted.sendData("x")
        self.network.advance(40)
        self.killServer()
        server = self.serving(sessionGrace=50)
        self.network.advance(40)
        self.assertEqual(len(server.connections), 1)
        with capturedLogs() as events:
            self.network.advance(20)
        self.assertEqual(len(server.connections), 0)
        said = [event for event in events if event["log_namespace"] == LOST]
        self.assertEqual([event["count"] for event in said], [1])
        self.assertNoResult(sent)
        self.stopServer()
        self.assertEqual(self.stored(self.path), [])


class CostTests(SpoolTestCase):
    """
    What a durable message costs beside the writing, counted as in
    L{tests.messages.test_hotpath}.
    """

    @excepted
    def test_flushes(self) -> None:
        """
        The conversation is asked once what there is to send for a message, when that is
        committed, and once after what is read: not before the commit, when nothing may
        leave, nor when it is committed that the message was acknowledged.
        """
        asked: list[Conversation] = []
        original = Conversation.takeFrames

        def takeFrames(
            conversation: Conversation, micros: int, budget: int
        ) -> list[bytes]:
            """Count, and do the same."""
            asked.append(conversation)
            return original(conversation, micros, budget)

        self.serving()
        client = self.service(spool=self.clientPath)
        self.patch(Conversation, "takeFrames", takeFrames)
        sent = client.sendData("x")
        self.assertEqual(asked, [])
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(len(asked), 4)
        self.assertEqual(len(set(asked)), 2)  # twice at each end

    def test_burst(self) -> None:
        """
        All messages of a turn are one batch, in the file too, and all but the first of
        them cost two calls.
        """
        self.byHand = True
        self.serving()
        client = self.service(spool=self.clientPath)
        self.settle()
        send = self.durable(client.former).sendData
        send("first")
        self.assertLess(pythonCalls(lambda: [send("x") for _ in range(500)]), 1050)
        self.network.clock.advance(0)
        for worker in self.workers:
            self.onDisk(worker)
        self.killService(client)
        (stored,) = self.stored(self.clientPath)
        self.assertEqual([blob.messages for blob in stored.outgoing], [501])

    def written(self, size: int, burst: int, take: bool, **options: Any) -> float:
        """
        Send messages to a server, which sends nothing before it has written, some at
        a time.

        @param burst: how many at a time.
        @param take: whether each is taken at once.
        @param options: of the server.
        @return: the bytes that are written to files, for each byte of the messages.
        """
        server = self.serving(**options)
        client = self.service()
        before = writtenBytes()
        for _ in range(600):
            sent = [client.sendData(b"x" * size) for _ in range(burst)]
            self.network.deliver()
            self.successResultOf(sent[-1])
            if take:
                while server.connections.getDataOrdinal()[0] is not None:
                    pass
                self.network.deliver()
        count = writtenBytes() - before
        self.stopService(client)
        self.stopServer()
        self.path.unlink()
        return count / (600 * burst * size)

    def test_written(self) -> None:
        """
        For each byte of message that comes, at most 20 are written to files with
        messages of 1 KiB, and 60 with messages of 64 bytes, if each waits for the one
        before to be acknowledged; whether they are taken, left, or sent back.
        """
        ways: list[dict[str, Any]] = [
            {"take": False},
            {"take": True},
            {"take": False, "handler": ECHO},
        ]
        for way in ways:
            for size, bound in ((64, 60), (1024, 20)):
                self.assertLess(self.written(size, 1, **way), bound, (size, way))
            self.assertLess(self.written(64, 20, **way), 12, way)


def writtenBytes() -> int:
    """Tell how many bytes this process has written to files."""
    try:
        text = Path("/proc/self/io").read_text()
    except FileNotFoundError:
        raise SkipTest("nobody counts that here") from None
    return int(text.partition("wchar: ")[2].split()[0])


class HandlerTests(SpoolTestCase):
    """What a handler does."""

    def test_together(self) -> None:
        """
        That a handler is done with a message, and what it sends because of it, is
        written together; before that, nothing leaves.
        """
        self.byHand = True
        self.serving(RELAY)
        one = self.service()
        two = self.service(key=OTHER_KEY)
        self.onDisk(self.worker)
        sent = one.sendData("hello")
        self.network.deliver()
        self.assertEqual(len(two.retrieved), 0)
        self.assertNoResult(sent)
        self.worker.work()
        self.killServer()
        states = {stored.peer: stored for stored in self.stored(self.path)}
        sender = states[str(CLIENT_KEY.publicKey)]
        receiver = states[str(OTHER_KEY.publicKey)]
        self.assertEqual(sender.state["received"], 1)
        self.assertEqual(len(receiver.outgoing), 1)
        self.byHand = False
        self.serving(RELAY)
        self.network.advance(30)
        self.assertEqual(self.taking(two.retrieved), ["hello"])
        self.successResultOf(sent)

    def test_slowDisk(self) -> None:
        """What is written while something else still is counts on from that."""
        for handler in (Recorder(), None):
            self.byHand = True
            self.serving(handler)
            client = self.service(key=PrivateKey.generate(), receiveBuffer=1000)
            self.onDisk(self.worker)
            for data in ("a", "b", "c"):
                client.sendData(data)
                self.network.deliver()
            for _ in range(2):
                self.worker.work()
            if handler is None:
                self.onDisk(self.worker)
                for _ in range(3):
                    self.accepted.retrieved.getData()
                    self.network.clock.advance(0)
                for _ in range(2):
                    self.worker.work()
            self.killServer()
            (stored,) = self.stored(self.path)
            for name, value in (("received", 3), ("receivedCost", 3 * 65)):
                self.assertEqual(stored.state[name], value)
            self.assertEqual(stored.state["takenCost"], 3 * 65)
            self.killService(client)
            self.path.unlink()

    def test_neither(self) -> None:
        """
        If a server is killed before that, neither has happened: the message is
        handled again.  What the handler did elsewhere has happened twice.
        """
        self.byHand = True
        handler = Recorder(sendBack)
        self.serving(handler)
        client = self.service()
        self.onDisk(self.worker)
        sent = client.sendData("hello")
        self.network.deliver()
        self.killServer()
        self.byHand = False
        self.serving(handler)
        self.network.advance(30)
        self.successResultOf(sent)
        self.assertEqual(handler.data, ["hello", "hello"])
        self.assertEqual(self.taking(client.retrieved), ["hello"])

    def test_twoTurns(self) -> None:
        """
        What a handler sends before the turn in which it is done is written before:
        if the server is killed in between it is sent twice.
        """
        waiting: list[Deferred[None]] = []

        def answer(connection: Connection, packet: Packet) -> Deferred[None]:
            """Answer, and take time."""
            connection.sendData("answer")
            waiting.append(Deferred())
            return waiting[-1]

        self.serving(Recorder(answer))
        client = self.service()
        sent = client.sendData("question")
        self.network.deliver()
        self.assertNoResult(sent)
        self.killServer()
        self.serving(Recorder(answer))
        self.network.advance(30)
        waiting[-1].callback(None)
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.taking(client.retrieved), ["answer", "answer"])

    def test_handled(self) -> None:
        """
        After a restart the handler is told of the sessions as of new connections,
        and gets what it was not done with, once.
        """
        slow: Deferred[None] = Deferred()
        self.serving(Recorder(lambda c, packet: slow if packet.data == "b" else None))
        client = self.service()
        sent = [client.sendData(data) for data in "abc"]
        self.network.deliver()
        self.successResultOf(sent[0])
        self.killServer()
        handler = Recorder()
        self.serving(handler)
        self.assertEqual(handler.names, ["accepted"])
        self.network.advance(30)
        self.assertEqual(handler.data, ["b", "c"])
        for each in sent[1:]:
            self.successResultOf(each)

    def test_away(self) -> None:
        """
        A handler that wants to know who is away is told that all of them are, until
        they are back.
        """
        told: list[str] = []

        class Watching(Recorder):
            """A handler that is told of cuts and returns, too."""

            def connectionDetached(self, connection: Any, reason: Exception) -> None:
                """Remember it."""
                told.append(f"{self.names[-1]}, then away: {reason}")

            def connectionAttached(self, connection: Any) -> None:
                """Remember it."""
                told.append("back")

        self.serving(Recorder())
        self.service()
        self.killServer()
        self.serving(Watching())
        away = "accepted, then away: the server was started again"
        self.assertEqual(told, [away])
        self.network.advance(30)
        self.assertEqual(told, [away, "back"])

    def test_orderly(self) -> None:
        """
        While a server stops it hands over nothing more, and what a handler is done
        with too late does not count: what it would have sent could not leave.  All
        of it is handled after the restart.
        """
        slow: Deferred[None] = Deferred()
        handler = Recorder(lambda c, packet: slow if packet.data == "a" else None)
        server = self.serving(handler)
        client = self.service()
        first = client.sendData("a")
        self.network.deliver()
        (link,) = self.network.links
        link.toClient.stalled = True
        stopped = server.stop()
        later = client.sendData("b")
        self.network.deliver()
        slow.callback(None)
        link.toClient.stalled = False
        self.network.advance(20)
        self.successResultOf(stopped)
        self.assertEqual(handler.data, ["a"])
        self.server = None
        handler = Recorder(sendBack)
        self.serving(handler)
        self.network.advance(30)
        self.assertEqual(handler.data, ["a", "b"])
        self.successResultOf(first)
        self.successResultOf(later)
        self.assertEqual(self.taking(client.retrieved), ["a", "b"])

    def test_failed(self) -> None:
        """
        A handler that fails closes the session: the message is not acknowledged,
        nor is it handled again, and nothing of the session is left.
        """
        handler = Recorder(lambda c, packet: 1 / 0 if packet.data == "bad" else None)
        self.serving(handler)
        client = self.service()
        sent = [client.sendData(data) for data in ("good", "bad", "behind")]
        self.network.deliver()
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertFails(sent[1], ConnectionClosed)
        self.network.advance(30)
        self.assertEqual(handler.data, ["good", "bad"])
        self.killService(client)
        self.network.advance(100)
        self.stopServer()
        self.assertEqual(self.stored(self.path), [])

    def test_later(self) -> None:
        """
        A handler that closes one session while it handles a batch leaves nothing of
        it, though messages before were handled.
        """
        handler = Recorder(
            lambda c, packet: c.abort() if packet.data == "end" else None
        )
        self.serving(handler)
        client = self.service()
        for data in ("a", "end", "b"):
            client.sendData(data)
        self.network.deliver()
        self.killService(client)
        self.network.advance(100)
        self.killServer()
        self.assertEqual(self.stored(self.path), [])

    def test_inherited(self) -> None:
        """
        A handler gets first what a server without one has left unread, and then
        what comes; each is stored as handled when it is.
        """
        self.serving(receiveBuffer=500)
        client = self.service()
        for number in range(9):
            client.sendData(b"%d" % number * 36)
        self.network.deliver()
        self.accepted.retrieved.getData()
        self.network.deliver()
        self.assertEqual(len(self.accepted.retrieved), 4)
        self.killServer()
        slow: Deferred[None] = Deferred()
        seen: list[Any] = []

        def handle(connection: Connection, packet: Packet) -> Deferred[None] | None:
            """Take time for one of them."""
            seen.append(int(cast(bytes, packet.data)[:1]))
            return slow if seen[-1] == 3 else None

        self.serving(Recorder(handle))
        self.assertEqual(seen, [1, 2, 3])
        self.network.advance(30)
        self.killServer()
        seen.clear()
        slow = Deferred()
        self.serving(Recorder(handle))
        self.assertEqual(seen, [3])
        slow.callback(None)
        self.network.advance(30)
        self.assertEqual(seen, [3, 4, 5, 6, 7, 8])
        connection = self.durable(self.accepted)
        self.assertEqual(connection.session.inbox.keptCount, 9)
        self.assertEqual(connection.session.inbox.untaken, 0)
        self.assertEqual(len(connection.retrieved), 0)
        self.killServer()
        self.serving()
        self.network.advance(30)
        sent = client.sendData("last")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.taking(self.accepted.retrieved), ["last"])

    def test_echo(self) -> None:
        """C{Echo} through kills at any commit: each answer comes once, in order."""
        self.byHand = True
        self.serving(ECHO)
        client = self.service()
        self.onDisk(self.worker)
        for kill in range(6):
            for number in range(2):
                client.sendData(f"{kill}{number}")
                self.network.deliver()
                if number < kill % 3:
                    self.onDisk(self.worker)
            self.killServer()
            self.serving(ECHO)
            self.onDisk(self.worker)
            self.network.advance(30)
            self.onDisk(self.worker)
        expected = [f"{kill}{number}" for kill in range(6) for number in range(2)]
        self.assertEqual(self.taking(client.retrieved), expected)
        self.network.deliver()
        self.onDisk(self.worker)

    def test_echoHeldBack(self) -> None:
        """
        The same where C{Echo} waits for a client that does not read: it has sent
        nothing of what it is not done with.
        """
        self.serving(ECHO, sendBuffer=2000)
        client = self.service(receiveBuffer=1)
        for number in range(20):
            client.sendData(f"{number:0100}")
        self.network.deliver()
        connection = self.durable(self.accepted)
        self.assertLess(connection.session.inbox.keptCount, 20)
        self.killServer()
        self.serving(ECHO, sendBuffer=2000)
        found: list[Any] = []
        for _ in range(60):
            self.network.advance(1)
            found += self.taking(client.retrieved)
        self.assertEqual(list(map(int, found)), list(range(20)))


class NoRoomTests(SpoolTestCase):
    """A spool that cannot be written for a while."""

    def full(self, room: bool = False) -> None:
        """Let the disk fill up, or empty."""
        self.worker.room = room
        if room:
            self.network.advance(RETRY)

    def test_inbox(self) -> None:
        """Nothing is acknowledged or to be taken; all is, once there is room."""
        self.serving()
        client = self.service()
        self.full()
        sent = [client.sendData("a")]
        with capturedLogs():
            self.network.deliver()
        sent.append(client.sendData("b"))
        self.network.deliver()
        for each in sent:
            self.assertNoResult(each)
        self.assertEqual(len(self.accepted.retrieved), 0)
        self.full(room=True)
        for each in sent:
            self.successResultOf(each)
        self.assertEqual(self.taking(self.accepted.retrieved), ["a", "b"])

    def test_spoolMax(self) -> None:
        """
        A spool that has all that it may is as a full disk; taking makes room, also
        for more than the spool could ever have at once.
        """
        server = self.serving(spoolMax=MIN_MAX_SIZE, receiveBuffer=32 << 20)
        client = self.service()
        sent = [client.sendData(bytes(1 << 20)) for _ in range(9)]
        self.network.deliver()
        self.successResultOf(sent[-1])
        with capturedLogs() as logs:
            more = [client.sendData(bytes(1 << 20)) for _ in range(20)]
            self.network.deliver()
            self.assertFails(self.accepted.sendData("x"), SpoolError)
            other = self.service(key=OTHER_KEY)
        self.assertIsNone(other.former)
        self.assertIn("spoolMax", logs[0]["log_format"])
        self.assertNoResult(more[-1])
        count = 0
        while count < len(sent + more) and self.network.clock.seconds() < 60:
            count += len(self.taking(self.accepted.retrieved))
            self.network.advance(RETRY)
        self.assertEqual(count, len(sent + more))
        self.successResultOf(more[-1])
        self.network.advance(30)
        self.assertEqual(len(server.connections), 2)
        self.assertLess(self.path.stat().st_size, MIN_MAX_SIZE + (20 << 20))

    def test_killed(self) -> None:
        """A server that is killed meanwhile has lost nothing that it acknowledged."""
        self.serving()
        client = self.service()
        before = client.sendData("a")
        self.network.deliver()
        self.successResultOf(before)
        self.full()
        sent = client.sendData("b")
        with capturedLogs():
            self.network.deliver()
        self.killServer()
        self.serving()
        self.network.advance(30)
        self.successResultOf(sent)
        self.assertEqual(self.taking(self.accepted.retrieved), ["a", "b"])

    def test_sending(self) -> None:
        """
        Sending fails at once, and says why; what was accepted before leaves once
        there is room.
        """
        server = self.serving()
        client = self.service()
        self.full()
        before = self.accepted.sendData("before")
        with capturedLogs():
            self.network.deliver()
        text = self.assertFails(self.accepted.sendData("x"), SpoolError)
        self.assertIn("nothing was sent", text)
        self.assertIn(str(self.path), text)
        self.assertFails(server.sendTo("x", self.accepted.address), SpoolError)
        self.assertEqual(self.successResultOf(server.sendAll("x")), 0)
        self.assertNoResult(before)
        self.full(room=True)
        self.successResultOf(before)
        self.assertEqual(self.taking(client.retrieved), ["before"])

    def test_heartbeat(self) -> None:
        """Both sides stay connected meanwhile."""
        self.serving(heartbeat=1)
        client = self.service(heartbeat=1)
        self.full()
        sent = client.sendData("x")
        with capturedLogs():
            self.network.advance(60)
        self.assertTrue(self.accepted.isOpen)
        self.assertNoResult(sent)
        self.full(room=True)
        self.successResultOf(sent)

    def test_handler(self) -> None:
        """Nothing is handed over; it is, in order, once there is room."""
        handler = Recorder()
        self.serving(handler)
        client = self.service()
        self.full()
        sent = [client.sendData("a")]
        with capturedLogs():
            self.network.deliver()
        self.assertEqual(handler.data, ["a"])  # with which it turns out
        for data in ("b", "c"):
            sent.append(client.sendData(data))
            self.network.deliver()
        self.assertEqual(handler.data, ["a"])
        for each in sent:
            self.assertNoResult(each)
        self.full(room=True)
        self.assertEqual(handler.data, ["a", "b", "c"])
        for each in sent:
            self.successResultOf(each)

    def test_handlerForgets(self) -> None:
        """
        It goes on also where nothing but the end of a session waited to be written.
        """
        handler = Recorder()
        self.serving(handler)
        other, client = self.service(key=OTHER_KEY), self.service()
        self.full()
        former = other.former
        assert former is not None
        former.close()
        with capturedLogs():
            self.network.deliver()
        sent = client.sendData("a")
        self.network.deliver()
        self.assertEqual(handler.data, [])
        self.full(room=True)
        self.successResultOf(sent)

    def test_handlerAtWork(self) -> None:
        """
        A handler that is at work when the disk is full may send: that is written
        with what it is done with.
        """
        slow: Deferred[None] = Deferred()

        async def handle(connection: Connection, packet: Packet) -> None:
            """Answer after a while."""
            if packet.data == "a":
                await slow
            connection.sendData(f"re: {packet.data!r}")

        server = self.serving(Recorder(handle))
        client, other = self.service(), self.service(key=OTHER_KEY)
        sent = client.sendData("a")
        self.network.deliver()
        self.full()
        other.sendData("x")
        with capturedLogs():
            self.network.deliver()
        slow.callback(None)
        self.network.deliver()
        self.assertNoResult(sent)
        address = next(iter(server.connections))
        self.assertFails(server.sendTo("x", address), SpoolError)
        self.full(room=True)
        self.successResultOf(sent)
        self.assertEqual(self.taking(client.retrieved), ["re: 'a'"])

    def test_stop(self) -> None:
        """
        A server that stops meanwhile says that not all could be written; what it
        has acknowledged is there, and it starts again.
        """
        for handler in (None, Recorder()):
            server = self.serving(handler)
            client = self.service(key=PrivateKey.generate())
            self.full()
            sent = client.sendData("x")
            with capturedLogs():
                self.network.deliver()
            stopped = server.stop()
            with capturedLogs():
                self.network.advance(20)
            self.assertFails(stopped, SpoolError)
            self.assertNoResult(sent)
            self.network.clock.advance(0)
            again = server.start()
            self.successResultOf(again)
            self.network.advance(30)
            self.successResultOf(sent)
            self.stopService(client)
            while server.connections.getDataOrdinal()[0] is not None:
                pass
            self.stopServer()

    def test_stoppedTwice(self) -> None:
        """
        Everybody who stops the factory meanwhile waits until the spool is closed, and
        is told how that went.
        """
        for room in (True, False):
            self.byHand = True
            factory = self.serving().factory
            client = self.service(key=PrivateKey.generate(), deliver=False)
            self.settle()
            client.sendData("x")
            self.network.deliver()
            stopped = [factory.stop(deadline=0.0) for _ in range(2)]
            self.network.clock.advance(0)
            self.network.deliver()
            stopped.append(factory.stop())
            for each in stopped:
                self.assertNoResult(each)
            self.worker.room = room
            with capturedLogs():
                self.settle()
            for each in stopped:
                if room:
                    self.successResultOf(each)
                else:
                    self.assertFails(each, SpoolError)
            self.successResultOf(factory.stop())
            self.stopService(client)
            self.stopServer()

    def test_over(self) -> None:
        """
        A session that ends meanwhile ends; what came and was not written is lost
        with it, and was not acknowledged.
        """
        self.serving(sessionGrace=0)
        client = self.service()
        self.full()
        sent = client.sendData("x")
        with capturedLogs():
            self.network.deliver()
        connection = self.accepted
        self.network.links[0].cut()
        self.network.deliver()
        self.assertTrue(connection.isOver)
        self.full(room=True)
        self.network.advance(30)
        self.assertFails(sent, SessionLost)
        self.assertEqual(len(connection.retrieved), 0)


class ClientTests(SpoolTestCase):
    """A client's own spool."""

    def client(self, **options: Any) -> ClientService:
        """
        Start the client.

        @param options: as L{ClientService}.
        """
        return self.service(**({"spool": self.clientPath} | options))

    def test_killed(self) -> None:
        """
        What it sent arrives once and in order, whether it was sent before a client
        is killed, while there is no connection, or after; what came and was not
        taken is there.
        """
        self.serving()
        client = self.client()
        client.sendData("a")
        self.accepted.sendData("x")
        self.accepted.sendData("y")
        self.network.deliver()
        self.assertEqual(client.retrieved[0].data, "x")
        client.retrieved.getData()
        self.network.deliver()
        self.network.links[0].cut()
        client.sendData("b")
        client.sendData(b"c")
        self.network.clock.advance(0)
        self.killService(client)
        client = self.client(deliver=False)
        self.assertEqual(self.taking(client.retrieved), ["y"])
        client.sendData("d")
        self.network.advance(30)
        self.assertEqual(self.taking(self.accepted.retrieved), ["a", "b", b"c", "d"])

    def test_stopped(self) -> None:
        """
        A client that stops in order keeps its session, and the server keeps it too.
        """
        self.serving()
        client = self.client()
        client.sendData("a")
        self.network.deliver()
        for link in self.network.links:
            link.toServer.stalled = True
        sent = client.sendData("b")
        self.stopService(client)
        self.assertFails(sent, ConnectionClosed)
        self.network.deliver()
        for link in self.network.links:
            link.toServer.stalled = False
        self.network.advance(20)
        client = self.client()
        self.network.advance(20)
        self.assertEqual(self.taking(self.accepted.retrieved), ["a", "b"])

    def test_again(self) -> None:
        """One that is started again, once it has stopped, goes on."""
        self.serving()
        client = self.client()
        self.accepted.sendData("x")
        self.network.deliver()
        stopped = client.stopService()
        self.network.deliver()
        self.successResultOf(stopped)
        client.startService()
        self.network.advance(20)
        self.assertEqual(self.taking(client.retrieved), ["x"])
        sent = client.sendData("a")
        self.network.deliver()
        self.successResultOf(sent)

    def test_awayStopped(self) -> None:
        """
        One that stops while there is no connection keeps what it was told to send.
        """
        self.serving()
        client = self.client()
        self.killServer()
        sent = client.sendData("a")
        self.stopService(client)
        self.assertFails(sent, ConnectionClosed)
        self.serving()
        self.client()
        self.network.advance(20)
        self.assertEqual(self.taking(self.accepted.retrieved), ["a"])

    def test_lost(self) -> None:
        """
        Where the server has given the session up, what was unread is still there,
        also after a restart, and the log says how many messages may be lost: who
        sent them may be gone.
        """
        self.serving(sessionGrace=10)
        client = self.client()
        self.accepted.sendData("x")
        self.network.deliver()
        self.network.links[0].cut()
        client.sendData("a")
        client.sendData("b")
        self.network.clock.advance(0)
        self.killService(client)
        self.network.advance(20)
        with capturedLogs() as events:
            client = self.client()
        said = [event for event in events if event["log_namespace"] == LOST]
        self.assertEqual([event["count"] for event in said], [2])
        sent = client.sendData("c")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.taking(self.accepted.retrieved), ["c"])
        self.killService(client)
        client = self.client()
        self.assertEqual(self.taking(client.retrieved), ["x"])
        self.network.deliver()
        self.killService(client)
        self.assertEqual(len(self.stored(self.clientPath)), 1)
        self.client()

    def test_noRoom(self) -> None:
        """
        With the disk full, sending fails, and goes on once there is room; also a
        stop says so, and it can be started again.
        """
        self.serving(spool=None)
        client = self.client()
        self.worker.room = False
        first = client.sendData("a")
        with capturedLogs():
            self.network.deliver()
        self.assertFails(client.sendData("b"), SpoolError)
        self.assertNoResult(first)
        self.worker.room = True
        self.network.advance(RETRY)
        self.successResultOf(first)
        self.worker.room = False
        client.sendData("c")
        with capturedLogs():
            self.network.deliver()
            waiting = client.retrieved.get()
            stopped = client.stopService()
            self.network.advance(20)
        self.assertFails(stopped, SpoolError)
        self.assertFails(waiting, ConnectionClosed)
        client.startService()
        self.network.advance(30)
        sent = client.sendData("d")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.taking(self.accepted.retrieved)[0], "a")

    def test_noRoomInApplication(self) -> None:
        """
        One that an application stops, which could do nothing about it, says in the log
        that not all could be written.
        """
        application = MultiService()
        self.serving(spool=None)
        client = self.client()
        client.setServiceParent(application)
        self.worker.room = False
        client.sendData("a")
        with capturedLogs() as events:
            self.network.deliver()
            stopped = application.stopService()
            self.network.advance(20)
        self.assertEqual(self.successResultOf(stopped), [(True, None)])
        said = [formatEvent(event) for event in events]
        self.assertEqual(len([each for each in said if "not write all" in each]), 1)
        self.worker.room = True

    def test_noRoomInTurn(self) -> None:
        """
        From the moment at which the disk is known to be full nothing more is accepted,
        not even with what was sent before in the same turn of the event loop.
        """
        self.byHand = True
        self.serving(spool=None)
        client = self.client()
        self.settle()
        sent = [client.sendData("a")]
        self.network.clock.advance(0)
        sent.append(client.sendData("b"))
        self.worker.room = False
        with capturedLogs():
            self.worker.work()
        self.assertFails(client.sendData("c"), SpoolError)
        self.worker.room = True
        self.settle()
        for each in sent:
            self.successResultOf(each)
        self.assertEqual(self.taking(self.accepted.retrieved), ["a", "b"])

    def test_ends(self) -> None:
        """
        A client that stops by itself, at a failure that will not pass, while its
        disk is full, has said so once.
        """
        self.serving(spool=None)
        client = self.client()
        self.worker.room = False
        client.sendData("a")
        with capturedLogs():
            self.network.deliver()
            self.accepted.closeWith(1008, "")
            self.network.advance(20)
        self.assertFalse(client.running)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_refusedTwice(self) -> None:
        """A spool that is open cannot be opened by another."""
        self.serving()
        self.client()
        other = ClientService(
            self.network.endpoint(),
            reactor=self.network.clock,
            key=OTHER_KEY,
            spool=self.clientPath,
        )
        error = self.assertRaises(SpoolError, other.startService)
        self.assertIn("another program uses", str(error))
        self.assertFalse(other.running)
        self.assertEqual(self.cannotServe(self.clientPath), str(error))
