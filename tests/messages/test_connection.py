"""
Tests for L{aesm.messages.connection}: what users hold.
"""

from __future__ import annotations

import gc
import time
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, succeed

from aesm import (
    Connection,
    ConnectionClosed,
    MessageTooBig,
    Packet,
    SendBufferFull,
    TamperedRecord,
    Truncated,
)
from aesm.core.messages.frames import encodeAck
from aesm.messages.budget import heldBy
from aesm.messages.owner import FAILURES_TOLD
from aesm.secure.places import BURST_SECONDS
from aesm.testing import connectedPair
from tests.support.pairs import PairTestCase, Recorder, cancelling

MIB = 1 << 20

STEPS = (  # of L{RandomTests}
    *("send",) * 3,
    *("round",) * 4,
    *("take",) * 2,
    "stall",
    "close",
    "abort",
    "cut",
    "second",
    "corrupt",
)


class SendDataTests(PairTestCase):
    """C{sendData} fires once the peer has the message, and not before."""

    def test_kinds(self) -> None:
        """
        Text arrives as text, bytes of any kind as bytes, empty ones too, in
        order and in both directions.
        """
        pair = self.pair()
        sent: list[Any] = [
            "text",
            b"bytes",
            bytearray(b"array"),
            memoryview(b"view"),
            "",
            b"",
            "é\0",
        ]
        expected = ["text", b"bytes", b"array", b"view", "", b"", "é\0"]
        for here, there in ((pair.client, pair.accepted), (pair.accepted, pair.client)):
            results = [here.sendData(data) for data in sent]
            pair.deliver()
            for result in results:
                self.assertIsNone(self.successResultOf(result))
            self.assertEqual([p.data for p in there.retrieved], expected)
            self.assertEqual(
                [type(p.data) for p in there.retrieved], [type(e) for e in expected]
            )

    def test_time(self) -> None:
        """A packet carries the time of its sending, in seconds."""
        pair = self.pair()
        before = time.time()
        pair.client.sendData("x")
        after = time.time()
        pair.deliver()
        packet = pair.accepted.retrieved[0]
        self.assertTrue(before - 1e-3 <= packet.time <= after + 1e-3)

    def test_mutable(self) -> None:
        """What happens to a buffer after sending changes nothing."""
        pair = self.pair()
        data = bytearray(b"before")
        pair.client.sendData(data)
        data[:] = b"after!"
        pair.deliver()
        self.assertEqual(pair.accepted.retrieved[0].data, b"before")

    def test_wrongType(self) -> None:
        """Neither text nor bytes: the caller is told at once."""
        pair = self.pair()
        for wrong in (None, 3, ["x"], object()):
            data: Any = wrong
            self.assertRaises(TypeError, pair.client.sendData, data)
            self.assertRaises(TypeError, pair.server.sendAll, data)

    def test_surrogate(self) -> None:
        """Text that UTF-8 cannot say raises C{ValueError}, and nothing is sent."""
        pair = self.pair()
        self.assertRaises(ValueError, pair.client.sendData, "\ud800")
        sent = pair.client.sendData("next")
        pair.deliver()
        self.successResultOf(sent)
        self.assertEqual([p.data for p in pair.accepted.retrieved], ["next"])

    def test_maxMessage(self) -> None:
        """
        The peer's largest message arrives; one byte more is refused at once, and
        the connection goes on.
        """
        pair = self.pair(server={"maxMessage": 1000})
        for data in ("x" * 1000, b"x" * 1000, "é" * 500):
            sent = pair.client.sendData(data)
            pair.deliver()
            self.successResultOf(sent)
            self.assertEqual((pair.accepted.retrieved.getData() or (0, 0))[1], data)
        for data in ("x" * 1001, b"x" * 1001, "é" * 500 + "x"):
            self.failureResultOf(pair.client.sendData(data), MessageTooBig)
        sent = pair.client.sendData("next")
        pair.deliver()
        self.successResultOf(sent)

    def test_largest(self) -> None:
        """A message of the default C{maxMessage} passes, in both directions."""
        pair = self.pair()
        data = b"x" * MIB
        for connection in (pair.client, pair.accepted):
            sent = connection.sendData(data)
            pair.deliver()
            self.successResultOf(sent)
        self.assertEqual(pair.client.retrieved[0].data, data)

    def test_many(self) -> None:
        """100,000 small messages pass without anybody waiting, both ways at once."""
        pair = self.pair(suites=["Noise_XX_25519_AESGCM_SHA256"])
        for _ in range(100_000):
            pair.client.sendData("m")
            pair.accepted.sendData(b"m")
        last = pair.client.sendData("last"), pair.accepted.sendData(b"last")
        pair.deliver()
        for result in last:
            self.successResultOf(result)
        for connection in (pair.client, pair.accepted):
            self.assertEqual(len(connection.retrieved), 100_001)

    def test_byteByByte(self) -> None:
        """However the network cuts it up."""
        pair = self.pair()
        pair.network.chunkSize = 1
        sent = [pair.client.sendData("x" * n) for n in (0, 1, 300)]
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.assertEqual(
            [len(p.data or "") for p in pair.accepted.retrieved], [0, 1, 300]
        )

    def test_notBeforeItIsThere(self) -> None:
        """As long as the peer has not said so, it does not fire."""
        pair = self.pair()
        link = pair.network.links[0]
        link.toServer.stalled = link.toClient.stalled = True
        sent = pair.client.sendData("x")
        pair.deliver()
        self.assertNoResult(sent)
        link.toServer.stalled = False
        pair.deliver()
        self.assertEqual(pair.accepted.retrieved[0].data, "x")
        self.assertNoResult(sent)
        link.toClient.stalled = False
        pair.deliver()
        self.successResultOf(sent)

    def test_lookedAtLate(self) -> None:
        """One that nobody looked at still tells the truth, also after the end."""
        pair = self.pair()
        had = pair.client.sendData("x")
        pair.deliver()
        pair.network.links[0].toServer.stalled = True
        lost = pair.client.sendData("y")
        pair.client.abort()
        pair.deliver()
        self.successResultOf(had)
        self.assertClosed(lost)

    def test_order(self) -> None:
        """They fire in the order of sending."""
        pair = self.pair()
        order: list[int] = []
        for number in range(5):
            sent = pair.client.sendData("x")
            sent.addCallback(lambda _, number: order.append(number), number)
        pair.deliver()
        self.assertEqual(order, [0, 1, 2, 3, 4])

    def test_cancel(self) -> None:
        """Cancelling stops the waiting, not the message."""
        pair = self.pair()
        sent, other = pair.client.sendData("x"), pair.client.sendData("y")
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        pair.deliver()
        self.successResultOf(other)
        self.assertEqual([p.data for p in pair.accepted.retrieved], ["x", "y"])

    def test_cancelAtEnd(self) -> None:
        """One that fails may cancel the others."""
        pair = self.pair()
        pair.network.links[0].toServer.stalled = True
        sent = [pair.client.sendData("x") for _ in range(3)]
        for result in sent:
            self.assertNoResult(result)
        sent[0].addErrback(cancelling(sent[1:]))
        pair.client.abort()
        pair.deliver()
        for other in sent[1:]:
            self.failureResultOf(other, CancelledError)

    def test_returned(self) -> None:
        """It can be returned from a callback."""
        pair = self.pair()
        sent = succeed("x").addCallback(pair.client.sendData)
        self.assertNoResult(sent)
        pair.deliver()
        self.assertIsNone(self.successResultOf(sent))

    def test_sendAgain(self) -> None:
        """A callback may send."""
        pair = self.pair()
        pair.client.sendData("x").addCallback(lambda _: pair.client.sendData("y"))
        pair.deliver()
        self.assertEqual([p.data for p in pair.accepted.retrieved], ["x", "y"])

    def test_falseAcknowledgement(self) -> None:
        """
        A peer that acknowledges what was not sent is cut off, and nothing counts
        as delivered.
        """
        pair = self.pair()
        sent = pair.client.sendData("x")
        pair.network.links[0].toServer.inFlight.clear()
        channel: Any = pair.accepted["encryption"]
        channel.write(encodeAck(0, 2, 1 << 40))
        pair.advance(6)
        self.assertClosed(sent)


