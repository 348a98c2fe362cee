"""
Tests for L{aesm.messages.requests} and L{aesm.messages.answering}: requests over a
connection, with a handler at the other side and without.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.defer import fail as failed
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm import (
    AESMError,
    Connection,
    ConnectionClosed,
    MessageTooBig,
    Packet,
    Request,
    RequestFailed,
    RequestTimeout,
    SendBufferFull,
)
from aesm.core.messages.batch import MAX_COSTS
from aesm.core.messages.frames import EncodedRequest, EncodedResponse
from aesm.interfaces import IMessageHandler
from aesm.messages.answering import MOST_RUNNING
from aesm.messages.owner import FAILURES_TOLD
from aesm.secure.places import BURST_SECONDS
from aesm.testing import ConnectedPair
from tests.support.pairs import PairTestCase, Recorder

React = Callable[[Connection, Request], Any]


@implementer(IMessageHandler)
class Answerer(Recorder):
    """
    A handler that remembers what it is told, requests among it.

    @ivar asked: the data of the requests, in the order in which they were begun.
    """

    def __init__(self, answer: React, react: Any = None) -> None:
        """
        @param answer: called with each request; its result is the handler's.
        @param react: as L{Recorder}.
        """
        super().__init__(react)
        self.asked: list[Any] = []
        self._answer = answer

    def requestReceived(self, connection: Connection, packet: Request) -> Any:
        """Remember it, and answer."""
        self.events.append(("request", packet.data))
        self.asked.append(packet.data)
        return self._answer(connection, packet)


def same(connection: Connection, packet: Request) -> Any:
    """Answer with the same."""
    return packet.data


def fail(connection: Connection, packet: Request) -> Any:
    """Fail."""
    raise ZeroDivisionError


class Later:
    """
    Answers when the test says so.

    @ivar begun: what fires with the answer, by the data of the request.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.begun: dict[Any, Deferred[Any]] = {}

    def __call__(self, connection: Connection, packet: Request) -> Deferred[Any]:
        """Have the answer later."""
        self.begun[packet.data] = Deferred()
        return self.begun[packet.data]


