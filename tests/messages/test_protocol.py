"""
Tests for L{aesm.messages.protocol}: what passes between the two ends of a connection
beside messages: close, heartbeat, and what breaks the rules.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any
from unicodedata import category

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from aesm import (
    Connection,
    ConnectionClosed,
    HeartbeatLost,
    InvalidText,
    MessageTooBig,
    NotAuthorized,
    Packet,
    ProtocolError,
    Truncated,
)
from aesm.core.messages.batch import Batch
from aesm.core.messages.conversation import ACK_DELAY
from aesm.core.messages.frames import (
    EncodedResponse,
    FrameType,
    encodeAck,
    encodeClose,
    encodeFrame,
)
from aesm.core.messages.requests import encodeWithdrawal
from aesm.core.messages.session import Session
from aesm.core.messages.states import ConversationState
from aesm.messages.owner import ConnectionOwner
from aesm.messages.protocol import AESMProtocol
from aesm.testing import ConnectedPair
from aesm.testing.transport import BUFFER
from aesm.trust.keys import PublicKey
from tests.support.helpers import oneTurn
from tests.support.pairs import PairTestCase, Recorder

EVIL = "a\nb\rc\x1b[31m\u2028\u2029\u0085\u202e\0"


def innerOf(pair: ConnectedPair) -> AESMProtocol:
    """
    Find the protocol of a pair's server.

    @param pair: the pair.
    """
    secure: Any = pair.network.links[0].server.protocol
    inner: AESMProtocol = secure.inner
    return inner


class CloseTests(PairTestCase):
    """The orderly close."""

    def test_interfaces(self) -> None:
        """The protocol has what its transport asks for."""
        inner = innerOf(self.pair())
        verifyObject(IHalfCloseableProtocol, inner)
        verifyObject(IPushProducer, inner)

    def test_queued(self) -> None:
        """
        From either side: what was sent before is delivered and acknowledged, and
        both sides have the code and the words.
        """
        for ours in (True, False):
            pair = self.pair()
            here, there = pair.client, pair.accepted
            if not ours:
                here, there = there, here
            sent = [here.sendData(b"x" * 100_000) for _ in range(20)]
            closed = here.close("that is all")
            pair.deliver()
            for result in sent:
                self.successResultOf(result)
            self.successResultOf(closed)
            self.assertEqual(len(there.retrieved), 20)
            for connection in (here, there):
                reason = self.closedReason(connection)
                self.assertEqual((reason.code, reason.reason), (1000, "that is all"))
            self.assertEqual(pair.network.links, [])
            pair.server.connections.getDataOrdinal()

    def test_queuedBehindWindow(self) -> None:
        """
        What waits for the peer's application is still delivered, if that takes it
        in time.
        """
        pair = self.pair(server={"receiveBuffer": 1000})
        sent = [pair.client.sendData("x" * 36) for _ in range(25)]
        closed = pair.client.close()
        for _ in range(25):
            pair.advance(0.1)
            pair.accepted.retrieved.getData()
        pair.deliver()
        self.successResultOf(closed)
        self.assertEqual(self.closedReason(pair.client).code, 1000)
        for result in sent:
            self.successResultOf(result)

    def test_bothQueued(self) -> None:
        """
        What the other side had queued is delivered, too; it is told that it may
        not be.
        """
        pair = self.pair()
        theirs = pair.accepted.sendData("theirs")
        ours = pair.client.sendData("ours")
        pair.client.close()
        pair.deliver()
        self.successResultOf(ours)
        self.assertClosed(theirs, 1000)
        self.assertEqual(pair.client.retrieved[0].data, "theirs")

    def test_bothAtOnce(self) -> None:
        """Both may close at the same moment."""
        pair = self.pair()
        closed = pair.client.close("c"), pair.accepted.close("s")
        pair.deliver()
        for deferred in closed:
            self.successResultOf(deferred)
        for connection, words in ((pair.client, "c"), (pair.accepted, "s")):
            self.assertEqual(self.closedReason(connection).reason, words)
        self.assertEqual(pair.network.links, [])

    def test_inPieces(self) -> None:
        """Byte by byte, with the close of both sides at any moment of the other's."""
        for steps in range(0, 120, 7):
            pair = self.pair()
            link = pair.network.links[0]
            pair.client.sendData("x")
            pair.client.close()
            for _ in range(steps):
                link.deliver(1)
            pair.accepted.close()
            pair.network.chunkSize = 1
            pair.deliver()
            for connection in (pair.client, pair.accepted):
                self.assertEqual(self.closedReason(connection).code, 1000)

    def test_longReason(self) -> None:
        """Words that are too long are cut, and never within a character."""
        pair = self.pair()
        pair.client.close("é" * 1000)
        pair.deliver()
        self.assertEqual(self.closedReason(pair.accepted).reason, "é" * 512)

    def test_deadline(self) -> None:
        """A peer that never answers is given 5 seconds, on either side."""
        for ours in (True, False):
            pair = self.pair()
            here = pair.client if ours else pair.accepted
            link = pair.network.links[0]
            (link.toClient if ours else link.toServer).stalled = True
            here.sendData("unacknowledged")
            closed = here.close()
            pair.advance(4.99)
            self.assertNoResult(closed)
            pair.advance(0.01)
            self.successResultOf(closed)
            reason = self.closedReason(here)
            self.assertEqual(reason.code, 1006)
            self.assertIn("within 5 seconds", str(reason))

    def test_leaves(self) -> None:
        """
        A client whose messages are acknowledged, and that has none in part, does not
        wait for the server, which is told all the same; what was on its way meanwhile
        is dropped, and its sender told.
        """
        pair = self.pair()
        link = pair.network.links[0]
        acknowledged = pair.client.sendData("x")
        pair.deliver()
        self.successResultOf(acknowledged)
        theirs = pair.accepted.sendData("theirs")
        closed = pair.client.close("bye")
        self.assertNoResult(closed)
        pair.clock.advance(0)
        self.successResultOf(closed)
        self.assertEqual(self.closedReason(pair.client).code, 1000)
        self.assertEqual(len(pair.client.retrieved), 0)
        self.assertFalse(link.client.disconnecting)
        pair.deliver()
        reason = self.closedReason(pair.accepted)
        self.assertEqual((reason.code, reason.reason), (1000, "bye"))
        self.assertClosed(theirs, 1000)
        self.assertEqual(pair.network.links, [])

    def test_leavesInPieces(self) -> None:
        """So it is however the server's bytes come, and whenever it closes as well."""
        for steps in range(0, 80, 3):
            pair = self.pair()
            pair.network.chunkSize = 1
            theirs = pair.accepted.sendData("theirs")
            for _ in range(steps):
                pair.network.links[0].deliver(1)
            closed = pair.client.close()
            pair.accepted.close()
            pair.deliver()
            self.successResultOf(closed)
            for connection in (pair.client, pair.accepted):
                self.assertEqual(self.closedReason(connection).code, 1000)
            theirs.addErrback(Failure.trap, ConnectionClosed)
            self.successResultOf(theirs)
            self.assertEqual(pair.network.links, [])

    def test_leavesOnceWritten(self) -> None:
        """It waits until all is written, and no longer than 5 seconds for that."""
        for seconds in (3, 5):
            pair = self.pair()
            link = pair.network.links[0]
            link.toServer.stalled = True
            link.toServer.inFlight += bytes(BUFFER + 1)
            link.client.write(b"")
            closed = pair.client.close()
            pair.advance(seconds - 0.01)
            self.assertNoResult(closed)
            if seconds == 3:
                link.toServer.inFlight.clear()
                link.toServer.stalled = False
            pair.advance(0.01)
            self.successResultOf(closed)
            code = 1000 if seconds == 3 else 1006
            self.assertEqual(self.closedReason(pair.client).code, code)
            link.toServer.stalled = False
            pair.deliver()
            self.assertEqual(self.closedReason(pair.accepted).code, code)

    def test_lingers(self) -> None:
        """What it has left is read until the server closes, and 5 seconds at most."""
        pair = self.pair()
        link = pair.network.links[0]
        link.toServer.stalled = True
        self.assertNoResult(pair.client.close())
        pair.accepted.sendData(bytes(100_000))
        pair.advance(4.99)
        self.assertEqual(link.toClient.inFlight, b"")
        self.assertFalse(link.client.lost)
        pair.advance(0.01)
        self.assertTrue(link.client.lost)
        self.assertEqual(self.closedReason(pair.client).code, 1000)

    def test_serverWaits(self) -> None:
        """A server waits for its clients: until they are gone their places are."""
        pair = self.pair()
        pair.network.links[0].toServer.stalled = True
        closed = pair.accepted.close()
        pair.advance(4)
        self.assertNoResult(closed)

    def test_deadlineWhenItNeverReads(self) -> None:
        """The same for one that never reads, however much is queued."""
        pair = self.pair()
        pair.network.links[0].toClient.stalled = True
        sent = [pair.accepted.sendData(b"x" * 100_000) for _ in range(50)]
        closed = pair.accepted.close()
        pair.advance(5)
        self.successResultOf(closed)
        for result in sent:
            self.assertClosed(result)

    def test_deadlineOfTheOther(self) -> None:
        """
        A peer's close ends in 5 seconds, too, if our handler does not come to an
        end; the heartbeat does not keep the processor busy meanwhile.
        """
        pair = self.pair(Recorder(lambda *_: Deferred()), server={"heartbeat": 0.1})
        sent = pair.client.sendData("x")
        pair.client.close()
        pair.deliver()
        calls = [repr(call) for call in pair.clock.getDelayedCalls()]
        self.assertEqual([call for call in calls if "_tick" in call], [])
        pair.advance(4.99)
        self.assertFalse(pair.accepted.isOver)
        pair.advance(0.01)
        self.assertTrue(pair.accepted.isOver)
        self.assertClosed(sent)

    def test_abortTells(self) -> None:
        """An abort is no close: the peer sees a cut."""
        pair = self.pair()
        pair.client.abort()
        pair.client.abort()
        pair.deliver()
        self.assertIsInstance(self.closedReason(pair.accepted), Truncated)
        self.assertEqual(self.closedReason(pair.client).code, 1006)

    def test_closeThenAbort(self) -> None:
        """One may lose patience."""
        pair = self.pair()
        pair.network.links[0].toServer.stalled = True
        closed = pair.client.close()
        pair.client.abort()
        pair.deliver()
        self.successResultOf(closed)

    def test_endWithoutClose(self) -> None:
        """A peer that just ends its stream has closed, without a code."""
        pair = self.pair()
        channel: Any = pair.client["encryption"]
        sent = pair.accepted.sendData("x")
        channel.loseWriteConnection()
        pair.advance(6)
        self.assertClosed(sent, 1005)
        self.assertEqual(self.closedReason(pair.accepted).code, 1005)

    def test_words(self) -> None:
        """
        The peer's words reach the program as they are, and the log without
        anything that could forge a line, on either side; our own do, too.
        """
        for ours in (True, False):
            with capturedLogs() as events:
                pair = self.pair()
                connection = pair.accepted if ours else pair.client
                connection.closeWith(4000, EVIL)
                pair.deliver()
            self.assertEqual(self.closedReason(pair.client).reason, EVIL)
            self.assertEqual(self.closedReason(pair.accepted).reason, EVIL)
            for event in events:
                text = formatEvent(event)
                bad = [c for c in text if category(c) in ("Cc", "Cf", "Zl", "Zp")]
                self.assertEqual(bad, [], text)

    def test_peerSays1008(self) -> None:
        """
        A client that says 1008 does not make the server believe that its own key
        was refused; a server that says so does.
        """
        pair = self.pair()
        pair.client.closeWith(1008, "no")
        pair.deliver()
        self.assertEqual(self.closedReason(pair.accepted).code, 1008)
        pair = self.pair()
        pair.accepted.closeWith(1008, "no")
        pair.deliver()
        self.assertIsInstance(self.closedReason(pair.client), NotAuthorized)


