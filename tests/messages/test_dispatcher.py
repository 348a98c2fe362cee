"""
Tests for L{aesm.messages.dispatcher}: handlers get packets one at a time and in order,
and a packet counts as ours once its handler is done.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from concurrent import futures
from dataclasses import replace
from itertools import product
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from zope.interface.verify import verifyObject

from aesm import AESMError, Connection, Packet
from aesm.core.messages.frames import EncodedBodies, EncodedText, Messages
from aesm.interfaces import IMessageHandler
from aesm.messages import running
from aesm.messages.dispatcher import (
    DISPATCHER_TRANSITIONS,
    Dispatcher,
    DispatcherState,
)
from aesm.messages.stream import costOf
from aesm.messages.turns import QUANTUM, Rates, Turns
from aesm.testing import ConnectedPair
from tests.support.helpers import oneTurn
from tests.support.pairs import CLIENT_KEY, PairTestCase, Recorder


class OrderTests(PairTestCase):
    """Results of handlers hold back the acknowledgement, and the next packet."""

    def test_interface(self) -> None:
        """The handler of these tests is one."""
        verifyObject(IMessageHandler, Recorder())

    def test_told(self) -> None:
        """
        A handler is told of the connection, of each packet, and of the end, once;
        nothing stays in the stream.
        """
        handler = Recorder()
        pair = self.pair(handler)
        sent = [pair.client.sendData(data) for data in ("a", b"b", "")]
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.assertEqual(len(pair.accepted.retrieved), 0)
        pair.client.close()
        pair.deliver()
        names = ["accepted", "packet", "packet", "packet", "lost"]
        self.assertEqual(handler.names, names)
        self.assertEqual(handler.data, ["a", b"b", ""])
        self.assertIs(handler.events[0][1], pair.accepted)
        self.assertEqual(handler.events[-1][1].code, 1000)

    def test_deferred(self) -> None:
        """A Deferred holds back the acknowledgement and the next packet."""
        working: list[Deferred[None]] = []

        def react(connection: Connection, packet: Packet) -> Deferred[None]:
            """Ask for time."""
            working.append(Deferred())
            return working[-1]

        handler = Recorder(react)
        pair = self.pair(handler)
        sent = [pair.client.sendData(data) for data in "abc"]
        for number in range(3):
            pair.deliver()
            self.assertEqual(handler.data, list("abc")[: number + 1])
            self.assertEqual([d.called for d in sent].count(True), number)
            working[number].callback(None)
        pair.deliver()
        self.successResultOf(sent[2])

    def test_coroutine(self) -> None:
        """A coroutine does, too."""
        waiting: Deferred[None] = Deferred()

        async def react(connection: Connection, packet: Packet) -> None:
            """Wait, then answer."""
            await waiting
            connection.sendData(f"re: {packet.data!r}")

        pair = self.pair(Recorder(react))
        sent = pair.client.sendData("a")
        pair.deliver()
        self.assertNoResult(sent)
        waiting.callback(None)
        pair.deliver()
        self.successResultOf(sent)
        self.assertEqual(pair.client.retrieved[0].data, "re: 'a'")

    def test_window(self) -> None:
        """A slow handler holds the client back."""
        handler = Recorder(lambda connection, packet: Deferred())
        pair = self.pair(handler, server={"receiveBuffer": 1000})
        for _ in range(100):
            pair.client.sendData("x" * 36)
        pair.deliver()
        self.assertEqual(handler.data, ["x" * 36])
        self.assertEqual(pair.client._outbox.sent, 10)

    def test_synchronousDeferreds(self) -> None:
        """
        Ten thousand Deferreds that have fired already need no stack, and no
        acknowledgement each.
        """
        handler = Recorder(lambda connection, packet: succeed(None))
        pair = self.pair(handler)
        for number in range(10_000):
            pair.client.sendData(str(number))
        last = pair.client.sendData("last")
        pair.deliver()
        self.successResultOf(last)
        self.assertEqual(len(handler.data), 10_001)

    def test_synchronousAfterOne(self) -> None:
        """
        The same after the first one took its time; they are acknowledged in one
        record.
        """
        first: Deferred[None] = Deferred()
        handler = Recorder(lambda *_: succeed(None) if first.called else first)
        pair = self.pair(handler)
        for number in range(10_000):
            pair.client.sendData(str(number))
        pair.deliver()
        self.assertEqual(handler.data, ["0"])
        first.callback(None)
        self.assertLess(len(pair.network.links[0].toClient.inFlight), 100)
        pair.deliver()
        self.assertEqual(len(handler.data), 10_000)
        self.assertEqual(pair.client._outbox.acknowledged, 10_000)

    def test_sendsToItself(self) -> None:
        """A handler may wait until its own answer has arrived."""
        handler = Recorder(lambda c, packet: c.sendData(packet.data or ""))
        pair = self.pair(handler)
        sent = [pair.client.sendData(str(n)) for n in range(10)]
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        echoed = [packet.data for packet in pair.client.retrieved]
        self.assertEqual(echoed, [str(n) for n in range(10)])

    def test_sendsToOthers(self) -> None:
        """A handler may send to others, in order, and close them."""
        network, server = self.serve(
            Recorder(
                lambda connection, packet: (
                    [
                        other.sendData(packet.data or "")
                        for other in server.connections.values()
                        if other is not connection
                    ]
                    and None
                )
            )
        )
        clients = [self.join(network) for _ in range(3)]
        for data in ("a", "b"):
            clients[0].sendData(data)
        network.deliver()
        for client in clients[1:]:
            self.assertEqual([p.data for p in client.retrieved], ["a", "b"])
        self.assertEqual(len(clients[0].retrieved), 0)

    def test_closes(self) -> None:
        """
        A handler may close the connection that it handles: the packets that came
        before are acknowledged, those behind are not handled.
        """

        def react(connection: Connection, packet: Packet) -> None:
            """Close at the right word."""
            if packet.data == "bye":
                connection.close("bye yourself")

        handler = Recorder(react)
        pair = self.pair(handler)
        sent = [pair.client.sendData(data) for data in ("a", "bye")]
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.assertEqual(self.closedReason(pair.client).reason, "bye yourself")
        self.assertEqual(handler.names, ["accepted", "packet", "packet", "lost"])

    def test_aborts(self) -> None:
        """Or abort it."""
        handler = Recorder(lambda connection, packet: connection.abort())
        pair = self.pair(handler)
        sent = [pair.client.sendData("x") for _ in range(3)]
        pair.deliver()
        self.assertClosed(sent[2])
        self.assertEqual(handler.names[-1], "lost")

    def test_abortsWhoCloses(self) -> None:
        """Also when the client's CLOSE came with the packet."""

        def react(connection: Connection, packet: Packet) -> None:
            """Abort at the last."""
            if packet.data == "last":
                connection.abort()

        handler = Recorder(react)
        pair = self.pair(handler)
        pair.client.sendData("first")
        pair.client.sendData("last")
        pair.client.close()
        pair.deliver()
        self.assertIn("aborted", str(self.closedReason(pair.accepted)))

    def test_closesAtOnce(self) -> None:
        """Or close it as soon as it is accepted."""

        class Closing(Recorder):
            """A handler that wants nobody."""

            def connectionAccepted(self, connection: Connection) -> None:
                """Close it."""
                super().connectionAccepted(connection)
                connection.sendData("go away")
                connection.close()

        handler = Closing()
        network, _ = self.serve(handler)
        client = self.join(network)
        self.assertEqual([p.data for p in client.retrieved], ["go away"])
        self.assertEqual(self.closedReason(client).code, 1000)
        self.assertEqual(handler.names, ["accepted", "lost"])

    def test_lostWhileWaiting(self) -> None:
        """
        If the connection is lost while a Deferred is pending, the handler is told,
        and what it says later changes nothing; packets that it has not seen are
        dropped.
        """
        for fire in (lambda d: d.callback(None), lambda d: d.cancel()):
            waiting: Deferred[None] = Deferred()
            handler = Recorder(lambda *_, waiting=waiting: waiting)
            pair = self.pair(handler)
            sent = [pair.client.sendData(data) for data in "ab"]
            pair.deliver()
            pair.network.links[0].cut()
            self.assertEqual(handler.names, ["accepted", "packet", "lost"])
            fire(waiting)
            self.assertEqual(handler.names, ["accepted", "packet", "lost"])
            for result in sent:
                self.assertClosed(result)
        self.flushLoggedErrors(CancelledError)

    def test_closedWhileWaiting(self) -> None:
        """
        A client that closes in order waits until its packets are handled, and
        then has all of them acknowledged.
        """
        waiting: Deferred[None] = Deferred()
        handler = Recorder(lambda *_: waiting)
        pair = self.pair(handler)
        sent = [pair.client.sendData(data) for data in "ab"]
        closed = pair.client.close()
        pair.advance(3)
        self.assertNoResult(closed)
        waiting.callback(None)
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.successResultOf(closed)
        self.assertEqual(handler.data, ["a", "b"])

    def test_echoToWhoCloses(self) -> None:
        """
        That an answer does not reach a client that has closed is no error of the
        handler that waits for it: it gets the other packets, too.
        """
        handler = Recorder(lambda c, packet: c.sendData(packet.data or ""))
        pair = self.pair(handler)
        sent = [pair.client.sendData(str(n)) for n in range(3)]
        pair.client.close()
        with capturedLogs() as events:
            pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.assertEqual(handler.data, ["0", "1", "2"])
        self.assertNotIn(LogLevel.critical, [e["log_level"] for e in events])
        self.assertEqual(self.closedReason(pair.accepted).code, 1000)

    def test_handlerOfClosed(self) -> None:
        """What a handler sends to a client that is gone goes nowhere, silently."""
        network, server = self.serve(Recorder())
        client = self.join(network)
        (accepted,) = server.connections.values()
        client.abort()
        network.deliver()
        accepted.sendData("x")

    def test_otherResults(self) -> None:
        """Whatever else a handler returns is nothing to wait for."""
        handler = Recorder(lambda connection, packet: len(packet.data or ""))
        pair = self.pair(handler)
        sent = [pair.client.sendData(data) for data in ("a", "")]
        pair.deliver()
        for result in sent:
            self.successResultOf(result)