class LostTests(PairTestCase):
    """
    However a connection ends: what was not acknowledged fails with
    L{ConnectionClosed}, once.
    """

    def sendAndEnd(self, end: Any) -> tuple[Any, Any]:
        """
        Send what does not arrive, and end the connection.

        @param end: called with the pair, to end it.
        @return: the error of sending, and the reason of the end.
        """
        pair = self.pair()
        pair.network.links[0].toServer.stalled = True
        fired: list[Any] = []
        unseen = pair.client.sendData("unseen")
        pair.client.sendData("x").addBoth(fired.append)
        getting = pair.client.retrieved.get()
        end(pair)
        pair.network.links[0].toServer.stalled = pair.network.links[0].toClient.stalled
        pair.advance(100)
        (failure,) = fired
        failure.trap(ConnectionClosed)
        self.assertIsNot(failure.value, self.assertClosed(getting))
        del unseen
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertTrue(pair.client.isOver)
        later = pair.client.sendData("later")
        self.assertEqual(str(self.assertClosed(later)), str(failure.value))
        pair.client.abort()
        pair.client.closeWith(1000, "")
        return failure.value, self.closedReason(pair.client)

    def test_cut(self) -> None:
        """The network breaks."""
        error, reason = self.sendAndEnd(lambda pair: pair.network.links[0].cut())
        self.assertEqual((type(error), error.code), (Truncated, 1006))
        self.assertIsInstance(reason, Truncated)

    def test_abort(self) -> None:
        """We abort."""
        error, reason = self.sendAndEnd(lambda pair: pair.client.abort())
        self.assertEqual(str(error), "we aborted the connection")
        self.assertEqual(str(reason), str(error))

    def test_peerAborts(self) -> None:
        """The peer aborts."""
        error, _ = self.sendAndEnd(lambda pair: pair.accepted.abort())
        self.assertIsInstance(error, Truncated)

    def test_peerCloses(self) -> None:
        """The peer closes in order."""
        error, reason = self.sendAndEnd(lambda pair: pair.accepted.close("enough"))
        self.assertEqual((error.code, error.reason), (1000, "enough"))
        self.assertIn("peer closed", str(reason))

    def test_closeTimesOut(self) -> None:
        """We close, and the peer never reads."""

        def close(pair: Any) -> None:
            """
            Close, and wait.

            @param pair: whose client.
            """
            closing = pair.client.close("bye")
            pair.advance(4.9)
            self.assertNoResult(closing)
            pair.advance(0.1)
            self.successResultOf(closing)

        error, reason = self.sendAndEnd(close)
        self.assertIn("'bye'", str(reason))
        self.assertIn("5 seconds", str(error))
        self.assertEqual(error.code, 1006)

    def test_tampered(self) -> None:
        """Somebody alters a byte: nothing of it reaches the application."""

        def tamper(pair: Any) -> None:
            """
            Alter what the server sends.

            @param pair: whose.
            """
            pair.accepted.sendData("altered")
            pair.network.links[0].toClient.corrupt()
            pair.network.deliver()
            self.assertEqual(len(pair.client.retrieved), 0)

        error, reason = self.sendAndEnd(tamper)
        self.assertIsInstance(reason, TamperedRecord)
        self.assertIs(error.__cause__, reason)

    def test_silent(self) -> None:
        """The peer falls silent."""

        def stall(pair: Any) -> None:
            """
            Let nothing through.

            @param pair: whose.
            """
            pair.network.links[0].toClient.stalled = True

        error, _ = self.sendAndEnd(stall)
        self.assertEqual(type(error).__name__, "HeartbeatLost")

    def test_keepsNothing(self) -> None:
        """
        A connection that is over, and stays listed for its unread packets, keeps
        none of the messages that it could not send.
        """
        pair = self.pair()
        pair.client.sendData("unread")
        pair.deliver()
        pair.network.links[0].toClient.stalled = True
        for _ in range(10):
            pair.accepted.sendData(b"x" * MIB)
        pair.network.links[0].cut()
        self.assertEqual(len(pair.server.connections), 1)
        self.assertEqual(pair.accepted._outbox.keptCost, 0)
        for _ in range(100):
            self.assertClosed(pair.accepted.sendData(b"x" * MIB))
        self.assertEqual(pair.accepted._outbox.keptCost, 0)

    def test_ignored(self) -> None:
        """Nothing is logged when nobody looks at what was sent too late."""
        pair = self.pair()
        pair.client.abort()
        pair.deliver()
        pair.client.sendData("x")
        pair.accepted.sendData("x")
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class SendBufferTests(PairTestCase):
    """C{sendBuffer} bounds what is kept for a peer."""

    def full(self) -> Any:
        """Make a pair of which the client can send no more."""
        pair = self.pair(client={"sendBuffer": 1000}, server={"receiveBuffer": 100})
        for _ in range(10):
            pair.client.sendData("x" * 36)
        pair.deliver()
        return pair

    def test_full(self) -> None:
        """
        Past it sending fails before anything is accepted; what was accepted
        arrives.
        """
        pair = self.pair(client={"sendBuffer": 1000})
        pair.network.links[0].toServer.stalled = True
        sent = [pair.client.sendData("x" * 36) for _ in range(10)]
        self.failureResultOf(pair.client.sendData(""), SendBufferFull)
        pair.network.links[0].toServer.stalled = False
        pair.deliver()
        for result in sent:
            self.successResultOf(result)
        self.assertEqual(len(pair.accepted.retrieved), 10)
        self.successResultOf(pair.client.drain())

    def test_exactly(self) -> None:
        """It may be filled to the byte."""
        for size, fits in ((36, True), (37, False)):
            pair = self.pair(client={"sendBuffer": 100})
            sent = pair.client.sendData("x" * size)
            pair.deliver()
            if fits:
                self.successResultOf(sent)
            else:
                self.failureResultOf(sent, SendBufferFull)

    def test_drain(self) -> None:
        """C{drain} fires once less than half of it is in use."""
        pair = self.pair(client={"sendBuffer": 1000})
        self.successResultOf(pair.client.drain())
        link = pair.network.links[0]
        link.toClient.stalled = True
        for _ in range(9):
            pair.client.sendData("x" * 36)
        draining = [pair.client.drain() for _ in range(3)]
        draining[1].cancel()
        self.failureResultOf(draining[1], CancelledError)
        draining[0].addCallback(lambda _: draining[2].cancel())
        self.assertNoResult(draining[0])
        link.toClient.stalled = False
        pair.deliver()
        self.successResultOf(draining[0])
        self.failureResultOf(draining[2], CancelledError)

    def test_drainStep(self) -> None:
        """It waits on while acknowledgements come that are not enough."""
        pair = self.pair(client={"sendBuffer": 1000}, server={"receiveBuffer": 100})
        for _ in range(10):
            pair.client.sendData("x" * 36)
        pair.deliver()
        draining = pair.client.drain()
        for taken in range(10):
            self.assertEqual(draining.called, taken >= 5, taken)
            pair.accepted.retrieved.getData()
            pair.deliver()

    def test_drainClosed(self) -> None:
        """It fails with L{ConnectionClosed} once the connection is over."""
        pair = self.full()
        draining = [pair.client.drain() for _ in range(2)]
        draining[0].addErrback(lambda _: draining[1].cancel())
        pair.client.abort()
        pair.deliver()
        self.failureResultOf(draining[1], CancelledError)
        self.assertClosed(pair.client.drain())

    def test_slowConsumer(self) -> None:
        """
        A server with a handler closes a client whose buffer is full, with code
        4000 and an entry that says so, and never waits for it.
        """
        pair = self.pair(Recorder(), server={"sendBuffer": 1000})
        link = pair.network.links[0]
        link.toClient.stalled = True
        sent = [pair.accepted.sendData("x" * 36) for _ in range(12)]
        pair.advance(1)
        self.assertFalse(pair.accepted.isOver)
        link.toClient.stalled = False
        pair.deliver()
        self.assertEqual(self.closedReason(pair.client).code, 4000)
        self.assertEqual(self.closedReason(pair.accepted).code, 4000)
        self.assertEqual(len(pair.client.retrieved), 10)
        for late in sent[10:]:
            self.assertClosed(late, 4000)
        lost = self.entries(pair.server)[-1]
        self.assertEqual(lost.event, "lost")
        self.assertIn("4000", lost.reason)
        self.assertIn("slow consumer", lost.reason)

    def test_slowConsumerIsTold(self) -> None:
        """
        What never left is dropped, and nothing of it kept, so that the CLOSE is what
        the client reads next, behind what was on its way.
        """
        pair = self.pair(Recorder(), server={"sendBuffer": 4 << 20})
        link = pair.network.links[0]
        link.toClient.stalled = True
        pair.accepted.sendData(bytes(1 << 20))
        pair.advance(0)
        for _ in range(4):
            sent = pair.accepted.sendData(bytes(1 << 20))
            pair.advance(0)
        self.assertLess(heldBy(pair.accepted), 3 << 20)
        self.assertClosed(sent, 4000)
        pair.advance(20)
        link.toClient.stalled = False
        pair.deliver()
        self.assertEqual(self.closedReason(pair.client).code, 4000)
        self.assertLess(len(pair.client.retrieved), 3)

    def test_slowConsumerForEver(self) -> None:
        """
        The same if it never reads: then it is aborted in time, and the entry
        still says why.
        """
        pair = self.pair(Recorder(), server={"sendBuffer": 1000})
        pair.network.links[0].toClient.stalled = True
        sent = [pair.accepted.sendData("x" * 36) for _ in range(12)]
        pair.advance(29)
        self.assertFalse(pair.accepted.isOver)
        pair.advance(1)
        lost = self.entries(pair.server)[-1]
        self.assertIn("4000", lost.reason)
        for result in sent:
            self.assertClosed(result)

    def test_handlersSend(self) -> None:
        """On a server with a handler, a message that is too big still fails."""
        pair = self.pair(Recorder(), client={"maxMessage": 5})
        self.failureResultOf(pair.accepted.sendData("x" * 6), MessageTooBig)
        pair.client.abort()
        pair.deliver()
        self.assertClosed(pair.accepted.sendData("x"))

    def test_unseen(self) -> None:
        """
        That a message was not accepted is in the log if nobody looks, but of one key,
        which may announce what makes all fail, only so often: as failures of a handler.
        """
        most = int(FAILURES_TOLD * BURST_SECONDS)
        for handler in (Recorder(), None):
            pair = self.pair(handler, client={"maxMessage": 1})
            for sent, told in ((most - 1, most - 1), (5, 1), (5, 0)):
                for number in range(sent):
                    if number % 2:
                        pair.accepted.sendData("xx")
                    else:
                        pair.server.sendTo("xx", pair.accepted.address)
                errors = self.flushLoggedErrors(MessageTooBig)
                self.assertEqual(len(errors), told)
            self.failureResultOf(pair.accepted.sendData("xx"), MessageTooBig)
            pair.advance(1)
            for _ in range(2):
                pair.accepted.sendData("xx")
            self.assertEqual(len(self.flushLoggedErrors(MessageTooBig)), 1)

    def test_neverReads(self) -> None:
        """
        A peer that never reads does not make the server grow past
        C{sendBuffer}: what is not in flight is not encrypted either.
        """
        pair = self.pair(server={"sendBuffer": 4 * MIB})
        link = pair.network.links[0]
        link.toClient.stalled = True
        refused = 0
        for _ in range(100):
            sent = pair.server.sendTo(b"x" * 65536, pair.accepted.address)
            full: list[Any] = []
            sent.addErrback(full.append)
            refused += [failure.type for failure in full] == [SendBufferFull]
            pair.deliver()
        self.assertGreaterEqual(refused, 36)
        self.assertLessEqual(len(link.toClient.inFlight), 2 * MIB // 4)
        self.assertLessEqual(pair.accepted._outbox.keptCost, 4 * MIB)
        pair.client.abort()


class ReceiveBufferTests(PairTestCase):
    """C{receiveBuffer} holds back a peer whose packets nobody takes, and only that."""

    def test_heldBack(self) -> None:
        """An application that never takes holds C{receiveBuffer} and one message."""
        pair = self.pair(server={"receiveBuffer": 1000})
        sent = [pair.client.sendData("x" * 36) for _ in range(100)]
        pair.deliver()
        self.assertEqual(len(pair.accepted.retrieved), 10)
        self.assertEqual([d.called for d in sent], [True] * 10 + [False] * 90)
        for result in sent[10:]:
            result.addErrback(lambda failure: None)

    def test_oneMessageMore(self) -> None:
        """A message larger than C{receiveBuffer} comes through, alone."""
        pair = self.pair(server={"receiveBuffer": 1})
        sent = [pair.client.sendData("x" * MIB) for _ in range(3)]
        for number in range(3):
            pair.deliver()
            self.assertEqual([d.called for d in sent].count(True), number + 1)
            self.assertEqual(len(pair.accepted.retrieved), 1)
            pair.accepted.retrieved.getData()

    def test_taken(self) -> None:
        """
        Whatever takes them lets the peer go on: C{getData}, C{get},
        C{getDataOrdinal}.
        """
        pair = self.pair(server={"receiveBuffer": 1000})
        for number in range(100):
            pair.client.sendData(f"{number:036}")
        stream = pair.accepted.retrieved
        seen = []
        for number in range(100):
            pair.deliver()
            if number % 3 == 0:
                packet: Any = stream.getData()
            elif number % 3 == 1:
                packet = self.successResultOf(stream.get())
            else:
                packet = pair.server.connections.getDataOrdinal()[1]
            seen.append(int(packet.data))
            self.assertLessEqual(len(stream), 11)
        self.assertEqual(seen, list(range(100)))

    def test_othersPass(self) -> None:
        """Acknowledgements, messages the other way, heartbeats and CLOSE still pass."""
        pair = self.pair(receiveBuffer=1000, heartbeat=1)
        for _ in range(100):
            pair.client.sendData("x" * 36)
        pair.advance(60)
        back = pair.accepted.sendData("back")
        pair.deliver()
        self.successResultOf(back)
        pair.client.close()
        pair.advance(5)
        self.assertTrue(pair.client.isOver)
        self.assertEqual(len(pair.accepted.retrieved), 10)

    def test_client(self) -> None:
        """The client's application holds the server back just so."""
        pair = self.pair(client={"receiveBuffer": 1000})
        for _ in range(100):
            pair.accepted.sendData("x" * 36)
        pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 10)
        for _ in range(100):
            pair.client.retrieved.getData()
            pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 0)


