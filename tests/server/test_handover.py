"""
Tests for L{aesm.server.handover}: two servers in memory, on one spool, of which one
takes over from the other.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm import (
    AESMServerFactory,
    ClientService,
    Connection,
    ConnectionClosed,
    Packet,
    PrivateKey,
    Request,
    Server,
)
from aesm.handlers import Relay
from aesm.interfaces import IMessageHandler
from aesm.plugins import HandlerMaker
from aesm.server import handover
from aesm.server.factory import STOP_DEADLINE
from aesm.server.handover import CannotTakeOver, Predecessor, Successor
from aesm.server.kept import KeptSessions
from aesm.store.spool import Spool
from aesm.testing.transport import MemoryLink
from tests.messages.test_requests import Answerer, Later
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, Recorder
from tests.support.spooled import Mortal, SpoolTestCase, closeFile

HERE = IPv4Address("TCP", "127.0.0.1", 1)
RELAY = HandlerMaker("relay", "", "aesm.handlers.Relay")


def sendBack(connection: Connection, packet: Packet) -> None:
    """Answer with the same."""
    connection.sendData(cast(str, packet.data))


@implementer(IMessageHandler)
class Apart(Recorder):
    """A handler that answers, and whose clients do not hear of one another."""

    clientsApart = True

    def __init__(self) -> None:
        """Answer with the same."""
        super().__init__(sendBack)


class Process:
    """
    A process with a server, as L{handover.Host}.

    @ivar server: the server.
    @ivar said: what was asked of it, in order.
    """

    def __init__(self, test: HandoverTestCase, handler: object) -> None:
        """Make its server, which does not listen."""
        self._test = test
        self.clock = Mortal(test.network.clock)
        self.factory = AESMServerFactory(
            reactor=self.clock, key=SERVER_KEY, handler=handler, spool=test.path
        )
        self.server = Server(test.network.endpoint(), factory=self.factory)
        self.successors = self.factory.successors(self)
        self.said: list[str] = []
        self.gone: list[bool] = []
        self.channel: MemoryLink | None = None
        self.ended: Deferred[None] | None = None

    def lend(self) -> list[dict[str, Any]]:
        """There are no sockets."""
        self.said.append("lend")
        return []

    def pause(self) -> Deferred[None]:
        """Whoever listens next has the network."""
        self.said.append("pause")
        return succeed(None)

    def resume(self) -> None:
        """Listen again."""
        self.said.append("resume")
        self._test.network.factory = self.factory

    def retire(self) -> None:
        """Stop, then end."""
        self.said.append("retire")
        self.stop().addCallback(lambda nothing: self.leave())

    def stop(self) -> Deferred[None]:
        """Stop the server, also where another one listens in its place."""
        self.ended = self.server.stop()
        if self.factory._reload is not None:
            self.factory.stopFactory()
        return self.ended

    def leave(self) -> None:
        """Close the channel."""
        if self.channel is not None:
            self.channel.cut()

    def kill(self) -> None:
        """Have nothing of it go on."""
        network = self._test.network
        self.clock.kill()
        manager = self.factory._manager
        if manager.journal is not None:
            closeFile(manager.journal)
        if network.factory is self.factory:
            network.factory = None
        for link in list(network.links):
            if getattr(link.server.protocol, "factory", None) is self.factory:
                link.server.lost = True
                link.client.lose(error.ConnectionLost())
                network.links.remove(link)

    @property
    def spool(self) -> Spool:
        """Its spool."""
        return cast(Spool, cast(Any, self.factory._manager.journal).store)


class HandoverTestCase(SpoolTestCase):
    """One process, and then another."""

    def setUp(self) -> None:
        """Have no process."""
        super().setUp()
        self.processes: list[Process] = []
        self.addCleanup(self.endProcesses)

    def endProcesses(self) -> None:
        """Stop all that run, once their clients are gone."""
        for service in list(self.services):
            self.stopService(service)
        for process in self.processes:
            if process.ended is None:
                stopped = process.stop()
                process.leave()
                self.settle()
                self.successResultOf(stopped)

    def first(self, handler: object = None) -> Process:
        """Start the first process."""
        process = Process(self, handler)
        self.processes.append(process)
        self.successResultOf(process.server.start())
        return process

    def calling(self, old: Process, handler: object = None) -> tuple[Process, Any]:
        """
        Start a process that calls another one.

        @return: it, and its L{Predecessor}.
        """
        new = Process(self, handler)
        predecessor: Any = new.factory.predecessor(new.gone.append)
        link = MemoryLink(self.network.clock, HERE, HERE)
        self.network.links.append(link)
        link.client.protocol = predecessor
        link.server.protocol = successor = old.successors.buildProtocol(None)
        predecessor.makeConnection(link.client)
        successor.makeConnection(link.server)
        old.channel = link
        return new, predecessor

    def second(self, old: Process, handler: object = None) -> Process:
        """Start a process that takes over, and let it do so until time has to pass."""
        new, predecessor = self.calling(old, handler)
        taking = predecessor.takeOver()
        self.network.deliver()
        self.assertEqual(self.successResultOf(taking), [])
        self.processes.append(new)
        self.successResultOf(new.server.start())
        predecessor.accepting().addErrback(lambda failure: None)
        return new

    def kill(self, process: Process, other: Process) -> None:
        """Kill one of two processes."""
        self.processes.remove(process)
        process.kill()
        channel = process.channel or other.channel
        assert channel is not None
        if channel in self.network.links:
            self.network.links.remove(channel)
        end = channel.server if process.channel is None else channel.client
        other.channel = None
        end.lose(error.ConnectionDone())

    def clients(self, count: int) -> list[ClientService]:
        """Start clients with keys of their own."""
        services = [
            self.service(key=PrivateKey(bytes([65 + number]) * 32))
            for number in range(count)
        ]
        self.network.advance(1)
        return services

    def data(self, service: ClientService) -> list[Any]:
        """Take what came to a client."""
        return self.taking(service.retrieved)

    def assertHandedOver(self, old: Process, new: Process, clients: int) -> None:
        """Check that one process has all and the other one nothing."""
        self.assertEqual(old.said, ["lend", "pause", "retire"])
        self.assertIsNotNone(old.ended)
        self.assertEqual(len(old.server.connections), 0)
        self.assertEqual(new.gone, [True])
        self.assertIs(new.factory._manager.predecessor, None)
        self.assertEqual(len(new.server.connections), clients)
        self.assertTrue(all(c.isOpen for c in new.server.connections.values()))
        self.cannotServe()  # it has the spool alone


class MoveTests(HandoverTestCase):
    """Nothing is lost, and nobody is told."""

    def check(self, before: object, after: object) -> None:
        """Check that clients of a handler that answers do not notice."""
        old = self.first(before)
        services = self.clients(20)
        sent = []
        sessions = [cast(Connection, each.former).session.name for each in services]
        for number in range(3):
            sent += [each.sendData(f"before {number}") for each in services]
        new = self.second(old, after)
        for moment in range(10):
            sent += [each.sendData(f"meanwhile {moment}") for each in services]
            self.network.advance(0.03)
        self.network.advance(10)
        sent += [each.sendData("after") for each in services]
        self.network.advance(1)
        for each in sent:
            self.successResultOf(each)
        expected = [f"before {number}" for number in range(3)]
        expected += [f"meanwhile {moment}" for moment in range(10)] + ["after"]
        for service in services:
            self.assertEqual(self.data(service), expected)
        found = [cast(Connection, each.former).session.name for each in services]
        self.assertEqual(found, sessions)
        self.assertHandedOver(old, new, 20)

    def test_apart(self) -> None:
        """Clients that do not hear of one another, in waves."""
        self.check(Apart(), Apart())

    def test_atOnce(self) -> None:
        """Others, all at the same moment."""
        self.check(Recorder(sendBack), Recorder(sendBack))

    def test_different(self) -> None:
        """They are moved at once if either handler asks for it."""
        self.check(Apart(), Recorder(sendBack))

    def test_waves(self) -> None:
        """
        While some clients move, the others are served where they are, and what the
        next wave is depends on how soon the last one is back.
        """
        old = self.first(Apart())
        services = self.clients(60)
        new = self.second(old, Apart())
        sizes = []
        for _ in range(100):
            self.network.advance(0.01)
            there = [c for c in old.server.connections.values() if c.isOpen]
            sizes.append(len(there))
            sent = [each.sendData("now") for each in services]
            self.network.deliver()
            for each in sent[-len(there) or 60 :]:
                self.successResultOf(each)
        self.assertIn(60 - handover.FIRST, sizes)
        self.assertGreater(len(set(sizes)), 2)
        self.network.advance(5)
        self.assertHandedOver(old, new, 60)

    def test_dead(self) -> None:
        """Clients that do not come back are waited for, but not for ever."""
        old = self.first(Apart())
        self.clients(handover.FIRST)
        for link in self.network.links:
            link.toClient.stalled = True
        self.service()
        self.network.advance(1)
        new = self.second(old, Apart())
        self.network.advance(handover.PATIENCE - 1)
        self.assertEqual(old.said[-1], "pause")
        self.network.advance(handover.PATIENCE)
        self.assertEqual(old.said[-1], "retire")
        there = [c.peer for c in new.server.connections.values() if c.isAttached]
        self.assertEqual(there, [CLIENT_KEY.publicKey])
        for link in self.network.links:
            link.toClient.stalled = False

    def test_longest(self) -> None:
        """If many do not come back, the rest move at once in the end."""
        self.patch(handover, "LONGEST", handover.PATIENCE)
        old = self.first(Apart())
        self.clients(2 * handover.FIRST + 2)
        for link in self.network.links:
            link.toClient.stalled = True
        self.second(old, Apart())
        self.network.advance(handover.PATIENCE - 0.1)
        self.assertEqual(len(old.server.connections), handover.FIRST + 2)
        self.network.advance(0.2)
        self.assertEqual(len(old.server.connections), 0)
        self.network.advance(handover.PATIENCE + 5)
        self.assertEqual(old.said[-1], "retire")
        for link in self.network.links:
            link.toClient.stalled = False

    def test_again(self) -> None:
        """A process that has taken over is taken over from."""
        processes = [self.first(Apart())]
        (service,) = self.clients(1)
        for _ in range(3):
            processes.append(self.second(processes[-1], Apart()))
            self.network.advance(5)
            self.assertHandedOver(processes[-2], processes[-1], 1)
        sent = service.sendData("still")
        self.network.advance(1)
        self.successResultOf(sent)
        self.assertEqual(self.data(service), ["still"])

    def test_away(self) -> None:
        """What waits for a client that is away, waits in the new process."""
        old = self.first(Apart())
        (service,) = self.clients(1)
        (connection,) = old.server.connections.values()
        self.network.factory = None
        self.network.links[0].cut()
        connection.sendData("for later")
        self.network.deliver()
        new = self.second(old, Apart())
        self.network.advance(1)
        self.assertEqual(len(new.server.connections), 1)
        self.network.advance(40)
        self.assertEqual(self.data(service), ["for later"])
        self.assertHandedOver(old, new, 1)

    def test_unread(self) -> None:
        """Without a handler, what nobody has taken can be taken there, once."""
        old = self.first()
        (service,) = self.clients(1)
        for data in "abc":
            service.sendData(data)
        self.network.deliver()
        self.assertEqual(old.server.connections.getDataOrdinal()[1].data, "a")
        new = self.second(old)
        self.network.advance(5)
        self.assertEqual(old.server.connections.getDataOrdinal()[1].data, None)
        found = [new.server.connections.getDataOrdinal()[1].data for _ in range(3)]
        self.assertEqual(found, ["b", "c", None])
        self.assertHandedOver(old, new, 1)

    def test_over(self) -> None:
        """So can what a client has left that is gone."""
        old = self.first()
        (service,) = self.clients(1)
        service.sendData("last words")
        self.network.deliver()
        cast(Connection, service.former).close()
        self.network.deliver()
        self.network.advance(1)
        new = self.second(old)
        self.network.advance(10)
        self.assertEqual(new.server.connections.getDataOrdinal()[1].data, "last words")

    def test_inHand(self) -> None:
        """A message that the handler is at work on is handled again there."""
        working: list[Deferred[None]] = []

        def work(connection: Connection, packet: Packet) -> Deferred[None]:
            working.append(Deferred())
            return working[-1]

        old = self.first(Recorder(work))
        (service,) = self.clients(1)
        sent = service.sendData("work")
        self.network.deliver()
        new = self.second(old, after := Recorder())
        self.network.advance(5)
        working[0].callback(None)
        self.network.advance(5)
        self.assertEqual(after.data, ["work"])
        self.successResultOf(sent)
        self.assertHandedOver(old, new, 1)

    def test_waiting(self) -> None:
        """So is one of which the handler waits for the client, which is no failure."""

        def ask(connection: Connection, packet: Packet) -> Deferred[Any]:
            return connection.request("which one?")

        old = self.first(Recorder(ask))
        (service,) = self.clients(1)
        sent = service.sendData("work")
        self.network.deliver()
        new = self.second(old, after := Recorder())
        self.network.advance(5)
        self.assertEqual(after.data, ["work"])
        self.successResultOf(sent)
        self.assertHandedOver(old, new, 1)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_waitingForOthers(self) -> None:
        """It makes no difference that it waits for others, who move as well."""

        def ask(connection: Connection, packet: Packet) -> Deferred[Any]:
            (other,) = {*old.server.connections.values()} - {connection}
            answer = other.request("which one?")
            return answer.addErrback(lambda failure: 1 / 0) if fails else answer

        for fails in (False, True):
            old = self.first(Recorder(ask))
            sent = [service.sendData("work") for service in self.clients(2)]
            self.network.deliver()
            new = self.second(old, after := Recorder())
            self.network.advance(5)
            self.assertEqual(after.data, ["work", "work"])
            for each in sent:
                self.successResultOf(each)
            self.assertHandedOver(old, new, 2)
            self.assertEqual(bool(self.flushLoggedErrors()), fails)
            self.endProcesses()
            self.setUp()

    def test_requests(self) -> None:
        """
        A request that the handler is at work on is begun again there, and answered
        once, by whichever process is done with it; so are those that come meanwhile.
        """
        later, again = Later(), Later()
        old = self.first(Answerer(later))
        (service,) = self.clients(1)
        answers = [service.request(each) for each in ("done", "work")]
        self.network.deliver()
        later.begun["done"].callback("before")
        new = self.second(old, Answerer(again))
        answers.append(service.request("meanwhile"))
        self.network.advance(5)
        later.begun["work"].callback("too late")
        self.network.advance(5)
        self.assertEqual([*again.begun], ["work", "meanwhile"])
        for answer in again.begun.values():
            answer.callback("after")
        self.network.advance(1)
        self.assertEqual(
            [*map(self.successResultOf, answers)], ["before", "after", "after"]
        )
        self.assertHandedOver(old, new, 1)

    def test_openRequests(self) -> None:
        """Without a handler, one that was taken is in the stream there."""
        old = self.first()
        (service,) = self.clients(1)
        answer = service.request("?")
        self.network.deliver()
        _, packet = old.server.connections.getDataOrdinal()
        assert isinstance(packet, Request)
        new = self.second(old)
        self.network.advance(5)
        self.failureResultOf(packet.answer("too late"), ConnectionClosed)
        _, packet = new.server.connections.getDataOrdinal()
        assert isinstance(packet, Request)
        packet.answer("!")
        self.network.advance(1)
        self.assertEqual(self.successResultOf(answer), "!")
        self.assertHandedOver(old, new, 1)

    def test_told(self) -> None:
        """Handlers are told what they are told when a server stops, and starts."""
        old = self.first(before := Recorder())
        self.clients(1)
        new = self.second(old, after := Recorder())
        self.network.advance(5)
        self.assertEqual(before.names, ["accepted", "lost"])
        self.assertEqual(after.names, ["accepted"])
        self.assertHandedOver(old, new, 1)


class RelayTests(HandoverTestCase):
    """Clients that talk to one another."""

    def test_relay(self) -> None:
        """Each message reaches every other client, whenever it is sent."""
        self.assertFalse(getattr(Relay, "clientsApart", False))
        old = self.first(RELAY)
        services = self.clients(6)
        new = self.second(old, RELAY)
        said: dict[ClientService, list[str]] = {service: [] for service in services}
        for moment in range(20):
            for index, service in enumerate(services):
                said[service].append(f"{index} {moment}")
                service.sendData(said[service][-1])
            self.network.advance(0.01)
        self.network.advance(5)
        for service in services:
            came = self.data(service)
            others = [each for each in services if each is not service]
            for index, other in enumerate(services):
                if other is not service:
                    mine = [data for data in came if data.split()[0] == str(index)]
                    self.assertEqual(mine, said[other])
            self.assertEqual(len(came), 20 * len(others))
        self.assertHandedOver(old, new, 6)

    def test_newcomer(self) -> None:
        """Who comes meanwhile is let in once all others are there."""
        old = self.first(RELAY)
        services = self.clients(2)
        self.byHand = True
        new = self.second(old, RELAY)
        newcomer = self.service(key=PrivateKey(b"n" * 32))
        sent = newcomer.sendData("hello, all")
        self.network.advance(0)
        self.assertEqual(len(new.server.connections), 0)
        self.network.deliver()
        for _ in range(30):
            for worker in self.workers:
                self.onDisk(worker)
            self.network.advance(0.1)
        self.successResultOf(sent)
        for service in services:
            self.assertEqual(self.data(service), ["hello, all"])
        for worker in self.workers:
            self.onDisk(worker)
        self.byHand = False
        self.assertIsNone(new.factory._manager.predecessor)

    def test_complete(self) -> None:
        """Who comes when all others are there is let in, whatever the old one does."""
        old = self.first(RELAY)
        self.clients(1)
        self.patch(old, "retire", lambda: None)
        new = self.second(old, RELAY)
        self.network.advance(1)
        newcomer = self.service(key=PrivateKey(b"n" * 32))
        self.successResultOf(newcomer.whenConnected())
        self.assertEqual(len(new.server.connections), 2)
        Process.retire(old)
        self.network.advance(1)
        self.assertEqual(new.gone, [True])

    def test_broadcast(self) -> None:
        """What the end at one process makes its handler say, nobody hears."""

        class Tells(Recorder):
            """Tells all others when somebody is gone."""

            def connectionLost(self, connection: Connection, reason: Any) -> None:
                super().connectionLost(connection, reason)
                for other in old.server.connections.values():
                    other.sendData("somebody is gone")

        old = self.first(Tells())
        services = self.clients(3)
        new = self.second(old, Recorder())
        self.network.advance(5)
        for service in services:
            self.assertEqual(self.data(service), [])
        self.assertHandedOver(old, new, 3)


class FetchTests(HandoverTestCase):
    """Clients that come to the new process by themselves."""

    def busy(self) -> tuple[Process, Process, list[ClientService]]:
        """Have a process that waits for its first wave, and clients behind that."""
        old = self.first(Apart())
        services = self.clients(handover.FIRST + 2)
        # Those of the first wave do not hear of it for a while.
        for link in self.network.links[: handover.FIRST]:
            link.toClient.stalled = True
        new = self.second(old, Apart())
        self.network.deliver()
        self.assertEqual(
            len([c for c in old.server.connections.values() if c.isAttached]), 2
        )
        return old, new, services

    def go(self) -> None:
        """Let all hear, and come."""
        for link in self.network.links:
            link.toClient.stalled = False
        self.network.advance(10)

    def test_byItself(self) -> None:
        """One that was cut goes on with its session there."""
        old, new, services = self.busy()
        connection = next(c for c in old.server.connections.values() if c.isAttached)
        (service,) = [
            each
            for each in services
            if cast(Connection, each.former).session.name == connection.session.name
        ]
        sent = service.sendData("one")
        for link in self.network.links:
            if link.client.getHost().port == cast(Any, connection.address)[1]:
                link.cut()
        self.network.advance(3)
        self.successResultOf(sent)
        self.assertEqual(self.data(service), ["one"])
        self.assertEqual(old.said[-1], "pause")
        self.go()
        self.assertHandedOver(old, new, len(services))

    def test_others(self) -> None:
        """Nobody has another key's session left, nor one that there is not."""
        old, new, services = self.busy()
        there = [c for c in old.server.connections.values() if c.isAttached]
        predecessor = cast(Predecessor, new.factory._manager.predecessor)
        name = there[0].session.name
        for session, peer in ((name, there[1].peer), ("no session", there[0].peer)):
            claimed = predecessor.claim(session, str(peer))
            self.network.deliver()
            self.assertIsNone(self.successResultOf(claimed))
            self.assertTrue(there[0].isAttached)
            self.assertEqual(new.factory._manager.sessions.knows(there[0]), False)
        self.go()
        self.assertHandedOver(old, new, len(services))

    def test_leftAlready(self) -> None:
        """One that is left already is there when it is asked for."""
        old, new, services = self.busy()
        manager = new.factory._manager
        predecessor = cast(Predecessor, manager.predecessor)
        name = next(iter(manager.sessions._byName))
        peer = manager.sessions._byName[name].peer
        claimed = predecessor.claim(name, str(peer))
        self.network.deliver()
        stored = self.successResultOf(claimed)
        assert stored is not None
        self.assertEqual(stored.name, name)
        connection = manager.sessions._byName[name]
        cast(KeptSessions, manager.kept).adopt([stored])
        self.assertIs(manager.sessions._byName[name], connection)
        self.go()
        self.assertHandedOver(old, new, len(services))

    def test_stopping(self) -> None:
        """While the old process ends, its sessions are waited for."""
        old, new, services = self.busy()
        there = [c for c in old.server.connections.values() if c.isAttached]
        predecessor = cast(Predecessor, new.factory._manager.predecessor)
        old.retire()
        claimed = predecessor.claim(there[0].session.name, str(there[0].peer))
        self.assertIsNone(predecessor.moved())
        self.go()
        self.assertIsNone(self.successResultOf(claimed))
        self.assertEqual(len(new.server.connections), len(services))

    def test_greeting(self) -> None:
        """Who is about to be let in by the old process is, and moves then."""
        old = self.first(Apart())
        for others in (0, 1):
            self.clients(others)
            key = PrivateKey(bytes([9 + others]) * 32)
            late = self.service(key=key, deliver=False)
            self.network.clock.advance(0)
            self.assertTrue(old.factory.areGreeting)
            new = self.second(old, Apart())
            self.network.advance(10)
            self.assertIsNotNone(late.former)
            self.assertHandedOver(old, new, 1 + 2 * others)
            old = new

    def test_silent(self) -> None:
        """Who says nothing is not waited for long."""
        for handler in (Apart, Recorder):
            old = self.first(handler())
            self.rawClient(self.network)
            new = self.second(old, handler())
            self.network.advance(handover.GREETING + 1)
            self.assertHandedOver(old, new, 0)
            self.settle()
            self.successResultOf(new.stop())
            self.settle()