class HeartbeatTests(PairTestCase):
    """A peer that is silent is asked for a sign of life, and given up."""

    def test_ping(self) -> None:
        """
        After C{heartbeat} seconds of silence a PING asks; the answer keeps the
        connection for ever.
        """
        pair = self.pair(server={"heartbeat": 10})
        link = pair.network.links[0]
        pair.advance(9.9)
        link.toClient.stalled = True
        self.assertEqual(link.toClient.inFlight, b"")
        pair.advance(0.1)
        self.assertNotEqual(link.toClient.inFlight, b"")
        link.toClient.stalled = False
        pair.advance(1000)
        self.assertFalse(pair.accepted.isOver or pair.client.isOver)

    def test_lost(self) -> None:
        """After twice that the peer is given up."""
        pair = self.pair(server={"heartbeat": 10})
        pair.network.links[0].toServer.stalled = True
        pair.network.links[0].toClient.stalled = True
        pair.advance(19.9)
        self.assertFalse(pair.accepted.isOver)
        pair.advance(0.2)
        reason = self.closedReason(pair.accepted)
        self.assertIsInstance(reason, HeartbeatLost)
        self.assertIn("20.0 seconds", str(reason))
        self.assertEqual(self.entries(pair.server)[-1].reason, str(reason))

    def test_anythingCounts(self) -> None:
        """Whatever comes is a sign of life."""
        pair = self.pair(server={"heartbeat": 10}, client={"heartbeat": 1000})
        link = pair.network.links[0]
        link.toClient.stalled = True
        for _ in range(20):
            pair.client.sendData("x")
            pair.advance(9)
        self.assertFalse(pair.accepted.isOver)
        pair.client.abort()

    def test_clockJumps(self) -> None:
        """
        After a jump of the clock, as when a machine was asleep, the peer is asked
        before it is given up.
        """
        pair = self.pair(heartbeat=10)
        pair.clock.advance(3600)
        pair.deliver()
        pair.advance(100)
        self.assertFalse(pair.accepted.isOver or pair.client.isOver)

    def test_oddTimes(self) -> None:
        """Seconds that binary fractions cannot say do not make it turn in place."""
        pair = self.pair(heartbeat=0.7)
        for _ in range(30):
            pair.advance(0.1)
        pair.client.sendData("x")
        pair.advance(1000)
        self.assertFalse(pair.accepted.isOver or pair.client.isOver)


