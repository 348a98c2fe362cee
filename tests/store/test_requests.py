"""
Tests for L{aesm.store.requests}: requests whose asker, or who is to answer them, is
killed.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from aesm import ClientService, Connection, Packet, Request, RequestFailed, SessionLost
from aesm.messages.requests import Answer
from tests.messages.test_requests import Answerer, Later, same
from tests.support.spooled import SpoolTestCase


class AnswererKilledTests(SpoolTestCase):
    """The server has a spool, and is killed."""

    def rows(self) -> list[int]:
        """Read which requests are in the spool of a server that is gone."""
        return [
            blob.number for each in self.stored(self.path) for blob in each.requests
        ]

    def test_again(self) -> None:
        """What a handler was not done with is handed to it again and answered once."""
        later = Later()
        self.serving(Answerer(later))
        client = self.service()
        answers = [client.request(each) for each in ("a", "b")]
        sent = client.sendData("packet")
        self.network.deliver()
        self.successResultOf(sent)  # so they were acknowledged, too
        later.begun["a"].callback("A")
        self.network.deliver()
        self.killServer()
        self.assertEqual(self.rows(), [1])
        handler = Answerer(same)
        self.serving(handler)
        self.settle()
        self.assertEqual(handler.asked, ["b"])
        self.assertEqual(handler.data, [])
        self.assertEqual([*map(self.successResultOf, answers)], ["A", "b"])
        self.assertEqual(self.accepted.session.inbox.untaken, 0)
        self.stopServer()
        self.assertEqual(self.rows(), [])

    def test_latestTime(self) -> None:
        """A time that is the latest that can be said is kept as any other."""
        later = Later()
        self.serving(Answerer(later))
        client = self.service()
        client.sendData("leaves at once")
        answer = client.request("?")
        batch = self.successResultOf(client.whenConnected()).session.outbox.open
        assert batch is not None
        batch.micros = (1 << 64) - 1
        self.network.deliver()
        self.killServer()
        self.assertEqual(self.rows(), [1])
        for _ in range(2):  # also when it was read, and is kept once more
            handler = Answerer(Later())
            self.serving(handler)
            self.settle()
            self.assertEqual(handler.asked, ["?"])
            self.killServer()
        self.serving(Answerer(same))
        self.settle()
        self.assertEqual(self.successResultOf(answer), "?")

    def test_sameTurn(self) -> None:
        """What is answered in the same turn is never stored apart from its answer."""
        self.byHand = True
        self.serving(Answerer(same))
        client = self.service()
        self.onDisk(self.worker)
        answer = client.request("?")
        self.network.deliver()
        self.assertNoResult(answer)
        self.onDisk(self.worker)
        self.assertEqual(self.successResultOf(answer), "?")
        self.killServer()
        self.assertEqual(self.rows(), [])

    def test_neither(self) -> None:
        """Killed before the commit, neither the request nor its answer is there."""
        self.byHand = True
        self.serving(Answerer(same))
        client = self.service()
        self.onDisk(self.worker)
        answer = client.request("?")
        self.network.deliver()
        self.killServer()
        handler = Answerer(same)
        self.serving(handler)
        self.settle()
        self.settle()
        self.assertEqual(handler.asked, ["?"])
        self.assertEqual(self.successResultOf(answer), "?")

    def test_withoutHandler(self) -> None:
        """
        Without one an open request is in C{retrieved} again, in its place, though it
        was taken; one that was answered is not, nor are packets that were taken.
        """
        self.serving()
        client = self.service()
        for each in ("a", "b"):
            client.sendData(each)
        answers = [client.request(each) for each in ("c", "d", "e")]
        client.sendData("f")
        self.network.deliver()
        taken = [self.accepted.retrieved.getData() for _ in range(4)]
        data = [each.data for each in taken if each is not None]
        self.assertEqual(data, ["a", "b", "c", "d"])
        answered = taken[3]
        assert isinstance(answered, Request)
        answered.answer("D")
        self.network.deliver()
        self.killServer()
        self.assertEqual(self.rows(), [2, 4])
        self.serving()
        self.settle()
        left = list(self.accepted.retrieved)
        self.assertEqual([packet.data for packet in left], ["c", "e", "f"])
        for packet in left[:2]:
            assert isinstance(packet, Request)
            packet.answer(str(packet.data).upper())
        self.settle()
        self.assertEqual([*map(self.successResultOf, answers)], ["C", "D", "E"])
        self.assertEqual(self.taking(self.accepted.retrieved), ["c", "e", "f"])
        self.settle()
        self.assertEqual(self.accepted.session.inbox.untaken, 0)

    def test_whileStopping(self) -> None:
        """What is answered too late for this process is answered by the next one."""
        for isTaken in (False, True):
            later = Later()
            taken: list[Any] = []

            async def talk(connection: Connection, taken: Any = taken) -> None:
                """Take one request."""
                taken.append(await connection.retrieved.get())
                await Deferred()

            server = self.serving(talk if isTaken else Answerer(later))
            client = self.service()
            answer = client.request("?")
            self.network.deliver()
            stopped = server.stop()
            if isTaken:
                taken[0].answer("late").addErrback(lambda failure: None)
            else:
                later.begun["?"].callback("late")
            self.network.deliver()
            self.network.advance(5)
            self.successResultOf(stopped)
            self.assertEqual(self.rows(), [0])
            handler = Answerer(same)
            self.serving(handler)
            self.settle()
            self.assertEqual(handler.asked, ["?"])
            self.assertEqual(self.successResultOf(answer), "?")
            self.stopService(client)
            self.stopServer()

    def test_handlerLater(self) -> None:
        """A handler gets what the former server had in C{retrieved}, in its order."""
        self.serving()
        client = self.service()
        client.sendData("a")
        answer = client.request("b")
        client.sendData("c")
        self.network.deliver()
        self.killServer()
        handler = Answerer(same)
        self.serving(handler)
        self.settle()
        told = [event for event in handler.events if event[0] in ("packet", "request")]
        self.assertEqual(told, [("packet", "a"), ("request", "b"), ("packet", "c")])
        self.assertEqual(self.successResultOf(answer), "b")
        self.assertEqual(self.accepted.session.inbox.untaken, 0)
        self.assertEqual(len(self.accepted.retrieved), 0)

    def test_slow(self) -> None:
        """A request that stays open does not keep in the spool what came after it."""
        self.serving()
        client = self.service()
        client.request("slow").addErrback(lambda failure: None)
        self.network.deliver()
        slow = self.accepted.retrieved.getData()
        assert isinstance(slow, Request)
        for number in range(20):
            client.sendData(bytes(10))
            client.request(str(number))
            self.network.deliver()
            while (packet := self.accepted.retrieved.getData()) is not None:
                if isinstance(packet, Request):
                    packet.answer("")
        self.network.deliver()
        self.killServer()
        (stored,) = self.stored(self.path)
        self.assertEqual(stored.incoming, [])
        self.assertEqual([blob.number for blob in stored.requests], [0])
        self.assertEqual(stored.state["taken"], [])


class AskerKilledTests(SpoolTestCase):
    """The client has a spool, and is killed."""

    def test_answers(self) -> None:
        """What a former process has asked is answered among the packets, once."""
        later = Later()
        self.serving(Answerer(later))
        client = self.service(spool=self.clientPath)
        connection = self.durable(client.former)
        number = connection.nextNumber
        for each in ("a", "b", "c"):
            client.request(each)
        self.network.deliver()
        later.begun["a"].callback("A")
        self.network.deliver()
        self.killService(client)
        later.begun["b"].callback("B")
        later.begun["c"].errback(RequestFailed(7, "no"))
        client = self.service(spool=self.clientPath)
        asked = client.request("d")
        self.settle()
        later.begun["d"].callback("D")
        self.settle()
        self.assertEqual(self.successResultOf(asked), "D")
        self.killService(client)
        client = self.service(spool=self.clientPath)
        self.settle()
        answers = []
        while (packet := client.retrieved.getData()) is not None:
            assert isinstance(packet, Answer)
            failure = packet.failure
            answers.append(
                (packet.number - number, packet.data, failure and failure.code)
            )
        self.assertEqual(answers, [(1, "B", None), (2, None, 7)])
        self.network.deliver()
        self.killService(client)
        client = self.service(spool=self.clientPath)
        self.assertEqual(len(client.retrieved), 0)

    def test_sessionLost(self) -> None:
        """Who still waits is told if the session is lost, with a spool, too."""
        self.serving(Answerer(lambda connection, packet: Deferred()), sessionGrace=1)
        client = self.service(spool=self.clientPath)
        answer = client.request("?")
        self.network.deliver()
        factory, self.network.factory = self.network.factory, None
        self.network.links[0].cut()
        self.network.advance(5)
        self.network.factory = factory
        self.settle()
        self.failureResultOf(answer, SessionLost)


class ServerAsksTests(SpoolTestCase):
    """The server has a spool, and is killed after it has asked."""

    def ask(self, handler: Any = None, **options: Any) -> tuple[ClientService, Request]:
        """Ask a client, which is to answer."""
        self.serving(handler, **options)
        client = self.service()
        self.accepted.request("who?").addErrback(lambda failure: None)
        self.network.deliver()
        packet = client.retrieved.getData()
        assert isinstance(packet, Request)
        return client, packet

    def test_handler(self) -> None:
        """
        A handler gets the answer as a packet, after what came before it; also if it was
        in C{retrieved} of a process without a handler.
        """
        for first in (None, Answerer(same)):
            for between in (None, Answerer(same)):
                got: list[Any] = []

                def take(
                    connection: Connection, packet: Packet, got: Any = got
                ) -> None:
                    """Keep what comes."""
                    got.append(packet)

                client, packet = self.ask(first)
                self.killServer()
                client.sendData("before")
                packet.answer("I")
                client.sendData("behind")
                if between is None:
                    self.serving()
                    self.settle()
                    self.killServer()
                self.serving(Answerer(same, take))
                self.settle()
                self.assertEqual(
                    [each.data for each in got],
                    ["before", "I", "behind"],
                    (first, between),
                )
                self.assertEqual([type(each) for each in got], [Packet, Answer, Packet])
                self.assertEqual(self.accepted.session.inbox.untaken, 0)
                self.stopService(client)
                self.stopServer()
                self.path = self.path.with_name(self.path.name + "x")

    def test_together(self) -> None:
        """Answers to former and to present requests may come together."""
        client, packet = self.ask()
        self.killServer()
        self.serving()
        self.settle()
        asked = self.accepted.request("and now?")
        self.network.deliver()
        other = client.retrieved.getData()
        assert isinstance(other, Request)
        client.sendData("alone")
        packet.answer("former")
        other.answer("present")
        self.settle()
        self.assertEqual(self.successResultOf(asked), "present")
        self.assertEqual(self.taking(self.accepted.retrieved), ["alone", "former"])


class NoRoomTests(SpoolTestCase):
    """The disk is full meanwhile."""

    def test_handler(self) -> None:
        """No request is begun before it could be written, nor is anything lost."""
        handler = Answerer(same)
        self.serving(handler)
        client = self.service()
        back = self.accepted.request("back?")
        self.network.deliver()
        packet = client.retrieved.getData()
        assert isinstance(packet, Request)
        self.workers[0].room = False
        sent = client.sendData("fails to be written")
        self.network.deliver()
        answer = client.request("?")
        packet.answer("yes")
        self.network.advance(5)
        self.assertEqual(handler.asked, [])
        self.assertNoResult(answer)
        self.workers[0].room = True
        self.network.advance(5)
        self.successResultOf(sent)
        self.assertEqual(self.successResultOf(answer), "?")
        self.assertEqual(self.successResultOf(back), "yes")
        self.assertEqual(self.accepted.session.inbox.untaken, 0)


class LedgerTests(SpoolTestCase):
    """Both have spools, and are killed at any time."""

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(
            st.sampled_from(
                ["ask", "ask", "ask", "answer", "deliver", "client", "server", "cut"]
            ),
            max_size=40,
        )
    )
    def test_anything(self, steps: list[str]) -> None:
        """
        Each request is answered once: by its Deferred or, to the next process, by an
        L{Answer}; or it was never in the spool.  No handler's answer is given twice.
        """
        self.setUp()
        waiting: list[tuple[Any, Request, Deferred[Any]]] = []
        asked: dict[str, int] = {}  # the number of each
        answered: dict[int, list[Any]] = {}

        def react(connection: Connection, packet: Request) -> Deferred[Any]:
            """Answer later."""
            waiting.append((packet.data, packet, Deferred()))
            return waiting[-1][2]

        def collect(client: ClientService) -> None:
            """
            Take the answers to what former processes asked, and live until that is
            written: else they are there again.
            """
            while (packet := client.retrieved.getData()) is not None:
                assert isinstance(packet, Answer)
                answered.setdefault(packet.number, []).append(packet.data)
            assert client._journal is not None
            client._journal.writeNow()

        def answer() -> None:
            """Answer the oldest, if that is still to be done."""
            if waiting:
                data, _, deferred = waiting.pop(0)
                deferred.callback(data)

        self.serving(Answerer(react))
        client = self.service(spool=self.clientPath)
        for step, what in enumerate(steps):
            match what:
                case "ask":
                    connection = client.former
                    assert connection is not None
                    name, number = str(step), connection.nextNumber
                    asked[name] = number
                    client.request(name).addCallbacks(
                        lambda data, number=number: answered.setdefault(
                            number, []
                        ).append(data),
                        lambda failure: None,
                    )
                case "answer":
                    answer()
                case "deliver":
                    self.network.deliver()
                case "client":
                    self.killService(client)
                    client = self.service(spool=self.clientPath, deliver=False)
                case "server":
                    self.killServer()
                    waiting.clear()
                    self.serving(Answerer(react))
                    self.network.advance(3)
                case "cut":
                    for link in self.network.links:
                        link.cut()
            collect(client)
        for _ in range(3):
            self.network.advance(30)
            while waiting:
                answer()
            self.network.deliver()
            collect(client)
        by = {number: name for name, number in asked.items()}
        for number, data in answered.items():
            self.assertEqual(data, [by[number]], steps)
        client_ = client.former
        assert client_ is not None
        # Whatever left, or was stored, is answered.
        for number in range(client_.nextNumber):
            self.assertIn(number, answered, steps)
        self.endAll()