class DeathTests(HandoverTestCase):
    """One of both dies."""

    def halfway(self, handler: Any = Apart) -> tuple[Process, Process, Any]:
        """Have two processes with clients."""
        old = self.first(handler())
        services = self.clients(handover.FIRST + 4)
        new = self.second(old, handler())
        self.network.deliver()
        sent = [each.sendData("hello") for each in services]
        return old, new, (services, sent)

    def goesOn(self, process: Process, clients: Any) -> None:
        """Check that a process has all clients."""
        services, sent = clients
        self.network.advance(30)
        for each in sent:
            self.successResultOf(each)
        for service in services:
            self.assertEqual(self.data(service), ["hello"])
        self.assertEqual(len(process.server.connections), len(services))
        self.cannotServe()

    def test_old(self) -> None:
        """The new process goes on with what the old one had."""
        old, new, clients = self.halfway()
        self.kill(old, new)
        self.goesOn(new, clients)
        self.assertEqual(new.gone, [True])

    def test_new(self) -> None:
        """The old process goes on with what the new one had, and accepts again."""
        old, new, clients = self.halfway()
        self.kill(new, old)
        self.goesOn(old, clients)
        self.assertEqual(old.said, ["lend", "pause", "resume"])
        again = self.second(old, Apart())
        self.network.advance(10)
        old.said = old.said[3:]
        self.assertHandedOver(old, again, handover.FIRST + 4)

    def test_before(self) -> None:
        """A new process that ends before it accepts changes nothing."""
        old = self.first(Apart())
        services = self.clients(2)
        new, predecessor = self.calling(old, Apart())
        taking = predecessor.takeOver()
        self.network.deliver()
        self.successResultOf(taking)
        cast(MemoryLink, old.channel).cut()
        self.network.advance(1)
        self.assertEqual(new.gone, [False])
        self.assertEqual(old.said, ["lend", "resume"])
        self.assertTrue(all(c.isOpen for c in old.server.connections.values()))
        self.cannotServe()
        again = self.second(old, Apart())
        self.network.advance(5)
        old.said = old.said[2:]
        self.assertHandedOver(old, again, len(services))

    def test_bug(self) -> None:
        """An error of ours is logged, and ends neither."""
        old, new, clients = self.halfway()

        def fail() -> None:
            raise ZeroDivisionError

        self.patch(old, "retire", fail)
        self.goesOn(new, clients)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_curious(self) -> None:
        """Nor does one that says nothing at all."""
        old = self.first(Apart())
        self.calling(old, Apart())
        cast(MemoryLink, old.channel).cut()
        self.network.advance(1)
        self.assertEqual(old.said, [])

    def test_brokenOff(self) -> None:
        """If only the channel breaks, the old process ends, and the new one waits."""
        old, new, clients = self.halfway()
        cast(MemoryLink, old.channel).cut()
        with capturedLogs() as events:
            self.network.advance(1)
            self.assertEqual(new.gone, [])
            self.network.advance(handover.ALONE * handover.TRIES)
        self.assertEqual(old.said[-1], "retire")
        self.assertTrue([e for e in events if "this one ends" in e["log_format"]])
        self.goesOn(new, clients)
        self.assertEqual(new.gone, [True])

    def test_stopsMeanwhile(self) -> None:
        """One that is stopped while it takes its sessions back lets nobody in again."""
        old, new, _ = self.halfway()
        reclaimed: Deferred[bool] = Deferred()
        self.patch(Spool, "reclaim", lambda spool: reclaimed)
        new.stop()
        cast(MemoryLink, old.channel).cut()
        self.network.advance(1)
        stopped = old.stop()
        reclaimed.callback(True)
        self.network.advance(STOP_DEADLINE)
        self.successResultOf(stopped)
        self.assertNotIn("resume", old.said)

    def test_newStops(self) -> None:
        """A new process that is stopped leaves all to the old one."""
        old, new, clients = self.halfway()
        stopped = new.stop()
        stopped.addCallback(lambda nothing: cast(Any, old.channel).cut())
        self.goesOn(old, clients)
        self.successResultOf(stopped)

    def test_newStopsAlone(self) -> None:
        """The same if the old one has broken off."""
        old, new, clients = self.halfway()
        cast(MemoryLink, old.channel).cut()
        new.stop()
        self.goesOn(old, clients)
        self.assertEqual(new.gone, [])