class RuleTests(PairTestCase):
    """What is against the rules ends the connection, with the code that says why."""

    def check(self, frame: bytes, error: type[Exception], code: int) -> ConnectedPair:
        """
        Let the client send something.

        @param frame: what it sends.
        @param error: what the server is to see.
        @param code: what the client is to be told.
        @return: the pair.
        """
        pair = self.pair()
        channel: Any = pair.client["encryption"]
        before, after = pair.client.sendData("before"), pair.accepted.sendData("x")
        pair.deliver()
        channel.write(frame)
        pair.client.sendData("behind")
        pair.deliver()
        self.assertEqual(type(self.closedReason(pair.accepted)), error)
        self.assertEqual(self.closedReason(pair.client).code, code)
        self.assertEqual([p.data for p in pair.accepted.retrieved], ["before"])
        self.successResultOf(before)
        self.successResultOf(after)
        events = [entry.event for entry in self.entries(pair.server)]
        self.assertEqual(events, ["accepted", "lost"])
        return pair

    def test_unknownType(self) -> None:
        """A type that does not exist: 1002."""
        frame = b"\0\0\0\0\x63" + bytes(8)
        self.check(frame, ProtocolError, 1002)

    def test_welcome(self) -> None:
        """A WELCOME from a client: 1002."""
        self.check(encodeFrame(FrameType.WELCOME, 0, b"{}"), ProtocolError, 1002)

    def test_tooBig(self) -> None:
        """A message that is too big, from its header on: 1009."""
        header = encodeFrame(FrameType.BINARY, 0)
        frame = (2**20 + 1).to_bytes(4, "big") + header[4:]
        self.check(frame, MessageTooBig, 1009)

    def test_badText(self) -> None:
        """Text that is not UTF-8: 1007."""
        self.check(encodeFrame(FrameType.TEXT, 0, b"\xff"), InvalidText, 1007)

    def test_backwards(self) -> None:
        """An ACK that goes backwards: 1002."""
        self.check(encodeAck(0, 0, 1 << 40), ProtocolError, 1002)

    def test_pastLimit(self) -> None:
        """A message past the limit that was announced: 1002."""
        pair = self.pair(server={"receiveBuffer": 100})
        channel: Any = pair.client["encryption"]
        for _ in range(3):
            channel.write(encodeFrame(FrameType.BINARY, 0, b"x" * 36))
        pair.deliver()
        self.assertEqual(len(pair.accepted.retrieved), 1)
        self.assertEqual(self.closedReason(pair.client).code, 1002)

    def test_behindClose(self) -> None:
        """Anything behind a CLOSE."""
        pair = self.pair()
        channel: Any = pair.client["encryption"]
        channel.write(encodeClose(0, 1000, "") + encodeFrame(FrameType.TEXT, 0, b"x"))
        pair.advance(6)
        self.assertIsInstance(self.closedReason(pair.accepted), ProtocolError)
        self.assertEqual(len(pair.accepted.retrieved), 0)

    def test_peerNeverReads(self) -> None:
        """A peer that breaks the rules and never reads is aborted in time."""
        pair = self.pair()
        pair.network.links[0].toClient.stalled = True
        channel: Any = pair.client["encryption"]
        channel.write(b"\0\0\0\0\x63" + bytes(8))
        pair.advance(4.9)
        self.assertFalse(pair.accepted.isOver)
        pair.advance(0.2)
        self.assertIsInstance(self.closedReason(pair.accepted), ProtocolError)

    def test_half(self) -> None:
        """A stream that ends within a frame."""
        pair = self.pair()
        channel: Any = pair.client["encryption"]
        channel.write(encodeFrame(FrameType.TEXT, 0, b"xyz")[:-1])
        channel.loseWriteConnection()
        pair.advance(6)
        self.assertIsInstance(self.closedReason(pair.accepted), ProtocolError)

    def test_pings(self) -> None:
        """Many PINGs at once cost one answer, and nothing else."""
        pair = self.pair()
        channel: Any = pair.client["encryption"]
        pair.network.links[0].toClient.stalled = True
        channel.write(encodeFrame(FrameType.PING, 0, b"p" * 64) * 20)
        pair.deliver()
        self.assertLess(len(pair.network.links[0].toClient.inFlight), 200)
        pair.network.links[0].toClient.stalled = False
        pair.deliver()
        self.assertFalse(pair.client.isOver, pair.accepted.closed())

    def test_otherTransports(self) -> None:
        """Whatever the transport says at its end becomes a L{ConnectionClosed}."""
        inner = innerOf(self.pair())
        for value, words in (
            (None, "was closed"),
            (OSError("cable"), "was lost: cable"),
        ):
            reason = inner._whyLost(value)
            self.assertIsInstance(reason, ConnectionClosed)
            self.assertIn(words, str(reason))