class ClientOrderTests(OrderTests):
    """At a client it is as at a server: the same with the sides exchanged."""

    def pair(self, handler: object = None, **options: Any) -> ConnectedPair:
        """Make a client with a handler, and its server."""
        pair = super().pair(
            None,
            client={"handler": handler, **options.get("server", {})},
            server={"sessionGrace": 0},
        )
        return replace(pair, client=pair.accepted, accepted=pair.client)


class DispatcherTestCase(PairTestCase):
    """A dispatcher that is told by the test what arrives."""

    def setUp(self) -> None:
        """Hand over to a handler that asks for time where there is a question."""
        super().setUp()
        self.reports: list[tuple[int, int]] = []
        self.waiting: list[Deferred[None]] = []
        self.handler = Recorder(self.react)
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.dispatcher = self.make()

    def make(self, rates: Rates | None = None) -> Dispatcher:
        """Make a dispatcher."""
        return Dispatcher(
            self.handler,
            self.pair().client,
            lambda *report: self.reports.append(report),
            self.turns,
            rates,
        )

    def react(self, connection: Connection, packet: Packet) -> Deferred[None] | None:
        """Ask for time where there is a question."""
        if packet.data != "?":
            return None
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def arrive(self, *data: str | bytes) -> None:
        """Let messages come together."""
        costs = [costOf(one) for one in data]
        self.dispatcher.arrived(Messages(1, data, sum(costs), costs[-1]))