class AskTests(PairTestCase):
    """Tests for C{Connection.request}, and requests that no handler takes."""

    def taken(self, connection: Connection) -> Request:
        """Take the oldest packet, which is a request."""
        packet = connection.retrieved.getData()
        assert isinstance(packet, Request)
        return packet

    def test_answer(self) -> None:
        """A request waits among the packets, is one, and is answered once."""
        pair = self.pair()
        pair.client.sendData("before")
        answer = pair.client.request("what?")
        pair.client.sendData("behind")
        pair.deliver()
        retrieved = pair.accepted.retrieved
        self.assertEqual([data for _, data in retrieved], ["before", "what?", "behind"])
        self.assertIs(type(retrieved[0]), Packet)
        retrieved.getData()
        request = self.taken(pair.accepted)
        self.assertEqual((request.data, request.number), ("what?", 1))
        self.assertNoResult(answer)
        sent = request.answer("that")
        pair.deliver()
        self.assertEqual(self.successResultOf(answer), "that")
        self.successResultOf(sent)
        self.assertRaises(RuntimeError, request.answer, "more")
        self.assertRaises(RuntimeError, request.refuse)

    def test_kinds(self) -> None:
        """Text is answered as text and bytes as bytes, whatever was asked."""
        pair = self.pair(Answerer(lambda connection, packet: replies[packet.data]))
        replies: dict[Any, Any] = {
            "": b"",
            b"": "",
            "Grüße": "世界 🌍",
            b"\xff": b"\x00" * 70_000,
            "view": memoryview(b"abc"),
        }
        answers = {data: pair.client.request(data) for data in replies}
        pair.deliver()
        for data, answer in answers.items():
            self.assertEqual(self.successResultOf(answer), replies[data])

    def test_bothWays(self) -> None:
        """A server asks its clients, by their addresses, as they ask it."""
        pair = self.pair()
        address = pair.accepted.address
        answer = pair.server.request("who?", address)
        other = pair.client.request("and you?")
        pair.deliver()
        self.taken(pair.client).answer("I")
        self.taken(pair.accepted).answer("the server")
        pair.deliver()
        self.assertEqual(self.successResultOf(answer), "I")
        self.assertEqual(self.successResultOf(other), "the server")
        nobody = pair.server.request("who?", ("192.0.2.1", 1))
        self.failureResultOf(nobody, ConnectionClosed)

    def test_refused(self) -> None:
        """A refusal has a code and words."""
        pair = self.pair()
        answers = [pair.client.request("?") for _ in range(3)]
        pair.deliver()
        self.taken(pair.accepted).refuse("no", 65535)
        self.taken(pair.accepted).refuse()
        last = self.taken(pair.accepted)
        self.assertRaises(ValueError, last.refuse, "no", 65536)
        last.refuse("ü" * 1000)
        pair.deliver()
        errors = [self.failureResultOf(each, RequestFailed).value for each in answers]
        self.assertEqual(
            [(each.code, each.reason) for each in errors],
            [(65535, "no"), (1008, ""), (1008, "ü" * 512)],
        )

    def test_full(self) -> None:
        """Without room nothing is sent; a withdrawal is not waited for either."""
        pair = self.pair(client={"sendBuffer": 200})
        (link,) = pair.network.links
        link.toServer.stalled = True
        answer = pair.client.request(bytes(100))
        self.failureResultOf(pair.client.request(bytes(100)), SendBufferFull)
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual(pair.client.session.outbox.count, 1)
        link.toServer.stalled = False
        pair.deliver()
        self.taken(pair.accepted).answer("late")
        pair.deliver()
        self.assertEqual(pair.client.session.outbox.asked, {})

    def test_wrongTypes(self) -> None:
        """What is no message can be neither asked nor answered."""
        pair = self.pair()
        nothing: Any = None
        self.assertRaises(TypeError, pair.client.request, nothing)
        self.assertRaises(ValueError, pair.client.request, "\ud800")
        answer = pair.client.request("?")
        pair.deliver()
        request = self.taken(pair.accepted)
        self.assertRaises(TypeError, request.answer, nothing)
        request.answer("!")
        pair.deliver()
        self.assertEqual(self.successResultOf(answer), "!")

    def test_views(self) -> None:
        """Bytes may be those of any view, whatever its layout, as in a message."""
        pair = self.pair()
        views = memoryview(b"a-b-c")[::2], memoryview(array("H", [1, 2]))
        for view in views:
            answer = pair.client.request(view)
            pair.deliver()
            request = self.taken(pair.accepted)
            self.assertEqual(request.data, bytes(view))
            request.answer(view)
            pair.deliver()
            self.assertEqual(self.successResultOf(answer), bytes(view))

    def test_timeout(self) -> None:
        """
        Who has waited long enough is told so, in the words of each library, and the
        other side that nobody waits any more; its answer is dropped, and counted.
        """
        pair = self.pair()
        answer = pair.server.request("?", pair.accepted.address, timeout=5)
        pair.advance(4.9)
        request = self.taken(pair.client)
        self.assertFalse(request.isWithdrawn)
        pair.advance(0.2)
        error = self.failureResultOf(answer, RequestTimeout).value
        for kind in (AESMError, TimeoutError, DeferredTimeout):
            self.assertIsInstance(error, kind)
        self.assertTrue(request.isWithdrawn)
        sent = request.answer("late")
        pair.deliver()
        self.successResultOf(sent)
        self.assertEqual(pair.server.factory.manager.traffic.lateAnswers, 1)

    def test_wrongTimeout(self) -> None:
        """What is no time to wait is refused at once, and nothing is sent."""
        pair = self.pair()
        for wrong in (-1, -0.001, float("nan")):
            self.assertRaises(ValueError, pair.client.request, "?", timeout=wrong)
        for strange in ("5", Decimal(5)):  # which no clock can add to its time
            self.assertRaises(TypeError, pair.client.request, "?", timeout=strange)
        tooLarge = (OverflowError, TypeError)  # for a float; compiled, it is none
        self.assertRaises(tooLarge, pair.client.request, "?", timeout=10**400)
        pair.deliver()
        self.assertEqual(len(pair.accepted.retrieved), 0)
        answer = pair.client.request("?", timeout=float("inf"))
        pair.deliver()
        self.taken(pair.accepted).answer("!")
        pair.deliver()
        self.assertEqual(self.successResultOf(answer), "!")

    def test_cancelled(self) -> None:
        """Cancelling a request tells the other side; an answer under way is dropped."""
        pair = self.pair()
        answers = [pair.client.request("?") for _ in range(2)]
        pair.deliver()
        crossing = self.taken(pair.accepted)
        crossing.answer("crossing")
        for answer in answers:
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        pair.deliver()
        self.assertTrue(self.taken(pair.accepted).isWithdrawn)
        self.assertFalse(crossing.isWithdrawn)

    def test_cancelledTogether(self) -> None:
        """
        The first of answers that come together may cancel the request of the second.
        """
        pair = self.pair(Answerer(same))
        # The first of a turn leaves alone.
        _, first, second = (pair.client.request("?") for _ in range(3))
        first.addCallback(lambda answer: second.cancel())
        pair.deliver()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(pair.client.session.outbox.asked, {})
        self.assertEqual(pair.client.session.outbox.count, 3)

    def test_notTaken(self) -> None:
        """
        Who has asked is told of the end if the answer comes when nothing is taken any
        more: behind what a coroutine read last.
        """
        answers: list[Deferred[str | bytes]] = []

        async def talk(connection: Connection) -> None:
            """Ask, and do not wait for that."""
            answers.extend(connection.request(data) for data in "abc")
            await connection.retrieved.get()
            answers[1].cancel()

        pair = self.pair(talk)
        pair.deliver()
        requests = [self.taken(pair.client) for _ in "abc"]
        pair.client.sendData("enough")
        for request in requests:
            request.answer("!")
        answers[0].addErrback(lambda failure: answers[2].cancel())
        pair.deliver()
        self.assertIsNone(self.successResultOf(answers[0]))
        for each in answers[1:]:
            self.failureResultOf(each, CancelledError)

    def test_ended(self) -> None:
        """With the connection ends all that waits, at both sides."""
        pair = self.pair()
        mine = pair.client.request("?")
        theirs = pair.accepted.request("?")
        pair.deliver()
        request = self.taken(pair.accepted)
        pair.client.close()
        pair.deliver()
        self.failureResultOf(mine, ConnectionClosed)
        self.failureResultOf(theirs, ConnectionClosed)
        self.failureResultOf(request.answer("too late"), ConnectionClosed)
        self.failureResultOf(pair.client.request("too late"), ConnectionClosed)

    def test_tooBig(self) -> None:
        """The bound of a message is one of the data; a refusal always fits."""
        pair = self.pair(maxMessage=3)
        self.failureResultOf(pair.client.request("four"), MessageTooBig)
        answer, other = pair.client.request("abc"), pair.client.request("abc")
        pair.deliver()
        request = self.taken(pair.accepted)
        self.failureResultOf(request.answer("four"), MessageTooBig)
        request.answer("def")
        self.taken(pair.accepted).refuse("words of more than that")
        pair.deliver()
        self.assertEqual(self.successResultOf(answer), "def")
        self.failureResultOf(other, RequestFailed)

    def test_window(self) -> None:
        """What is open uses up the window, and what is answered makes room again."""
        pair = self.pair(server={"receiveBuffer": 10 * 65})
        inbox = pair.accepted.session.inbox
        answers = [pair.client.request("") for _ in range(30)]
        pair.deliver()
        self.assertEqual(inbox.received, 10)
        while pair.accepted.retrieved:
            self.taken(pair.accepted).answer("")
            pair.deliver()
        for answer in answers:
            self.successResultOf(answer)
        self.assertEqual(inbox.untaken, 0)

    def test_parts(self) -> None:
        """
        Of many that are asked in one turn those that fill a BATCH leave before the turn
        is over: the other side begins with them.
        """
        pair = self.pair(Answerer(same))
        inFlight = pair.network.links[0].toServer.inFlight
        most = MAX_COSTS[EncodedRequest] // (64 + 1 + 64)  # overhead, prefix, data
        answers = [pair.client.request(bytes(64))]  # leaves at once
        first = len(inFlight)
        for count, left in ((most - 1, 0), (1, 0), (1, 65 * most), (most - 1, 0)):
            before = len(inFlight)
            answers += [pair.client.request(bytes(64)) for _ in range(count)]
            if left:
                self.assertGreater(len(inFlight) - before, left)
            else:
                self.assertEqual(len(inFlight), before)
        self.assertLess(len(inFlight) - first, 70 * most)
        pair.deliver()
        for answer in answers:
            self.assertEqual(self.successResultOf(answer), bytes(64))

    def test_partsWhileHeld(self) -> None:
        """What the transport does not take waits, and leaves in its order."""
        pair = self.pair(Answerer(same))
        (link,) = pair.network.links
        link.toServer.stalled = True
        asked = [b"%d" % number for number in range(5000)]
        answers = [pair.client.request(data) for data in asked]
        pair.clock.advance(0)
        link.toServer.stalled = False
        pair.deliver()
        self.assertEqual([self.successResultOf(answer) for answer in answers], asked)

    def test_without(self) -> None:
        """A peer that does not say that it takes requests gets none."""
        pair = self.pair()
        for connection in (pair.client, pair.accepted):
            outbox = connection.session.outbox
            outbox.peer = replace(outbox.peer, requests=False)
            error = self.failureResultOf(connection.request("?"), RequestFailed).value
            self.assertEqual(error.code, 1003)
            self.assertEqual(connection.session.outbox.count, 0)