class BackPressureTests(PairTestCase):
    """What the transport does not take waits where it is kept anyway."""

    def test_paused(self) -> None:
        """No more than a budget is in flight; all of it arrives, in order."""
        pair = self.pair()
        link = pair.network.links[0]
        link.toServer.stalled = True
        for number in range(2000):
            pair.client.sendData(number.to_bytes(2, "big") * 500)
        pair.deliver()
        self.assertLess(len(link.toServer.inFlight), 400_000)
        link.toServer.stalled = False
        pair.deliver()
        bodies: list[Any] = [packet.data for packet in pair.accepted.retrieved]
        numbers = [int.from_bytes(body[:2], "big") for body in bodies]
        self.assertEqual(numbers, list(range(2000)))

    def test_oneTurn(self) -> None:
        """
        The first message of a quiet connection leaves at once; the others of the
        same turn share a record.
        """
        pair = self.pair()
        inFlight = pair.network.links[0].toServer.inFlight
        pair.client.sendData("first")
        first = len(inFlight)
        self.assertGreater(first, 0)
        for _ in range(100):
            pair.client.sendData("x")
        self.assertEqual(len(inFlight), first)
        pair.clock.advance(0)
        self.assertLess(len(inFlight) - first, 2 + 16 + 13 + 4 + 500 + 2 + 16)

    def test_noLongerQuiet(self) -> None:
        """
        In the turn behind one of several messages the first waits for the others; in
        the turn behind one of a single message it leaves at once again.
        """
        pair = self.pair()
        inFlight = pair.network.links[0].toServer.inFlight
        for count, atOnce in ((3, True), (3, False), (1, False), (1, True), (2, True)):
            before = len(inFlight)
            pair.client.sendData("first")
            self.assertEqual(len(inFlight) > before, atOnce)
            for _ in range(count - 1):
                pair.client.sendData("more")
            pair.clock.advance(0)
            self.assertGreater(len(inFlight), before)
        pair.deliver()
        self.assertEqual(len(pair.accepted.retrieved), 10)

    def streaming(self, handler: object = None, **options: Any) -> ConnectedPair:
        """
        Make a pair the server of which always knows that there is more to be read.

        @param handler: the server's.
        @param options: as L{connectedPair<aesm.testing.network.connectedPair>}.
        """
        pair = self.pair(handler, **options)
        secure: Any = pair.accepted["encryption"]
        secure._secure._full = 1  # byte, with which a read is as large as can be
        return pair

    def burst(self, pair: ConnectedPair) -> int:
        """
        Send something that is no dialogue, and let the server read it.

        @param pair: from its client.
        @return: how many bytes the server says.
        """
        (link,) = pair.network.links
        before = len(link.toClient.inFlight)
        for _ in range(3):
            pair.client.sendData(b"x" * 100)
        pair.clock.advance(0)
        link.server.receive(1 << 20)
        return len(link.toClient.inFlight) - before

    def test_acknowledgementWaits(self) -> None:
        """
        While there is more to be read, an ACK waits, but not for long: one is enough
        for many reads.
        """
        pair = self.streaming()
        (link,) = pair.network.links
        self.burst(pair)
        pair.deliver()
        pair.network.advance(ACK_DELAY)
        for _ in range(5):
            self.assertEqual(self.burst(pair), 0)
        pair.clock.advance(ACK_DELAY)
        self.assertEqual(len(link.toClient.inFlight), 2 + 29 + 16)
        pair.deliver()
        self.assertEqual(pair.client.session.outbox.keptCost, 0)

    def test_timerStays(self) -> None:
        """
        The timer of an ACK that waits is not moved with each read, though time goes by
        while one is acted on.
        """

        def slow(connection: Connection, packet: Packet) -> None:
            """
            Take some time.

            @param connection: ignored.
            @param packet: ignored.
            """
            pair.clock.rightNow += ACK_DELAY / 100

        def later(delay: float, call: Any, *arguments: Any) -> Any:
            """
            Call something later, and take note of it.

            @param delay: seconds.
            @param call: what.
            @param arguments: of it.
            """
            called.append(call.__name__)
            return callLater(delay, call, *arguments)

        pair = self.streaming(Recorder(slow))
        called: list[str] = []
        callLater = pair.clock.callLater
        self.patch(pair.clock, "callLater", later)
        for _ in range(5):
            self.assertEqual(self.burst(pair), 0)
        self.assertEqual(called.count("_timedOut"), 1)

    def test_noPatience(self) -> None:
        """An answer does not wait, nor does an ACK without which the peer would."""

        def echo(connection: Connection, packet: Packet) -> None:
            """
            Answer with the same.

            @param connection: where it came from.
            @param packet: the packet.
            """
            connection.sendData(str(packet.data))

        pair = self.streaming(Recorder(echo))
        self.burst(pair)
        self.assertGreater(self.burst(pair), 300)
        pair = self.streaming(receiveBuffer=1000)
        self.assertEqual(self.burst(pair), 0)
        self.assertGreater(self.burst(pair), 0)

    def test_lostWhilePatient(self) -> None:
        """A connection that is lost while an ACK waits leaves nothing to do."""
        pair = self.streaming()
        self.burst(pair)
        pair.network.links[0].cut()
        self.assertEqual(
            [c for c in pair.clock.getDelayedCalls() if "flushLate" in repr(c)], []
        )

    def test_lostInMidTurn(self) -> None:
        """A connection that is lost in the turn of a send leaves nothing to do."""
        pair = self.pair()
        pair.client.sendData("a")
        pair.client.sendData("b")
        pair.network.links[0].cut()
        pair.client.retrieved.getData()
        self.assertEqual(
            [c for c in pair.clock.getDelayedCalls() if "_flushDue" in repr(c)], []
        )