class Meddling(Deferred[None]):
    """A Deferred that does something when somebody waits for it."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        """@param meddle: what to do."""
        super().__init__()
        self.meddle = meddle

    def addErrback(self, *arguments: Any, **more: Any) -> Deferred[Any]:
        """Do it."""
        self.meddle()
        return super().addErrback(*arguments, **more)


class StateTests(DispatcherTestCase):
    """The life of a dispatcher goes as its table says."""

    def test_table(self) -> None:
        """
        What is in the table is where it goes; what is not, raises and changes
        nothing.
        """
        events = {what for _, what in DISPATCHER_TRANSITIONS}
        for state, what in product(DispatcherState, events):
            self.dispatcher.state = state
            if (state, what) in DISPATCHER_TRANSITIONS:
                self.dispatcher._step(what)
                following = DISPATCHER_TRANSITIONS[state, what]
                self.assertIs(self.dispatcher.state, following)
            else:
                self.assertRaises(KeyError, self.dispatcher._step, what)
                self.assertIs(self.dispatcher.state, state)

    def test_noWayBack(self) -> None:
        """All states can be reached, and what is over stays so."""
        reached = set(DISPATCHER_TRANSITIONS.values())
        self.assertEqual(reached, set(DispatcherState))
        for (state, _), following in DISPATCHER_TRANSITIONS.items():
            if state is DispatcherState.OVER:
                self.assertIs(following, state)

    def within(
        self, state: DispatcherState, act: Callable[[], object]
    ) -> DispatcherState:
        """
        Bring the dispatcher into a state, and do something there.

        @return: the state right afterwards.
        """
        after: list[DispatcherState] = []

        def react(connection: Connection, packet: Packet) -> Deferred[None] | None:
            """Do it at the first packet, and wait for the second."""
            if packet.data != "first":
                return self.react(connection, packet)
            if state is DispatcherState.ASKED:
                return Meddling(acting)
            acting()
            return None

        def acting() -> None:
            """Do it, once."""
            self.assertIs(self.dispatcher.state, state)
            act()
            after.append(self.dispatcher.state)

        self.handler.react = react
        match state:
            case DispatcherState.HANDING:
                self.arrive("first")
            case DispatcherState.ASKED:
                # Else what is asked is a Deferred of ours, which does nothing.
                self.patch(running, "follow", lambda given: given)
                self.arrive("first")
            case DispatcherState.WAITING:
                self.arrive("?")
                acting()
            case DispatcherState.OVER:
                self.dispatcher.stop()
                acting()
            case DispatcherState.YIELDED:
                self.handler.react = lambda *_: self.clock.advance(1)
                self.arrive(*"12345")
                self.handler.react = react
                acting()
            case DispatcherState.IDLE:
                acting()
        (state,) = after
        return state

    def test_everywhere(self) -> None:
        """In each state messages may arrive, and it may be stopped."""
        for state in DispatcherState:
            for what, act in (
                ("arrived", lambda: self.arrive("?", "x")),
                ("stopped", lambda: self.dispatcher.stop()),
            ):
                self.setUp()
                after = self.within(state, act)
                following = DISPATCHER_TRANSITIONS[state, what]
                if (state, what) == (DispatcherState.IDLE, "arrived"):
                    following = DispatcherState.WAITING  # for the question
                self.assertIs(after, following)

    def test_roundTrip(self) -> None:
        """
        Alone or with others, a packet that takes its time is waited for; then there
        is nothing in hand again.
        """
        for data in (["?"], ["?", "x"]):
            self.setUp()
            self.arrive(*data)
            self.assertIs(self.dispatcher.state, DispatcherState.WAITING)
            self.waiting[0].callback(None)
            self.assertIs(self.dispatcher.state, DispatcherState.IDLE)

    def test_firesWhenOver(self) -> None:
        """
        What the handler still waits for when it is all over changes nothing when it
        fires; nor does that it asks for time after it has stopped everything.
        """
        self.arrive("?", "x")
        self.dispatcher.stop()
        self.waiting[0].callback(None)
        self.assertIs(self.dispatcher.state, DispatcherState.OVER)
        self.setUp()
        waiting: Deferred[None] = Deferred()

        def react(connection: Connection, packet: Packet) -> Deferred[None]:
            """Stop everything, and ask for time."""
            self.dispatcher.stop()
            return waiting

        self.handler.react = react
        self.arrive("x")
        waiting.callback(None)
        self.assertIs(self.dispatcher.state, DispatcherState.OVER)
        self.assertEqual(self.reports, [])

    def test_sameDeferred(self) -> None:
        """
        A handler may wait for one Deferred with several packets, also while that
        runs its callbacks: nothing is handed over twice, or forgotten.
        """
        waiting: Deferred[None] = Deferred()
        self.handler.react = lambda *_: waiting
        self.arrive("a", "b")
        self.arrive("c")
        self.assertEqual(self.handler.data, ["a"])
        waiting.callback(None)
        self.assertEqual(self.handler.data, ["a", "b", "c"])
        self.assertIs(self.dispatcher.state, DispatcherState.IDLE)
        self.assertEqual(sum(count for count, _ in self.reports), 3)

    def test_paused(self) -> None:
        """A Deferred that has fired, and waits for another, is waited for."""
        inner: Deferred[None] = Deferred()
        self.handler.react = lambda *_: succeed(None).addCallback(lambda _: inner)
        self.arrive("a")
        self.assertIs(self.dispatcher.state, DispatcherState.WAITING)
        inner.callback(None)
        self.assertEqual(self.reports, [(1, 65)])

    def test_forgets(self) -> None:
        """What is not handed over any more is not kept."""
        self.arrive("?", "x")
        self.arrive("y")
        self.dispatcher.stop()
        kept = (self.dispatcher._current, list(self.dispatcher._queue))
        self.assertEqual((*kept, list(self.dispatcher._packets)), (None, [], []))


class ReportTests(DispatcherTestCase):
    """What is reported as handled: how many, and what they cost."""

    def test_together(self) -> None:
        """What came together is reported together."""
        self.arrive("a", b"bcd", "\xe9")
        self.assertEqual(self.reports, [(3, 65 + 67 + 66)])

    def test_parts(self) -> None:
        """What is done before, and after, the handler needed time is reported then."""
        self.arrive("a", "?", "\xe9", "?")
        self.arrive("b", "cd")
        self.assertEqual(self.reports, [(1, 65)])
        self.waiting[0].callback(None)
        self.assertEqual(self.reports, [(1, 65), (2, 65 + 66)])
        self.waiting[1].callback(None)
        self.assertEqual(self.reports[2:], [(3, 65 + 65 + 66)])
        self.arrive("e")
        self.assertEqual(self.reports[3:], [(1, 65)])
        self.assertEqual(self.handler.data, ["a", "?", "\xe9", "?", "b", "cd", "e"])

    def test_stopsMeanwhile(self) -> None:
        """
        If it is all over while the handler has a packet, that one is not reported,
        those before are, and those behind are not handed over.
        """
        self.handler.react = lambda connection, packet: (
            self.dispatcher.stop() if packet.data == "c" else None
        )
        self.arrive("a", "b", "c", "d")
        self.arrive("e")
        self.assertEqual(self.reports, [(2, 130)])
        self.assertEqual(self.handler.data, ["a", "b", "c"])

    def test_moreMeanwhile(self) -> None:
        """What comes while the handler has a packet waits for its turn."""
        self.handler.react = lambda connection, packet: (
            self.arrive("c") if packet.data == "a" else None
        )
        self.arrive("a", "b")
        self.assertEqual(self.handler.data, ["a", "b", "c"])
        self.assertEqual(self.reports, [(3, 195)])


class LostTests(PairTestCase):
    """What a handler can do when it is told of the end."""

    def test_over(self) -> None:
        """
        The connection is over and not listed any more; what the handler sends to
        it, and whether it closes it, makes no difference and leaves nothing to do.
        """
        test = self

        class Late(Recorder):
            """A handler that goes on talking."""

            def connectionLost(self, connection: Connection, reason: AESMError) -> None:
                """Send, and close."""
                super().connectionLost(connection, reason)
                test.assertTrue(connection.isOver)
                test.assertNotIn(connection.address, server.connections)
                test.assertClosed(connection.sendData("x"))
                connection.close()
                connection.abort()

        handler = Late()
        network, server = self.serve(handler)
        for end in ("close", "abort"):
            getattr(self.join(network), end)()
            network.deliver()
            self.assertEqual(handler.names[-2:], ["accepted", "lost"])
            calls = network.clock.getDelayedCalls()
            self.assertEqual([c for c in calls if "AESMProtocol" in repr(c)], [])

    def test_unseen(self) -> None:
        """
        Packets that it has not seen are not handed over when what it waited for
        fails because of the end.
        """
        handler = Recorder(lambda c, packet: c.sendData("answer"))
        pair = self.pair(handler)
        for data in "abc":
            pair.client.sendData(data)
        pair.network.links[0].toClient.stalled = True
        pair.deliver()
        pair.network.links[0].cut()
        self.assertEqual(handler.data, ["a"])
        self.assertEqual(handler.names[-1], "lost")


class FailureTests(PairTestCase):
    """An error of a handler is logged and closes that one connection with 1011."""

    def check(self, react: Callable[..., Any] | None, failing: str = "") -> None:
        """
        Let one of two clients meet an error.

        @param react: what the handler does with the packet C{"bad"}.
        @param failing: which other method of the handler fails.
        """
        handler = Recorder(
            lambda c, packet: (
                react(c, packet) if react and packet.data == "bad" else None
            ),
        )
        network, server = self.serve(handler)
        other = self.join(network)
        handler.failing = failing
        client = self.join(network)
        sent = [client.sendData(data) for data in ("good", "bad", "unseen")]
        network.deliver()
        if failing == "lost":
            client.close()
            network.deliver()
        errors = self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(len(errors), 1)
        if failing != "lost":
            self.assertEqual(self.closedReason(client).code, 1011)
            self.assertEqual(self.closedReason(client).reason, "internal error")
        if react is not None:
            self.successResultOf(sent[0])
            for result in sent[1:]:
                self.assertClosed(result, 1011)
            self.assertEqual(handler.data, ["good", "bad"])
        self.assertEqual(handler.names.count("lost"), 1)
        handler.failing = ""
        again = other.sendData("still here")
        network.deliver()
        self.successResultOf(again)
        entries = [entry.event for entry in self.entries(server)]
        self.assertEqual(entries, ["accepted", "accepted", "lost"])

    def test_raises(self) -> None:
        """One that it raises."""
        self.check(lambda *_: 1 // 0)

    def test_fails(self) -> None:
        """One of the Deferred that it returns."""
        self.check(lambda *_: fail(ZeroDivisionError()))

    def test_failsLater(self) -> None:
        """The same when it comes later."""

        def react(connection: Connection, packet: Packet) -> Deferred[Any]:
            """Fail when it has answered."""
            return connection.sendData("x").addCallback(lambda _: 1 // 0)

        self.check(react)

    def test_failsForSeveral(self) -> None:
        """
        One of a Deferred for which it waits with packets of several connections closes
        all of these: none of the packets is acknowledged.
        """
        for isLate in (False, True):
            waiting: Deferred[None] = Deferred()
            network, _ = self.serve(Recorder(lambda *_, waiting=waiting: waiting))
            clients = [self.join(network) for _ in range(3)]
            sent = [client.sendData("x") for client in clients[isLate:]]
            network.deliver()
            waiting.errback(ZeroDivisionError())
            network.deliver()
            if isLate:
                sent.append(clients[0].sendData("x"))
                network.deliver()
            for each in sent:
                self.assertClosed(each, 1011)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)

    def test_coroutine(self) -> None:
        """One of its coroutine."""

        async def react(connection: Connection, packet: Packet) -> None:
            """Fail when it has answered."""
            await connection.sendData("x")
            raise ZeroDivisionError

        self.check(react)

    def test_accepted(self) -> None:
        """One of C{connectionAccepted}."""
        self.check(None, "accepted")

    def test_lost(self) -> None:
        """One of C{connectionLost}, when there is nothing left to close."""
        self.check(None, "lost")

    def test_logged(self) -> None:
        """
        The log says over which connection, and where it failed, and keeps neither that
        nor what was there: Twisted's keeps what is said for who begins logging.
        """
        pair = self.pair(Recorder(lambda *_: 1 // 0))
        connection = repr(pair.accepted)
        with capturedLogs() as events:
            pair.client.sendData("x")
            pair.deliver()
        (event,) = [e for e in events if e["log_level"] is LogLevel.critical]
        self.assertEqual(event["log_namespace"], "aesm.handler")
        self.assertEqual(event["connection"], connection)
        self.assertKeepsNothing(event)
        self.flushLoggedErrors(ZeroDivisionError)


class AwaitableOnly:
    """What can be awaited, and is no coroutine."""

    def __init__(self, waiting: Deferred[None]) -> None:
        """@param waiting: what it waits for."""
        self.waiting = waiting

    def __await__(self) -> Generator[Deferred[None], None, None]:
        """Wait."""
        yield from self.waiting.__await__()


class RunningTests(PairTestCase):
    """
    What a handler returns is run, or refused: nothing is acknowledged that has not run.
    """

    def test_awaitable(self) -> None:
        """Whatever can be awaited is waited for."""
        waiting: Deferred[None] = Deferred()
        pair = self.pair(Recorder(lambda *_: AwaitableOnly(waiting)))
        sent = pair.client.sendData("a")
        pair.deliver()
        self.assertNoResult(sent)
        waiting.callback(None)
        pair.deliver()
        self.successResultOf(sent)

    def test_future(self) -> None:
        """
        A Future is waited for if its event loop is the one that runs here, as under
        Twisted's asyncio reactor; that it fails is the handler's error.
        """
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)

        async def work(data: object) -> None:
            """Take a turn."""
            await asyncio.sleep(0)
            if data == "bad":
                raise ZeroDivisionError

        async def show() -> None:
            """Let both be handled within the loop."""
            pair = self.pair(
                Recorder(lambda _, packet: asyncio.ensure_future(work(packet.data)))
            )
            sent = [pair.client.sendData(data) for data in ("good", "bad")]
            pair.deliver()
            self.assertNoResult(sent[0])
            for _ in range(10):
                await asyncio.sleep(0)
                pair.deliver()
            self.successResultOf(sent[0])
            self.assertClosed(sent[1], 1011)

        loop.run_until_complete(show())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_refused(self) -> None:
        """
        What cannot be run here closes the connection with 1011, and the log says what
        to do: generators, lazy iterators, Futures of other loops and of threads.
        """
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)

        def generator(connection: Connection, packet: Packet) -> Any:
            """Forget C{inlineCallbacks}."""
            yield connection.sendData("never")

        async def asyncGenerator(connection: Connection, packet: Packet) -> Any:
            """Yield, where one is to await."""
            yield connection.sendData("never")

        reacts: list[tuple[Callable[..., Any], str]] = [
            (generator, "inlineCallbacks"),
            (asyncGenerator, "async def without yield"),
            (lambda *_: map(print, "ab"), "has not run"),
            (lambda *_: loop.create_future(), "asyncio reactor"),
            (lambda *_: futures.Future(), "deferToThread"),
        ]
        for react, words in reacts:
            pair = self.pair(Recorder(react))
            sent = pair.client.sendData("a")
            pair.deliver()
            self.assertClosed(sent, 1011)
            (failure,) = self.flushLoggedErrors(TypeError)
            self.assertIn(words, failure.getErrorMessage())

    def test_acceptedTakesTime(self) -> None:
        """Messages wait until C{connectionAccepted} is done, and come in order then."""
        waiting: Deferred[None] = Deferred()

        class Slow(Recorder):
            """A handler that looks something up first."""

            async def connectionAccepted(  # type: ignore[override]
                self, connection: Connection
            ) -> None:
                """Wait."""
                await waiting
                super().connectionAccepted(connection)

        handler = Slow()
        pair = self.pair(handler)
        sent = [pair.client.sendData(data) for data in "ab"]
        pair.deliver()
        sent.append(pair.client.sendData("c"))
        pair.deliver()
        self.assertNoResult(sent[0])
        self.assertEqual(handler.events, [])
        waiting.callback(None)
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.assertEqual(handler.names, ["accepted", "packet", "packet", "packet"])
        self.assertEqual(handler.data, ["a", "b", "c"])

    def test_acceptedFails(self) -> None:
        """
        An error of C{connectionAccepted} that comes later closes the connection, and
        what came meanwhile is not handled.
        """
        waiting: Deferred[None] = Deferred()

        class Failing(Recorder):
            """A handler that cannot look it up."""

            def connectionAccepted(  # type: ignore[override]
                self, connection: Connection
            ) -> Deferred[None]:
                """Fail later."""
                return waiting

        handler = Failing()
        pair = self.pair(handler)
        sent = pair.client.sendData("a")
        pair.deliver()
        waiting.errback(ZeroDivisionError())
        pair.deliver()
        self.assertClosed(sent, 1011)
        self.assertEqual(handler.names, ["lost"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def losing(self, waiting: Deferred[None]) -> tuple[Any, Any, Recorder]:
        """Connect a client to a handler whose C{connectionLost} takes its time."""

        class Losing(Recorder):
            """A handler that writes something down at the end."""

            async def connectionLost(  # type: ignore[override]
                self, connection: Connection, reason: AESMError
            ) -> None:
                """Wait."""
                await waiting
                super().connectionLost(connection, reason)

        handler = Losing()
        network, server = self.serve(handler)
        return network, server, handler

    def test_stopWaits(self) -> None:
        """A server that stops waits until C{connectionLost} is done."""
        waiting: Deferred[None] = Deferred()
        network, server, handler = self.losing(waiting)
        self.join(network)
        stopped = server.stop()
        network.deliver()
        self.assertNoResult(stopped)
        waiting.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(handler.names, ["accepted", "lost"])

    def test_stopsAnyway(self) -> None:
        """But not for ever; and an error of it is logged."""
        waiting: Deferred[None] = Deferred()
        network, server, _ = self.losing(waiting)
        self.join(network)
        stopped = server.stop(deadline=2)
        network.deliver()
        network.advance(1.9)
        self.assertNoResult(stopped)
        network.advance(0.2)
        self.successResultOf(stopped)
        waiting.errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class TurnTests(DispatcherTestCase):
    """One client's messages do not keep all others waiting."""

    def setUp(self) -> None:
        """Let each packet take a tenth of what may be done in one piece."""
        super().setUp()
        self.handler.react = self.take

    def take(self, connection: Connection, packet: Packet) -> Deferred[None] | None:
        """Take time."""
        self.clock.rightNow += QUANTUM / 10
        return self.react(connection, packet)

    def test_yields(self) -> None:
        """
        After its time is over the dispatcher gives up its turn, reports what it is done
        with, and goes on in the next one, however the messages came.
        """
        texts = [str(number) for number in range(60)]
        for parts in ([texts], [[text] for text in texts], [texts[:1], texts[1:]]):
            self.setUp()
            self.assertTrue(self.dispatcher.gather())
            for part in parts:
                self.arrive(*part)
            self.dispatcher.work()
            first = len(self.handler.data)
            self.assertTrue(10 <= first <= 28, first)
            self.assertEqual(sum(count for count, _ in self.reports), first)
            self.assertIs(self.dispatcher.state, DispatcherState.YIELDED)
            self.arrive("later")
            turns = 1
            while self.dispatcher.state is DispatcherState.YIELDED:
                oneTurn(self.clock)
                turns += 1
            self.assertTrue(3 <= turns <= 6, turns)
            self.assertEqual(self.handler.data, [*texts, "later"])
            self.assertEqual(sum(count for count, _ in self.reports), 61)
            cost = sum(map(costOf, [*texts, "later"]))
            self.assertEqual(sum(cost for _, cost in self.reports), cost)
            self.assertIs(self.dispatcher.state, DispatcherState.IDLE)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_atTheEnd(self) -> None:
        """If nothing is left when the time is over, nothing is put off."""
        for count in range(1, 40):
            self.setUp()
            self.arrive(*["x"] * count)
            left = count - len(self.handler.data)
            yielded = self.dispatcher.state is DispatcherState.YIELDED
            self.assertEqual(yielded, left > 0)

    def test_waitsInBetween(self) -> None:
        """A handler may ask for time in any of the turns."""
        self.arrive(*["x"] * 30, "?", *["x"] * 30)
        while self.dispatcher.state is DispatcherState.YIELDED:
            self.clock.advance(0)
        self.assertIs(self.dispatcher.state, DispatcherState.WAITING)
        self.assertEqual(sum(count for count, _ in self.reports), 30)
        self.waiting[0].callback(None)
        self.clock.pump([0] * 10)
        self.assertEqual(sum(count for count, _ in self.reports), 61)

    def test_stopped(self) -> None:
        """One that is stopped meanwhile takes no further turn."""
        self.arrive(*["x"] * 60)
        done = len(self.handler.data)
        self.dispatcher.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.handler.data), done)

    def test_piles(self) -> None:
        """
        What waits and came in small groups is kept in few objects, and handed over as
        it came: each with its time, and texts decoded.
        """
        wide = "a" * 200 + "\U0001f600"
        packets: list[Packet] = []
        waiting: Deferred[None] = Deferred()

        def react(connection: Connection, packet: Packet) -> Deferred[None] | None:
            """Keep the first waiting, and remember all."""
            packets.append(packet)
            return waiting if len(packets) == 1 else None

        self.handler.react = react
        expected = []
        for number in range(3000):
            texts = ["x"] * (1 + number % 20)
            data: list[str | bytes] = [*texts]
            if number % 100 == 50:
                texts[0] = wide
                data = EncodedBodies([EncodedText(wide.encode()), *texts[1:]])
            cost = sum(map(costOf, data))
            self.dispatcher.arrived(Messages(number, data, cost, costOf(data[-1])))
            expected += [Packet(number / 1e6, text) for text in texts]
        self.assertLessEqual(len(self.dispatcher._queue), 3000 // 4)
        waiting.callback(None)
        self.assertEqual(packets, expected)
        self.assertEqual(sum(count for count, _ in self.reports), len(expected))
        cost = sum(costOf(packet.data) for packet in expected)
        self.assertEqual(sum(cost for _, cost in self.reports), cost)

    def test_gathersOnce(self) -> None:
        """While something is in hand, nothing is gathered."""
        self.arrive(*["x"] * 60)
        self.assertFalse(self.dispatcher.gather())

    def test_rate(self) -> None:
        """
        A key that has sent more than its rate allows waits, over whichever connection,
        and others do not.
        """
        self.handler.react = None
        rates = Rates(10, math.inf)
        self.dispatcher = self.make(rates)
        self.arrive(*["x"] * 30)  # saved up are 20
        self.arrive("y")
        self.assertEqual(len(self.handler.data), 30)
        self.clock.advance(0.9)
        self.assertEqual(len(self.handler.data), 30)
        self.clock.advance(0.2)
        self.clock.advance(0)
        self.assertEqual(self.handler.data[30:], ["y"])
        self.assertEqual(rates.delay(CLIENT_KEY.publicKey, self.clock.seconds()), 0)
        self.arrive("z")
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.handler.data[31:], ["z"])
        self.arrive(*["x"] * 30, "x")
        self.arrive("never")
        self.dispatcher.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rateInTime(self) -> None:
        """A key that had to wait for a second goes on after a second, at once."""
        self.handler.react = None
        self.dispatcher = self.make(Rates(4, math.inf))
        self.arrive(*["x"] * 12)  # saved up are 8
        self.arrive("y")
        self.clock.rightNow = 1.0
        for _ in range(2):  # by hand: Clock.advance would never end if it waited again
            call: Any = self.clock.getDelayedCalls()[0]
            function, arguments = call.func, call.args
            call.cancel()
            function(*arguments)
        self.assertEqual(self.handler.data[12:], ["y"])