class RefusalTests(HandoverTestCase):
    """From whom nothing can be taken over."""

    def refused(self, old: Process, words: str) -> None:
        """Check that a process cannot take over."""
        _, predecessor = self.calling(old)
        failures: list[Failure] = []
        predecessor.takeOver().addErrback(failures.append)
        self.network.deliver()
        self.assertIn(
            words, str(failures[0].trap(CannotTakeOver) and failures[0].value)
        )
        cast(MemoryLink, old.channel).cut()
        old.channel = None
        self.network.advance(1)

    def test_stopping(self) -> None:
        """From one that stops, or has no spool."""
        old = self.first()
        old.stop()
        self.refused(old, "is stopping")

    def test_hangs(self) -> None:
        """From one that does not answer, for whatever reason."""
        old = self.first()
        self.byHand = True
        _, predecessor = self.calling(old)
        failures: list[Failure] = []
        predecessor.takeOver().addErrback(failures.append)
        cast(MemoryLink, old.channel).toClient.stalled = True
        self.network.advance(handover.ANSWER - 0.1)
        self.assertEqual(failures, [])
        self.network.advance(0.2)
        failures[0].trap(TimeoutError)
        cast(MemoryLink, old.channel).cut()
        self.network.advance(1)

    def test_two(self) -> None:
        """From one that another one takes over from."""
        old = self.first(Apart())
        self.clients(1)
        _, predecessor = self.calling(old, Apart())
        predecessor.takeOver()
        self.network.deliver()
        channel, old.channel = old.channel, None
        self.refused(old, "already")
        self.assertIsInstance(old.successors._successor, Successor)
        cast(MemoryLink, channel).cut()
        self.network.advance(1)

    def test_damaged(self) -> None:
        """A session that makes no sense keeps no other from being moved."""
        old = self.first(Apart())
        services = self.clients(3)
        self.network.deliver()
        name = cast(Connection, services[0].former).session.name
        new, predecessor = self.calling(old, Apart())
        taking = predecessor.takeOver()
        self.network.deliver()
        self.successResultOf(taking)
        self.processes.append(new)
        self.successResultOf(new.server.start())
        old.spool.put(name, "no key", {"over": False})
        self.successResultOf(old.spool.commit())
        reading: Any = new.spool.read([name])
        cast(KeptSessions, new.factory._manager.kept).adopt(
            self.successResultOf(reading)
        )
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertEqual(len(new.server.connections), 0)
        cast(MemoryLink, old.channel).cut()
        self.network.advance(1)