class OwnerTests(PairTestCase):
    """L{ConnectionOwner} is what a protocol tells."""

    def test_defaults(self) -> None:
        """Most of it is nobody's business by default."""
        pair = self.pair()
        inner = innerOf(pair)
        owner = ConnectionOwner()
        owner.accepted(inner, resumed=False)
        self.assertFalse(owner.keeps(pair.accepted))
        owner.lost(pair.accepted, ConnectionClosed("over"))
        owner.finished(pair.accepted)

    def test_cut(self) -> None:
        """By default no session outlives its transport."""
        owner, reason = ConnectionOwner(), ConnectionClosed("cut")
        connection = Connection(
            owner,
            Session(1000, 1000),
            address="unix-1",
            peer=PublicKey(bytes(32)),
            peerName=None,
            receiveBuffer=1000,
        )
        owner.cut(connection, reason)
        self.assertIs(self.successResultOf(connection.closed()), reason)

    def test_time(self) -> None:
        """A message carries the time at which it was sent, by the wall clock."""
        pair = self.pair()
        pair.client.sendData("now")
        pair.deliver()
        packet = pair.accepted.retrieved.getData()
        assert packet is not None
        self.assertLess(abs(packet.time - time.time()), 600)


class DenseTests(PairTestCase):
    """Of many small frames not all are read at once."""

    def test_pieces(self) -> None:
        """
        Once a peer sends such, each turn reads some of them, in order, however the
        records were cut; what large frames follow is read at once again.
        """
        pair = self.pair()
        inner = innerOf(pair)
        stream = b"".join(
            encodeFrame(FrameType.TEXT, number, b"%d" % number)
            for number in range(9000)
        )
        inner.dataReceived(stream[:2000])
        self.assertEqual(pair.accepted.session.inbox.received, 131)
        deliver = inner.transport._secure.act
        deliver([stream[2000:60_000], stream[60_000:]])
        counts = [pair.accepted.session.inbox.received]
        while pair.clock.getDelayedCalls() and counts[-1] < 9000:
            oneTurn(pair.clock)
            counts.append(pair.accepted.session.inbox.received)
        steps = [after - before for before, after in pairwise(counts)]
        self.assertLess(max(steps), 700)
        self.assertEqual(counts[-1], 9000)
        texts = [str(packet.data) for packet in pair.accepted.retrieved]
        self.assertEqual(texts, [str(number) for number in range(9000)])
        large = encodeFrame(FrameType.BINARY, 1, bytes(60_000))
        for _ in range(2):
            deliver([large])
            oneTurn(pair.clock)
        deliver([large])
        self.assertEqual(pair.accepted.session.inbox.received, 9003)
        pair.deliver()

    def test_withdrawals(self) -> None:
        """Nor does a turn read all BATCHes of many withdrawals that are there."""
        pair = self.pair()
        batch = Batch(1, 0, EncodedResponse, 1 << 20)
        batch.bodies = [encodeWithdrawal(0)] * 400
        frames = b"".join(batch.encode(batched=True))
        deliver = innerOf(pair).transport._secure.act
        deliver([encodeFrame(FrameType.TEXT, 1, b"") + frames])
        deliver([frames * 5, frames * 5])
        counts = [401, pair.accepted.session.inbox.received]
        while pair.accepted.isOpen and counts[-1] < 4401:
            oneTurn(pair.clock)
            counts.append(pair.accepted.session.inbox.received)
        self.assertLess(max(after - before for before, after in pairwise(counts)), 900)
        self.assertEqual(counts[-1], 4401)

    def test_closed(self) -> None:
        """A CLOSE behind them is heard in its turn, and an abort ends it all."""
        for abort in (False, True):
            pair = self.pair()
            inner = innerOf(pair)
            stream = encodeFrame(FrameType.TEXT, 1, b"") * 4000
            inner.dataReceived(stream[:2000])
            inner.transport._secure.act([stream[2000:] + encodeClose(1, 1000, "done")])
            self.assertFalse(pair.accepted.isClosing)
            pair.network.links[0].toClient.stalled = True
            if abort:
                pair.accepted.abort()
            for _ in range(10):
                oneTurn(pair.clock)
            if abort:
                self.assertLess(pair.accepted.session.inbox.received, 2000)
            else:
                self.assertEqual(len(pair.accepted.retrieved), 4000)
                self.assertIs(inner.conversation.state, ConversationState.CLOSED)