class OthersTests(PairTestCase):
    """The rest of a server goes on while one client floods it."""

    def test_others(self) -> None:
        """
        While the messages of one client wait for their turns, those of others are
        handled as they come, and it is acknowledged what is done.
        """

        def react(connection: Connection, packet: Packet) -> None:
            """Take time."""
            network.clock.rightNow += QUANTUM / 10

        handler = Recorder(react)
        network, _ = self.serve(handler)
        flooding, good = self.join(network), self.join(network)
        for _ in range(1000):
            flooding.sendData("flood")
        network.clock.advance(0)
        for link in network.links:
            link.server.receive(1 << 20)
        handled = len(handler.data)
        self.assertLess(handled, 100)
        sent = good.sendData("good")
        for link in network.links:
            link.server.receive(1 << 20)
            link.client.receive(1 << 20)
        self.assertEqual(handler.data[-1], "good")
        self.successResultOf(sent)
        self.assertEqual(flooding._outbox.acknowledged, handled)
        while flooding._outbox.acknowledged < 1000:
            before = flooding._outbox.acknowledged
            network.deliver()
            network.clock.advance(0)
            network.deliver()
            self.assertGreater(flooding._outbox.acknowledged, before)

    def test_optionsAndHandlers(self) -> None:
        """
        The server's options bound what one key may send, and without them what the
        handler says.
        """
        for said, option, expected in ((None, 5, 20), (5, None, 20), (5, 10**6, 100)):
            handler = Recorder()
            handler.messagesPerKey = said or math.inf  # type: ignore[attr-defined]
            network, _ = self.serve(handler, messagesPerKey=option)
            client = self.join(network)
            for _ in range(10):
                for _ in range(10):
                    client.sendData("x")
                network.deliver()
                network.clock.advance(0)
            self.assertEqual(len(handler.data), expected)
            network.clock.advance(2)
            network.clock.advance(0)
            network.deliver()
            self.assertEqual(len(handler.data), 100)
        for name in ("messagesPerKey", "bytesPerKey"):
            for wrong in (0, -1, math.nan):
                options: dict[str, Any] = {name: wrong}
                error = self.assertRaises(ValueError, self.serve, **options)
                self.assertIn(name, str(error))