class ClosedTests(PairTestCase):
    """C{closed} and C{close}."""

    def test_closed(self) -> None:
        """It fires with the reason for all who ask, before and after."""
        pair = self.pair()
        waiting = [pair.accepted.closed() for _ in range(3)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        pair.client.close("done")
        pair.deliver()
        reasons: list[Any] = [self.successResultOf(w) for w in waiting[1:]]
        reasons.append(self.closedReason(pair.accepted))
        for reason in reasons:
            self.assertIsInstance(reason, ConnectionClosed)
            self.assertEqual((reason.code, reason.reason), (1000, "done"))

    def test_cancelEachOther(self) -> None:
        """One that fires may cancel the others."""
        pair = self.pair()
        waiting = [pair.client.closed() for _ in range(3)]
        waiting[0].addCallback(cancelling(waiting[1:]))
        pair.client.abort()
        pair.deliver()
        for other in waiting[1:]:
            self.failureResultOf(other, CancelledError)

    def test_endedByAcknowledged(self) -> None:
        """
        What the peer has acknowledged it has, also if the first who is told of that
        ends the connection.
        """
        pair = self.pair(Recorder(), server={"sendBuffer": 1000})
        pair.accepted.sendData("leaves at once, and the others together")
        sent = [pair.accepted.sendData("x") for _ in range(3)]

        def fill(nothing: None) -> None:
            """Send more than there is room for, at which the peer is closed."""
            pair.accepted.sendData(bytes(1000))

        sent[0].addCallback(fill)
        for each in sent[1:]:
            self.assertNoResult(each)
        pair.deliver()
        self.assertEqual(self.closedReason(pair.client).code, 4000)
        for each in sent:
            self.successResultOf(each)

    def test_close(self) -> None:
        """C{close} fires with None once the connection is gone, each time."""
        pair = self.pair()
        closing = [pair.client.close(), pair.client.close("again")]
        self.assertNoResult(closing[0])
        pair.deliver()
        for deferred in closing:
            self.assertIsNone(self.successResultOf(deferred))
        self.assertIsNone(self.successResultOf(pair.client.close()))
        self.assertEqual(self.closedReason(pair.client).code, 1000)

    def test_wrongReason(self) -> None:
        """
        Words that are no text, and codes that are no such numbers, are the caller's
        error, at once, and change nothing.
        """
        pair = self.pair()
        for wrong in (b"bye", None, 3):
            words: Any = wrong
            self.assertRaises(TypeError, pair.client.close, words)
        for code in (-1, 1 << 16):
            self.assertRaises(ValueError, pair.client.closeWith, code, "")
        for strange in ("1000", 1000.0, None):
            code = cast(Any, strange)
            self.assertRaises(TypeError, pair.client.closeWith, code, "")
        sent = pair.client.sendData("x")
        pair.deliver()
        self.successResultOf(sent)

    def test_repr(self) -> None:
        """It shows who is there, and no more."""
        pair = self.pair()
        self.assertIn("open", repr(pair.client))
        self.assertIn(str(pair.client.peer), repr(pair.client))
        pair.client.close()
        pair.deliver()
        self.assertIn("closed", repr(pair.client))

    def test_sendWhileClosing(self) -> None:
        """After C{close} nothing more is accepted; what was is delivered."""
        pair = self.pair()
        before = pair.client.sendData("before")
        pair.client.close()
        after = pair.client.sendData("after")
        self.assertIn("nothing can be sent", str(self.assertClosed(after)))
        pair.deliver()
        self.successResultOf(before)
        self.assertEqual([p.data for p in pair.accepted.retrieved], ["before"])

    def test_asyncFor(self) -> None:
        """C{async for} ends with the connection."""
        pair = self.pair()

        async def collect() -> list[Any]:
            """Take all."""
            return [data async for _, data in pair.client.retrieved]

        collected: Deferred[list[Any]] = ensureDeferred(collect())
        pair.accepted.sendData("a")
        pair.deliver()
        pair.accepted.sendData("b")
        pair.accepted.close()
        pair.deliver()
        self.assertEqual(self.successResultOf(collected), ["a", "b"])


class RandomTests(PairTestCase):
    """Whatever two sides and the network do."""

    @settings(max_examples=100, deadline=None, database=None)
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from(STEPS),
                st.booleans(),
                st.integers(1, 300),
            ),
            max_size=60,
        ),
        small=st.booleans(),
        handled=st.booleans(),
    )
    def test_promises(
        self, steps: list[tuple[str, bool, int]], small: bool, handled: bool
    ) -> None:
        """
        What arrives is what was sent, in order, once; what is acknowledged has
        arrived; each Deferred fires once; the end of one side becomes the end of
        the other.
        """
        working: list[Deferred[None]] = []

        def react(connection: Connection, packet: Packet) -> Deferred[None]:
            """
            Take time.

            @param connection: where.
            @param packet: what.
            """
            working.append(Deferred())
            return working[-1]

        handler = Recorder(react)
        pair = connectedPair(
            handler if handled else None, receiveBuffer=1000 if small else 1 << 20
        )
        sides = (pair.client, pair.accepted)
        sent: tuple[list[str], list[str]] = ([], [])
        had: tuple[list[str], list[str]] = ([], [])
        failed: tuple[list[str], list[str]] = ([], [])
        taken: tuple[list[Any], list[Any]] = ([], [])
        link = pair.network.links[0]

        def send(side: int, text: str) -> None:
            """
            Send, and remember what becomes of it.

            @param side: from where.
            @param text: what.
            """
            sent[side].append(text)
            sides[side].sendData(text).addCallbacks(
                lambda _: had[side].append(text), lambda _: failed[side].append(text)
            )

        for what, second, number in steps:
            side, pipe = int(second), link.toClient if second else link.toServer
            match what:
                case "send":
                    send(side, f"{len(sent[side])}:".ljust(number, "x"))
                case "round":
                    link.deliver(number)
                case "take" if handled and second:
                    if working and not working[-1].called:
                        working[-1].callback(None)
                case "take" if (packet := sides[side].retrieved.getData()) is not None:
                    taken[side].append(packet.data)
                case "stall":
                    pipe.stalled = not pipe.stalled
                case "close":
                    sides[side].close()
                case "abort":
                    sides[side].abort()
                case "cut" if number > 200:
                    link.cut()
                case "second":
                    pair.clock.advance(number / 100)
                case "corrupt" if number > 200 and pipe.inFlight:
                    pipe.corrupt()
        self.takeDown(pair.network, pair.server, taking=False)
        for side in (0, 1):
            self.assertTrue(sides[side].isOver)
            other = 1 - side
            arrived = taken[other] + [p.data for p in sides[other].retrieved]
            if handled and other:
                arrived = handler.data
                done = sum(deferred.called for deferred in working)
                self.assertLessEqual(len(had[side]), done)
            self.assertEqual(arrived, sent[side][: len(arrived)])
            self.assertEqual(had[side], sent[side][: len(had[side])])
            self.assertLessEqual(len(had[side]), len(arrived))
            self.assertEqual(sorted(had[side] + failed[side]), sorted(sent[side]))
        if handled:
            self.assertEqual(handler.names.count("accepted"), 1)
            self.assertEqual(handler.names.count("lost"), 1)
            self.assertEqual(handler.names[-1], "lost")
