"""
A connection joined to a console.
"""

from __future__ import annotations

import gc
import sys
from io import StringIO
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm.console import MAX_LINE, Console, LineTooLong
from aesm.keys import PrivateKey
from aesm.talk import connectOrComplain, talk
from aesm.terminal import JSON, PLAIN
from aesm.testing import ConnectedPair, connectedPair
from aesm.trust import AnyServer


class TalkTests(SynchronousTestCase):
    """
    Lines become messages, and packets lines.
    """

    def begin(self, form: Any = PLAIN, **options: Any) -> ConnectedPair:
        """
        Begin to talk.

        @param form: how messages are written.
        @param options: of L{connectedPair}.
        """
        self.pair = connectedPair(**options)
        self.transport = StringTransport()
        self.console = Console()
        self.console.makeConnection(self.transport)
        self.complaints: list[str] = []
        self.talking = Deferred.fromCoroutine(
            talk(self.pair.client, self.console, form, self.complaints.append)
        )
        return self.pair

    def type(self, data: bytes) -> None:
        """
        Let input come, if it is asked for.

        @param data: the input.
        """
        self.assertEqual(self.transport.producerState, "producing")
        self.console.dataReceived(data)
        self.pair.deliver()

    def received(self) -> list[str | bytes | None]:
        """
        Take what the server has.
        """
        packets = []
        while (packet := self.pair.accepted.retrieved.getData()) is not None:
            packets.append(packet.data)
        return packets

    def test_lines(self) -> None:
        """
        Each line is a message: text, or bytes where it is no UTF-8.
        """
        self.begin()
        self.type(b"hello\n\n\xe4\nrest")
        self.assertEqual(self.received(), ["hello", "", b"\xe4"])
        self.type(b" of it\n")
        self.assertEqual(self.received(), ["rest of it"])
        self.assertNoResult(self.talking)

    def test_packets(self) -> None:
        """
        Each packet is a line.
        """
        pair = self.begin()
        pair.accepted.sendData("one\x1b")
        pair.accepted.sendData(b"two")
        pair.deliver()
        self.assertRegex(
            self.transport.value(),
            rb"\A\d\d:\d\d:\d\d one\\x1b\n\d\d:\d\d:\d\d two\n\Z",
        )

    def test_end(self) -> None:
        """
        At the end of the input the connection is closed, once the peer has all.
        """
        self.begin()
        self.type(b"last")
        self.console.readConnectionLost()
        self.assertFalse(self.pair.client.isOver)
        self.pair.deliver()
        self.assertEqual(self.received(), ["last"])
        self.pair.deliver()
        self.assertTrue(self.successResultOf(self.talking))
        self.assertTrue(self.pair.client.isOver)

    def test_nothing(self) -> None:
        """
        An empty input is sent completely.
        """
        self.begin()
        self.console.readConnectionLost()
        self.pair.deliver()
        self.assertTrue(self.successResultOf(self.talking))

    def test_answers(self) -> None:
        """
        The answers to the last lines are written, too.
        """
        self.begin(handler=None)
        self.pair.accepted.sendData("answer")
        self.console.readConnectionLost()
        self.pair.deliver()
        self.assertIn(b"answer", self.transport.value())
        self.assertTrue(self.successResultOf(self.talking))

    def test_peerCloses(self) -> None:
        """
        When the peer closes first, not all is sent.
        """
        pair = self.begin()
        pair.accepted.sendData("farewell")
        pair.accepted.close()
        pair.deliver()
        self.assertIn(b"farewell", self.transport.value())
        self.assertFalse(self.successResultOf(self.talking))
        self.assertEqual(self.transport.producerState, "paused")

    def test_cutOff(self) -> None:
        """
        What the peer may not have is not counted as sent.
        """
        pair = self.begin(server={"receiveBuffer": 100})
        self.type(b"x" * 200 + b"\nmore\n")
        self.console.readConnectionLost()
        pair.deliver()
        self.assertNoResult(self.talking)
        pair.network.links[0].cut()
        self.assertFalse(self.successResultOf(self.talking))

    def test_backPressure(self) -> None:
        """
        Input waits while the peer takes nothing, and goes on when it does.
        """
        pair = self.begin(server={"receiveBuffer": 1000}, client={"sendBuffer": 10_000})
        typed = 0
        while self.transport.producerState == "producing":
            self.type(b"x" * 500 + b"\n")
            typed += 1
            self.assertLess(typed, 20)
        taken = 0
        for _ in range(20):
            taken += len(self.received())
            pair.deliver()
        self.assertEqual(taken, typed)
        self.assertEqual(self.transport.producerState, "producing")

    def test_outputWaits(self) -> None:
        """
        Packets wait in their stream while the output takes nothing.
        """
        pair = self.begin()
        self.console.pauseProducing()
        for number in range(3):
            pair.accepted.sendData(str(number))
            pair.deliver()
        self.assertEqual(len(pair.client.retrieved), 2)
        self.console.resumeProducing()
        self.assertEqual(self.transport.value().count(b"\n"), 3)

    def test_outputLost(self) -> None:
        """
        Nobody reads the output any more: the connection is closed.
        """
        pair = self.begin()
        self.console.writeConnectionLost()
        pair.deliver()
        self.assertFalse(self.successResultOf(self.talking))
        self.assertTrue(pair.client.isOver)

    def test_refusedLines(self) -> None:
        """
        A line that cannot be sent is complained about, and the next one is sent.
        """
        self.begin(form=JSON)
        self.type(b'nonsense\n \n{"data": "good"}\n')
        self.assertEqual(self.received(), ["good"])
        (complaint,) = self.complaints
        self.assertIn("line 1 of the input is not sent", complaint)

    def test_tooBig(self) -> None:
        """
        So is a message that is larger than the peer takes, by its number.
        """
        self.begin(server={"maxMessage": 10})
        self.type(b"fits\n" + b"x" * 11 + b"\nfits too\n")
        self.assertEqual(self.received(), ["fits", "fits too"])
        (complaint,) = self.complaints
        self.assertIn("line 2 of the input is not sent", complaint)
        self.assertIn("11 bytes", complaint)

    def test_tooLong(self) -> None:
        """
        A line without an end ends everything, in order.
        """
        self.begin()
        self.type(b"before\n")
        self.type(b"x" * (MAX_LINE + 1))
        self.pair.deliver()
        self.failureResultOf(self.talking, LineTooLong)
        self.assertEqual(self.received(), ["before"])
        self.assertTrue(self.pair.client.isOver)

    def test_cancelled(self) -> None:
        """
        Cancelling closes the connection, and nothing is left that waits.
        """
        pair = self.begin()
        self.talking.cancel()
        pair.deliver()
        self.failureResultOf(self.talking)
        self.assertTrue(pair.client.isOver)
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class ConnectTests(SynchronousTestCase):
    """
    Whatever keeps us from connecting is a sentence.
    """

    def attempt(self, endpoint: str, **options: Any) -> Any:
        """
        Try to connect.

        @param endpoint: where to.
        @param options: of L{connect<aesm.connect>}.
        """
        self.reactor = MemoryReactorClock()
        options = {"key": PrivateKey.generate(), "trust": AnyServer()} | options
        return Deferred.fromCoroutine(
            connectOrComplain(self.reactor, endpoint, **options)
        )

    def setUp(self) -> None:
        """
        Catch what is said.
        """
        self.said = StringIO()
        self.patch(sys, "stderr", self.said)

    def assertSaid(self, attempt: Deferred[Any], text: str) -> None:
        """
        Check that there is no connection, and one line that says why.

        @param attempt: what came of it.
        @param text: a part of the line.
        """
        self.assertIsNone(self.successResultOf(attempt))
        self.assertIn(text, self.said.getvalue())
        self.assertEqual(self.said.getvalue().count("\n"), 1)

    def test_noEndpoint(self) -> None:
        """
        What is no endpoint is shown, and what would be one.
        """
        self.assertSaid(self.attempt("127.0.0.1:8765"), "tcp:127.0.0.1:8765")

    def test_badOption(self) -> None:
        """
        An option can be wrong.
        """
        self.assertSaid(self.attempt("unix:/nobody", name="x" * 256), "255 bytes")

    def test_refused(self) -> None:
        """
        Nobody listens.
        """
        attempt = self.attempt("unix:/nobody")
        factory = self.reactor.unixClients[0][1]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        self.assertSaid(attempt, "cannot connect to unix:/nobody")

    def test_noServer(self) -> None:
        """
        Who listens is no server of ours.
        """
        attempt = self.attempt("unix:/somebody")
        protocol = self.reactor.unixClients[0][1].buildProtocol(UNIXAddress("/x"))
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n")
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertSaid(attempt, "aesm: ")