class HandlerTests(PairTestCase):
    """Tests for C{requestReceived}."""

    def ask(self, pair: ConnectedPair, *data: Any) -> list[Deferred[Any]]:
        """Ask, and deliver."""
        answers = [pair.client.request(each) for each in data]
        pair.deliver()
        return answers

    def test_results(self) -> None:
        """The answer comes at once, by a Deferred, or of a coroutine."""

        async def coroutine() -> str:
            """Wait, and answer."""
            return "c" + await succeed("d")

        results: dict[Any, Any] = {
            "now": "a",
            "deferred": succeed("b"),
            "coroutine": coroutine(),
        }
        pair = self.pair(Answerer(lambda connection, packet: results[packet.data]))
        answers = self.ask(pair, *results)
        self.assertEqual([*map(self.successResultOf, answers)], ["a", "b", "cd"])

    def test_failures(self) -> None:
        """
        Who raises L{RequestFailed} refuses; any other error, and what is no answer, is
        logged and an internal error.  The connection stays.
        """

        def react(connection: Connection, packet: Request) -> Any:
            """Refuse, or fail."""
            if packet.data == "refuse":
                raise RequestFailed(4711, "not today")
            if packet.data == "fail":
                raise ZeroDivisionError
            return None

        pair = self.pair(Answerer(react))
        answers = self.ask(pair, "refuse", "fail", "nothing")
        errors = [self.failureResultOf(each, RequestFailed).value for each in answers]
        self.assertEqual([each.code for each in errors], [4711, 1011, 1011])
        self.assertEqual(errors[1].reason, "internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(pair.client.isOpen)

    def test_logged(self) -> None:
        """The log says over which connection, and keeps nothing of it."""
        pair = self.pair(Answerer(lambda connection, packet: 1 // 0))
        with capturedLogs() as events:
            (answer,) = self.ask(pair, "fail")
        self.failureResultOf(answer, RequestFailed)
        (event,) = [e for e in events if e["log_level"] is LogLevel.critical]
        self.assertEqual(event["connection"], repr(pair.accepted))
        self.assertKeepsNothing(event)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_manyFailures(self) -> None:
        """
        Of one key, which may know what makes a handler fail, so many are in the log at
        once, and then one a second; all are refused.
        """

        def react(connection: Connection, packet: Request) -> Any:
            """Fail."""
            raise ZeroDivisionError

        pair = self.pair(Answerer(react))
        most = int(FAILURES_TOLD * BURST_SECONDS)
        for asked, told in ((most - 1, most - 1), (5, 1), (5, 0)):
            for answer in self.ask(pair, *["fail"] * asked):
                self.failureResultOf(answer, RequestFailed)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), told)
        pair.advance(1)
        for answer in self.ask(pair, "fail", "fail"):
            self.failureResultOf(answer, RequestFailed)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_wrongRefusals(self) -> None:
        """
        What L{RequestFailed} has and no request can be refused with is a failure as any
        other, and nobody waits for ever.
        """
        strange: Any = (None, 1008.5, "1008")
        wrongs = [RequestFailed(code) for code in (70000, -1, *strange)]
        wrongs.append(RequestFailed(1008, strange))

        def react(connection: Connection, packet: Request) -> Any:
            """Refuse, at once or later."""
            number, isLater = str(packet.data).split()
            if isLater == "True":
                return failed(wrongs[int(number)])
            raise wrongs[int(number)]

        pair = self.pair(Answerer(react))
        for isLater in (False, True):
            asked = [f"{number} {isLater}" for number in range(len(wrongs))]
            for answer in [*self.ask(pair, *asked), *self.ask(pair, asked[0])]:
                error = self.failureResultOf(answer, RequestFailed).value
                self.assertEqual(error.code, 1011)
            self.assertEqual(len(self.flushLoggedErrors()), len(wrongs) + 1)
            pair.advance(BURST_SECONDS)
        self.assertTrue(pair.client.isOpen)

    def test_none(self) -> None:
        """A handler without the method refuses."""
        pair = self.pair(Recorder())
        (answer,) = self.ask(pair, "?")
        error = self.failureResultOf(answer, RequestFailed).value
        self.assertEqual(error.code, 1003)

    def test_byItself(self) -> None:
        """A handler may answer with the request's own method, and return nothing."""
        pair = self.pair(
            Answerer(lambda connection, packet: packet.answer("!") and None)
        )
        (answer,) = self.ask(pair, "?")
        self.assertEqual(self.successResultOf(answer), "!")

    def test_besideEachOther(self) -> None:
        """
        Requests are begun in order with packets; one that takes its time holds back
        neither other requests, nor packets behind it, nor what is acknowledged.
        """
        later = Later()
        handler = Answerer(later)
        pair = self.pair(handler)
        slow = pair.client.request("slow")
        pair.client.sendData("packet")
        fast = pair.client.request("fast")
        sent = pair.client.sendData("last")
        pair.deliver()
        self.successResultOf(sent)
        self.assertEqual(
            handler.events[1:],
            [
                ("request", "slow"),
                ("packet", "packet"),
                ("request", "fast"),
                ("packet", "last"),
            ],
        )
        later.begun["fast"].callback("f")
        pair.deliver()
        self.assertEqual(self.successResultOf(fast), "f")
        self.assertNoResult(slow)
        later.begun["slow"].callback("s")
        pair.deliver()
        self.assertEqual(self.successResultOf(slow), "s")

    def test_behindPackets(self) -> None:
        """A request waits for packets before it that are not handled."""
        holding: Deferred[None] = Deferred()
        handler = Answerer(same, lambda connection, packet: holding)
        pair = self.pair(handler)
        pair.client.sendData("packet")
        (answer,) = self.ask(pair, "?")
        self.assertEqual(handler.asked, [])
        holding.callback(None)
        pair.deliver()
        self.assertEqual(self.successResultOf(answer), "?")

    def test_answersPass(self) -> None:
        """
        An answer is there at once, whatever the handler is doing: what it does may wait
        for just that; and it is acknowledged in its turn.
        """

        async def ask(connection: Connection, packet: Packet) -> None:
            """Ask back, before the packet counts as handled."""
            got.append(await connection.request("back?"))

        got: list[Any] = []
        pair = self.pair(Recorder(ask))
        sent = pair.client.sendData("packet")
        pair.deliver()
        packet = pair.client.retrieved.getData()
        assert isinstance(packet, Request)
        self.assertNoResult(sent)
        packet.answer("yes")
        pair.deliver()
        self.assertEqual(got, ["yes"])
        self.successResultOf(sent)
        self.assertEqual(pair.accepted.session.inbox.untaken, 0)

    def test_most(self) -> None:
        """So many run at a time; the next, and what is behind it, waits."""
        later = Later()
        handler = Answerer(later)
        pair = self.pair(handler)
        answers = self.ask(pair, *(str(number) for number in range(MOST_RUNNING)))
        more = self.ask(pair, "more", "most")
        sent = pair.client.sendData("behind")
        pair.deliver()
        self.assertEqual(len(handler.asked), MOST_RUNNING)
        self.assertEqual(handler.data, [])
        later.begun["7"].callback("!")
        pair.deliver()
        self.assertEqual(handler.asked[MOST_RUNNING:], ["more"])
        later.begun["more"].callback("!")
        pair.deliver()
        self.assertEqual(self.successResultOf(more[0]), "!")
        self.assertEqual(handler.asked[MOST_RUNNING:], ["more", "most"])
        self.assertEqual(handler.data, ["behind"])
        self.successResultOf(sent)
        for each in later.begun.values():
            if not each.called:
                each.callback("end")
        pair.deliver()
        for answer in answers:
            self.successResultOf(answer)

    def test_withdrawn(self) -> None:
        """What nobody waits for any more is cancelled, or not begun."""
        later = Later()
        holding: Deferred[None] = Deferred()
        handler = Answerer(later, lambda connection, packet: holding)
        pair = self.pair(handler)
        (running,) = self.ask(pair, "running")
        pair.client.sendData("holds up")
        waiting, other = self.ask(pair, "waiting", "other")
        for answer in (running, waiting):
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        pair.deliver()
        self.assertTrue(later.begun["running"].called)
        holding.callback(None)
        pair.deliver()
        self.assertEqual(handler.asked, ["running", "other"])
        later.begun["other"].callback("!")
        pair.deliver()
        self.assertEqual(self.successResultOf(other), "!")
        for connection in (pair.client, pair.accepted):
            self.assertEqual(connection.requests.open, {})
            self.assertEqual(connection.session.inbox.untaken, 0)
        self.assertEqual(pair.client.session.outbox.asked, {})

    def test_shared(self) -> None:
        """
        One Deferred may answer several requests, also some that come later; who asked
        and does not wait any more takes it from nobody.
        """
        refusal = RequestFailed(4711, "not today")
        for outcome in ("!", refusal):
            shared: Deferred[Any] = Deferred()
            pair = self.pair(Answerer(partial(lambda given, *_: given, shared)))
            answers = self.ask(pair, "first", "second", "third")
            withdrawn = answers.pop(1)
            withdrawn.cancel()
            self.failureResultOf(withdrawn, CancelledError)
            pair.deliver()
            shared.callback(Failure(refusal) if outcome is refusal else outcome)
            pair.deliver()
            answers += self.ask(pair, "late")
            for each in answers:
                if outcome is refusal:
                    error = self.failureResultOf(each, RequestFailed).value
                    self.assertEqual(error.code, 4711)
                else:
                    self.assertEqual(self.successResultOf(each), "!")

    def test_manyWithdrawn(self) -> None:
        """
        However many were withdrawn before they were begun, they are not looked through
        for each that is; of numbers that are of no requests, few are kept.
        """
        looks = 0

        class Looked(set[int]):
            """Counts who is looked at."""

            def __iter__(self) -> Iterator[int]:
                """Count each."""
                nonlocal looks
                for each in super().__iter__():
                    looks += 1
                    yield each

        begun: Deferred[None] = Deferred()
        handler = Answerer(same, lambda *arguments: begun)
        pair = self.pair(handler)
        self.ask(pair, "first")
        pair.client.sendData("wait")
        dispatcher: Any = pair.accepted.dispatcher
        answering = dispatcher._answering
        answers = self.ask(pair, *map(str, range(5000)))
        for answer in answers:
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
        pair.deliver()
        answering._withdrawn = Looked(answering._withdrawn)
        self.assertEqual(len(answering._withdrawn), 5000)
        begun.callback(None)
        pair.deliver()
        self.assertEqual(handler.asked, ["first"])
        self.assertEqual(looks, 0)
        answering._withdrawn = set(range(answering._most))
        answering.withdrawn(1 << 20)
        self.assertEqual(answering._withdrawn, {1 << 20})

    def test_withdrawnWhileWaiting(self) -> None:
        """One for which there is no room yet is not begun if it is withdrawn."""
        later = Later()
        handler = Answerer(later)
        pair = self.pair(handler)
        answers = self.ask(pair, *map(str, range(MOST_RUNNING)))
        (waiting,) = self.ask(pair, "waiting")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        pair.deliver()
        for each in later.begun.values():
            each.callback("!")
        pair.deliver()
        for answer in answers:
            self.successResultOf(answer)
        self.assertNotIn("waiting", handler.asked)

    def test_gone(self) -> None:
        """What is done for a request of who is gone may end as it likes."""
        later = Later()
        pair = self.pair(Answerer(later))
        answers = self.ask(pair, "a", "b", "c")
        pair.client.abort()
        pair.deliver()
        later.begun["a"].callback("!")
        later.begun["b"].errback(RequestFailed(7))
        later.begun["c"].errback(ConnectionClosed("gone"))
        for answer in answers:
            self.failureResultOf(answer, ConnectionClosed)

    def test_room(self) -> None:
        """An answer that is ready waits for room, too."""
        later = Later()
        pair = self.pair(Answerer(later), server={"sendBuffer": 10_000})
        (link,) = pair.network.links
        answers = self.ask(pair, *(str(number) for number in range(20)))
        link.toClient.stalled = True
        for each in later.begun.values():
            each.callback(bytes(1000))
        pair.deliver()
        self.assertLess(pair.accepted.session.outbox.keptCost, 10_000)
        self.assertTrue(pair.accepted.isOpen)
        link.toClient.stalled = False
        pair.deliver()
        for answer in answers:
            self.assertEqual(self.successResultOf(answer), bytes(1000))

    def test_rates(self) -> None:
        """Requests count for what a key may send a second."""
        handler = Answerer(same)
        pair = self.pair(handler, server={"bytesPerKey": 1000})
        answers = [self.ask(pair, bytes(500))[0] for _ in range(10)]
        self.assertEqual(len(handler.asked), 4)
        pair.advance(10)
        for answer in answers:
            self.successResultOf(answer)

    def test_inPieces(self) -> None:
        """
        What the handler is done with is counted as it goes, whatever is between: here
        the second packet takes its time, with an answer behind it.
        """
        holding: list[Deferred[None]] = []

        def hold(connection: Connection, packet: Packet) -> Deferred[None] | None:
            """Take time for some."""
            if packet.data != "hold":
                return None
            holding.append(Deferred())
            return holding[-1]

        pair = self.pair(Answerer(same, hold))
        back = pair.accepted.request("back?")
        pair.deliver()
        request = pair.client.retrieved.getData()
        assert isinstance(request, Request)
        pair.client.sendData("hold")
        pair.deliver()
        answers = [pair.client.request("a")]
        request.answer("yes")
        acknowledged = [pair.client.sendData(each) for each in ("b", "hold", "c")]
        answers.append(pair.client.request("d"))
        pair.deliver()
        self.assertEqual(self.successResultOf(back), "yes")
        self.assertNoResult(acknowledged[0])
        holding[0].callback(None)
        pair.deliver()
        self.assertEqual(self.successResultOf(answers[0]), "a")
        self.successResultOf(acknowledged[0])
        self.assertNoResult(acknowledged[1])
        self.assertNoResult(answers[1])
        holding[1].callback(None)
        pair.deliver()
        for each in acknowledged[1:]:
            self.successResultOf(each)
        self.assertEqual(self.successResultOf(answers[1]), "d")
        self.assertEqual(pair.accepted.session.inbox.untaken, 0)

    def test_parts(self) -> None:
        """
        Of the answers to many that came together those that fill a BATCH leave while
        the handler has the others: both sides are at work at the same time.
        """
        left: list[int] = []

        def answer(connection: Connection, request: Request) -> Any:
            """See what has left by now."""
            left.append(len(link.toClient.inFlight))
            return request.data

        pair = self.pair(Answerer(answer))
        (link,) = pair.network.links
        most = MAX_COSTS[EncodedResponse] // (64 + 9 + 64)  # overhead, prefix, data
        for _ in range(1 + most + 2):  # the first by itself
            pair.client.request(bytes(64))
        pair.clock.advance(0)
        link.server.receive(1 << 20)
        self.assertEqual(set(left[: most + 2]), {0})
        self.assertGreater(left[most + 2], 73 * most)
        pair.deliver()

    def test_tooBig(self) -> None:
        """An answer that is larger than the other side takes is a refusal."""
        pair = self.pair(
            Answerer(lambda *arguments: bytes(11)), client={"maxMessage": 10}
        )
        (answer,) = self.ask(pair, "?")
        self.assertEqual(self.failureResultOf(answer, RequestFailed).value.code, 1009)

    def test_notTaken(self) -> None:
        """Who asks and does not take the answers is held back, and not closed."""
        handler = Answerer(lambda connection, packet: bytes(1000))
        pair = self.pair(handler, server={"sendBuffer": 10_000})
        (link,) = pair.network.links
        link.toClient.stalled = True
        answers = self.ask(pair, *(str(number) for number in range(100)))
        self.assertLess(len(handler.asked), 20)
        link.toClient.stalled = False
        pair.deliver()
        for answer in answers:
            self.assertEqual(self.successResultOf(answer), bytes(1000))
