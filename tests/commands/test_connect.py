"""
A session joined to standard input and output.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterable
from io import StringIO
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
)
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from aesm import ClientService, Server, listen
from aesm.commands.cli import Options
from aesm.commands.connect import (
    ConnectOptions,
    LineClient,
    connectOrReport,
    stopReason,
)
from aesm.commands.formats import JSON, PLAIN
from aesm.commands.stdio import MAX_LINE, LineTooLong, Stdio
from aesm.errors import NotAuthorized, RequestFailed
from aesm.testing import MemoryNetwork
from aesm.trust.keys import PrivateKey
from aesm.trust.servers import AnyServer
from tests.commands.test_cli import CommandTestCase
from tests.secure.test_hosts import Names, resolving

KEY = PrivateKey.generate().publicKey


class LineClientTests(SynchronousTestCase):
    """Lines become messages, and packets lines."""

    def begin(
        self,
        form: Any = PLAIN,
        opening: Callable[[], Iterable[str]] = tuple,
        client: Any = None,
        wait: float = 0.0,
        **options: Any,
    ) -> None:
        """
        Connect, and begin to send.

        @param form: how messages are written.
        @param opening: as L{LineClient}.
        @param client: options of the client.
        @param wait: seconds after the end of the input.
        @param options: options of the server.
        """
        self.network = MemoryNetwork()
        self.options = {"key": PrivateKey.generate()} | options
        self.server = self.serve()
        self.patch(sys, "stderr", StringIO())
        self.transport = StringTransport()
        self.stdio = Stdio()
        self.stdio.makeConnection(self.transport)
        clock = self.network.clock
        self.client = LineClient(form, opening, lambda: deferLater(clock, wait))
        self.service = ClientService(
            self.network.endpoint(),
            reactor=self.network.clock,
            observer=self.client,
            **({"key": PrivateKey.generate(), "trust": AnyServer()} | (client or {})),
        )
        self.service.leaves = False
        self.service.startService()
        self.network.deliver()
        self.running = Deferred.fromCoroutine(self.client.run(self.service, self.stdio))
        self.addCleanup(self.end)

    def end(self) -> None:
        """Stop both, and check that nothing is left."""
        stopped = [self.service.stopService(), self.server.stop(deadline=0.0)]
        self.network.advance(10)
        for deferred in stopped:
            self.successResultOf(deferred)
        self.running.addErrback(lambda failure: None)
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

    def serve(self) -> Server:
        """Start a server, in the place of any other."""
        return self.successResultOf(
            listen(self.network.clock, self.network.endpoint(), **self.options)
        )

    def restart(self) -> None:
        """
        Put another server in the place of the one that is there, in which no
        session is known.
        """
        self.cut()
        self.successResultOf(self.server.stop())
        self.server = self.serve()

    def cut(self) -> None:
        """Cut the connection."""
        self.network.links[-1].cut()
        self.network.deliver()

    @property
    def accepted(self) -> Any:
        """The connection at the server."""
        return list(self.server.connections.values())[-1]

    def type(self, data: bytes) -> None:
        """
        Let input come, if it is asked for.

        @param data: the input.
        """
        self.assertEqual(self.transport.producerState, "producing")
        self.stdio.dataReceived(data)
        self.network.deliver()

    def received(self) -> list[str | bytes | None]:
        """Take what the server has."""
        packets: list[str | bytes | None] = []
        while (packet := self.server.connections.getDataOrdinal()[1]).data is not None:
            packets.append(packet.data)
        return packets

    def said(self) -> list[str]:
        """Take what was said on standard error."""
        said: Any = sys.stderr
        lines: list[str] = said.getvalue().splitlines()
        said.seek(0)
        said.truncate()
        return lines

    def assertEnds(self, inputEnded: bool, failed: bool = False) -> None:
        """
        Check that it has come to an end.

        @param inputEnded: whether because the input had.
        @param failed: whether something may not have been sent.
        """
        self.network.advance(0.1)
        self.assertIs(self.successResultOf(self.running), inputEnded)
        self.assertFalse(self.service.running)
        self.client.reportUnconfirmed()
        self.assertIs(self.client.failed, failed)

    def test_lines(self) -> None:
        """Each line is a message: text, or bytes where it is no UTF-8."""
        self.begin()
        self.type(b"hello\n\n\xe4\nrest")
        self.assertEqual(self.received(), ["hello", "", b"\xe4"])
        self.type(b" of it\n")
        self.assertEqual(self.received(), ["rest of it"])
        self.assertNoResult(self.running)

    def test_packets(self) -> None:
        """Each packet is a line."""
        self.begin()
        self.accepted.sendData("one\x1b")
        self.accepted.sendData(b"two")
        self.network.deliver()
        self.assertRegex(
            self.transport.value(),
            rb"\A\d\d:\d\d:\d\d one\\x1b\n\d\d:\d\d:\d\d two\n\Z",
        )

    def test_request(self) -> None:
        """A request is written as any packet, and refused: nobody could answer it."""
        self.begin()
        answer = self.accepted.request("who?")
        self.network.deliver()
        self.assertIn(b" who?\n", self.transport.value())
        error = self.failureResultOf(answer, RequestFailed).value
        self.assertEqual(error.code, 1003)

    def test_end(self) -> None:
        """At the end of the input the connection is closed, once the peer has all."""
        self.begin()
        self.type(b"last")
        self.stdio.readConnectionLost()
        self.assertTrue(self.service.running)
        self.network.deliver()
        self.assertEqual(self.received(), ["last"])
        self.assertEnds(True)

    def test_nothing(self) -> None:
        """An empty input is sent completely."""
        self.begin()
        self.stdio.readConnectionLost()
        self.assertEnds(True)

    def test_answers(self) -> None:
        """The answers to the last lines are written, too."""
        self.begin()
        self.accepted.sendData("answer")
        self.stdio.readConnectionLost()
        self.assertEnds(True)
        self.assertIn(b"answer", self.transport.value())

    def test_wait(self) -> None:
        """
        It can go on receiving after the end of the input, for a while, also while it
        is cut off.
        """
        self.begin(wait=60.0)
        self.type(b"question")
        self.stdio.readConnectionLost()
        self.network.advance(2)
        self.accepted.sendData("answer")
        self.network.advance(2)
        self.cut()
        self.network.advance(15)
        self.accepted.sendData("another")
        self.network.advance(2)
        self.assertNoResult(self.running)
        self.assertRegex(self.transport.value(), rb"(?s) answer\n.* another\n")
        self.network.advance(60)
        self.assertEnds(True)

    def test_refusedWhileWaiting(self) -> None:
        """It does not wait for what cannot come."""
        self.begin(wait=60.0)
        self.stdio.readConnectionLost()
        self.accepted.closeWith(1008, "no longer")
        self.network.deliver()
        self.assertEnds(False)

    def test_refused(self) -> None:
        """
        When the peer does not want us any more, that is the end, and why is known.
        """
        self.begin()
        self.accepted.sendData("farewell")
        self.accepted.closeWith(1008, "no longer")
        self.network.deliver()
        self.assertIn(b"farewell", self.transport.value())
        self.assertEnds(False)
        self.assertEqual(self.transport.producerState, "paused")
        why = self.successResultOf(Deferred.fromCoroutine(stopReason(self.service)))
        self.assertIsInstance(why, NotAuthorized)

    def test_cut(self) -> None:
        """
        After a cut it goes on: what is typed meanwhile is sent, and what comes is
        written; it is told that the connection was cut and is back, once.
        """
        self.begin()
        self.type(b"before\n")
        self.cut()
        (line,) = self.said()
        self.assertRegex(line, "^aesm: .*; connecting again$")
        self.type(b"meanwhile\n")
        self.accepted.sendData("answer")
        self.network.advance(1)
        self.assertEqual(self.said(), ["aesm: connected again"])
        self.assertEqual(self.received(), ["before", "meanwhile"])
        self.assertIn(b"answer", self.transport.value())
        self.stdio.readConnectionLost()
        self.assertEnds(True)

    def test_oneLine(self) -> None:
        """However many attempts fail, that is told once."""
        self.begin()
        stopped = self.server.stop()
        self.network.deliver()
        self.successResultOf(stopped)
        for _ in range(20):
            self.network.advance(1)
        self.assertEqual(len(self.said()), 1)
        self.server = self.serve()
        self.network.advance(30)
        self.assertEqual(self.said(), ["aesm: connected again, in a new session"])

    def test_sessionLost(self) -> None:
        """
        Where the server has given the session up it is told which lines may not have
        arrived, and the session begins anew, with those that never left.
        """
        self.begin(opening=lambda: ["opening"])
        self.assertEqual(self.received(), ["opening"])
        self.type(b"one\n")
        self.network.links[0].toServer.stalled = True
        self.type(b"two\n")
        self.type(b"three\nfour\n")
        self.cut()
        self.type(b"never left\n")
        self.said()
        self.successResultOf(self.server.stop())
        self.server = self.serve()
        self.network.advance(1)
        self.assertEqual(
            self.said(),
            [
                "aesm: connected again, in a new session",
                "aesm: of lines 2 to 4 of the input some may not have arrived",
            ],
        )
        self.type(b"five\n")
        self.assertEqual(self.received(), ["opening", "never left", "five"])
        self.stdio.readConnectionLost()
        self.assertEnds(True, failed=True)

    def test_lostAtTheEnd(self) -> None:
        """So it is where the input has ended meanwhile."""
        self.begin()
        self.type(b"x" * 200 + b"\n")
        self.network.links[0].toServer.stalled = True
        self.type(b"more\n")
        self.stdio.readConnectionLost()
        self.network.deliver()
        self.assertNoResult(self.running)
        self.restart()
        self.said()
        self.network.advance(1)
        self.assertEnds(True, failed=True)
        self.assertIn("aesm: line 2 of the input may not have arrived", self.said())

    def test_cutAtTheEnd(self) -> None:
        """
        What is not acknowledged when the input has ended and the connection is cut
        then is sent over the next one.
        """
        self.begin(receiveBuffer=100)
        self.type(b"x" * 200 + b"\nmore\n")
        self.stdio.readConnectionLost()
        self.network.deliver()
        self.cut()
        self.network.advance(1)
        self.assertNoResult(self.running)
        self.assertEqual(self.received(), ["x" * 200])
        self.network.deliver()
        self.assertEqual(self.received(), ["more"])
        self.assertEnds(True)

    def endWhileCut(self, typed: bytes) -> None:
        """
        Let the input end while there is no connection.

        @param typed: what is read before it ends.
        """
        self.begin()
        self.type(b"one\n")
        self.cut()
        self.said()
        self.stdio.dataReceived(typed)
        self.stdio.readConnectionLost()

    def test_endWhileCut(self) -> None:
        """At a terminal the end of the input does not wait for a connection."""
        self.patch(os, "isatty", lambda descriptor: True)
        for typed, said in (
            (b"", []),
            (b"kept\n", ["aesm: line 2 of the input may not have arrived"]),
        ):
            self.endWhileCut(typed)
            self.assertEnds(True, failed=bool(said))
            self.assertEqual(self.said(), said)

    def test_pipeEndsWhileCut(self) -> None:
        """All of a pipe or a file is sent, however often it is cut."""
        self.patch(os, "isatty", lambda descriptor: False)
        self.endWhileCut(b"kept\n")
        self.network.advance(1)
        self.assertEqual(self.received()[-1:], ["kept"])
        self.assertEnds(True)

    def test_noSession(self) -> None:
        """What is typed where there is no session waits for one."""
        self.begin(client={"maxMessage": 1000}, maxMessage=10)
        self.accepted.closeWith(1013, "full")
        self.network.deliver()
        self.type(b"meanwhile\n" + b"x" * 11 + b"\nlast\n")
        self.said()
        self.network.advance(1)
        self.assertEqual(self.received(), ["meanwhile", "last"])
        again, complaint = self.said()
        self.assertEqual(again, "aesm: connected again, in a new session")
        self.assertIn("line 2 of the input is not sent: a message of 11", complaint)

    def test_noRoomWithoutSession(self) -> None:
        """More of it than there is room for is left in the input until there is one."""
        self.begin(client={"sendBuffer": 1000})
        self.accepted.closeWith(1013, "full")
        self.network.deliver()
        lines = [f"{number:099}" for number in range(30)]
        self.type("".join(f"{line}\n" for line in lines).encode())
        self.assertEqual(self.transport.producerState, "paused")
        self.network.advance(1)
        self.assertEqual(self.received(), lines)
        self.assertEqual(self.said()[-1], "aesm: connected again, in a new session")

    def test_backPressure(self) -> None:
        """Input waits while the peer takes nothing, and goes on when it does."""
        self.begin(receiveBuffer=1000, client={"sendBuffer": 10_000})
        typed = 0
        while self.transport.producerState == "producing":
            self.type(b"x" * 500 + b"\n")
            typed += 1
            self.assertLess(typed, 20)
        taken = 0
        for _ in range(20):
            taken += len(self.received())
            self.network.deliver()
        self.assertEqual(taken, typed)
        self.assertEqual(self.transport.producerState, "producing")

    def test_lostWhileWaiting(self) -> None:
        """
        Lines that wait for room, or for the server's, when the session is lost go into
        the next one.
        """
        self.begin(receiveBuffer=1, client={"sendBuffer": 1000})
        self.type(b"".join(b"%d\n" % number for number in range(10)))
        self.assertEqual(self.transport.producerState, "paused")
        self.restart()
        self.network.advance(1)
        self.assertEqual(self.said()[-1], "aesm: connected again, in a new session")
        received = []
        while data := self.received():
            received += data
            self.network.deliver()
        self.assertEqual(received[-8:], [str(number) for number in range(2, 10)])

    def test_outputWaits(self) -> None:
        """Packets wait in their stream while the output takes nothing."""
        self.begin()
        self.stdio.pauseProducing()
        for number in range(3):
            self.accepted.sendData(str(number))
            self.network.deliver()
        self.assertEqual(len(self.service.retrieved), 2)
        self.stdio.resumeProducing()
        self.assertEqual(self.transport.value().count(b"\n"), 3)

    def test_outputLost(self) -> None:
        """Nobody reads the output any more: the connection is closed."""
        self.begin()
        self.stdio.writeConnectionLost()
        self.assertEnds(False)

    def test_refusedLines(self) -> None:
        """The user is told of a line that cannot be sent, and the next one is sent."""
        self.begin(form=JSON)
        self.type(b'nonsense\n \n{"data": "good"}\n')
        self.assertEqual(self.received(), ["good"])
        (complaint,) = self.said()
        self.assertIn("line 1 of the input is not sent", complaint)

    def test_tooBig(self) -> None:
        """So is a message that is larger than the peer takes, by its number."""
        self.begin(maxMessage=10)
        self.type(b"fits\n" + b"x" * 11 + b"\nfits too\n")
        self.assertEqual(self.received(), ["fits", "fits too"])
        (complaint,) = self.said()
        self.assertIn("line 2 of the input is not sent", complaint)
        self.assertIn("11 bytes", complaint)
        self.assertIn("--max-message", complaint)

    def test_tooLong(self) -> None:
        """A line without an end ends everything, in order."""
        self.begin()
        self.type(b"before\n")
        self.type(b"x" * (MAX_LINE + 1))
        self.network.deliver()
        self.failureResultOf(self.running, LineTooLong)
        self.assertEqual(self.received(), ["before"])
        self.assertFalse(self.service.running)

    def test_cancelled(self) -> None:
        """
        Cancelling closes the connection at once, and nothing is left that waits, also
        while it is cut, and when the input has ended.
        """
        for isCut in (False, True):
            for hasEnded in (False, True):
                self.begin(receiveBuffer=1)
                self.type(b"one\ntwo\nthree\n")
                if hasEnded:
                    self.stdio.readConnectionLost()
                if isCut:
                    self.cut()
                self.said()
                self.running.cancel()
                self.network.deliver()
                self.failureResultOf(self.running, CancelledError)
                self.assertFalse(self.service.running)
                self.assertEqual(self.said(), [])
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_running(self) -> None:
        """A service that runs has not stopped for any reason."""
        self.begin()
        asking = Deferred.fromCoroutine(stopReason(self.service))
        self.failureResultOf(asking, RuntimeError)


class ConnectTests(SynchronousTestCase):
    """Whatever keeps us from connecting is a sentence."""

    def attempt(self, endpoint: str, **options: Any) -> Any:
        """
        Try to connect.

        @param endpoint: where to.
        @param options: of L{connect<aesm.connect>}.
        """
        self.reactor: Any = resolving(MemoryReactorClock())
        self.reactor.nameResolver = Names()
        options = {"key": PrivateKey.generate(), "trust": AnyServer()} | options
        attempt = Deferred.fromCoroutine(
            connectOrReport(self.reactor, endpoint, LineClient(PLAIN), **options)
        )
        self.turn()
        return attempt

    def turn(self) -> None:
        """Let a few turns of the event loop pass."""
        for _ in range(5):
            self.reactor.advance(0)

    def setUp(self) -> None:
        """Catch what is said."""
        self.said = StringIO()
        self.patch(sys, "stderr", self.said)

    def assertSaid(self, attempt: Deferred[Any], text: str) -> None:
        """
        Check that there is no connection, and one line that says why.

        @param attempt: what came of it.
        @param text: a part of the line.
        """
        self.turn()
        self.assertIsNone(self.successResultOf(attempt))
        self.assertIn(text, self.said.getvalue())
        self.assertEqual(self.said.getvalue().count("\n"), 1)

    def test_noEndpoint(self) -> None:
        """What is no endpoint is shown, and what would be one."""
        self.assertSaid(self.attempt("what:127.0.0.1:8765"), "tcp:127.0.0.1:8765")

    def test_noPort(self) -> None:
        """What it lacks is said of the endpoint, not of arguments of Python."""
        self.assertSaid(self.attempt("tcp:host"), "(tcp: needs a port)")

    def test_badOption(self) -> None:
        """An option can be wrong."""
        self.assertSaid(self.attempt("unix:/nobody", name="x" * 256), "aesm: --name is")

    def test_refused(self) -> None:
        """Nobody listens."""
        attempt = self.attempt("unix:/nobody")
        factory = self.reactor.unixClients[0][1]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        self.assertSaid(attempt, "cannot connect to unix:/nobody")
        self.assertIn("; does the server run?", self.said.getvalue())

    def test_noSuchHost(self) -> None:
        """Nobody asks whether the server runs if its name is wrong, or it hung up."""
        for error, words in (
            (
                DNSLookupError("no results"),
                "unix:/nobody: DNS lookup failed: no results",
            ),
            (ConnectError(errno.ECONNRESET), ": the server hung up; it may be full"),
        ):
            self.setUp()
            attempt = self.attempt("unix:/nobody")
            factory = self.reactor.unixClients[0][1]
            factory.clientConnectionFailed(None, Failure(error))
            self.assertSaid(attempt, words)
            self.assertNotIn("does the server run", self.said.getvalue())

    def test_noHost(self) -> None:
        """
        A host that is not found is perhaps none: what a server listens at begins with
        such a word.
        """
        for endpoint, text in (
            ("websocket:8765", "websocket; websocket: is for servers only"),
            ("tcp:websocket:8765", "websocket\n"),
            ("nosuch.example:8765", "nosuch.example\n"),
            ("nosuch.example", "nosuch.example\n"),
        ):
            self.setUp()
            attempt = self.attempt(endpoint)
            self.assertSaid(attempt, text)

    def test_noServer(self) -> None:
        """Who listens is no server of ours."""
        attempt = self.attempt("unix:/somebody")
        protocol = self.reactor.unixClients[0][1].buildProtocol(UNIXAddress("/x"))
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(b"HTTP/1.1 400 Bad Request\r\n")
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertSaid(attempt, "aesm: ")

    def test_byteStream(self) -> None:
        """Who listens has byte streams: the line says what connects to such a port."""
        attempt = self.attempt("unix:/somebody")
        protocol = self.reactor.unixClients[0][1].buildProtocol(UNIXAddress("/x"))
        protocol.makeConnection(StringTransport())
        told = b"AESM/1 refused: this port carries a byte stream, not messages"
        protocol.dataReceived(b"\0\0" + len(told).to_bytes(2, "big") + told)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertSaid(attempt, "an aesm: endpoint string")


class ConnectOptionsTests(CommandTestCase):
    """The options of C{aesm connect}."""

    def parse(self, *arguments: str) -> ConnectOptions:
        """
        Parse options.

        @param arguments: what follows C{aesm connect}.
        """
        options = Options()
        options.parseOptions(["connect", *arguments])
        connect = options.subOptions
        assert isinstance(connect, ConnectOptions)
        return connect

    def test_order(self) -> None:
        """Options may stand before the endpoint and behind it."""
        for arguments in (
            ["tcp:h:1", "--name", "n", "--json", "--pin", str(KEY)],
            ["--name=n", "--json", "--pin", str(KEY), "tcp:h:1"],
        ):
            options = self.parse(*arguments)
            self.assertEqual(options.endpoint, "tcp:h:1")
            self.assertEqual((options["name"], options["json"]), ("n", 1))
            self.assertEqual(options.pins, [KEY])

    def test_defaults(self) -> None:
        """Nothing but the endpoint is needed."""
        options = self.parse("tcp:h:1")
        self.assertEqual(
            (options["name"], options["key"], options["psk"], options["json"]),
            ("aesm", None, None, 0),
        )

    def test_wait(self) -> None:
        """C{--wait} takes seconds, or -1; C{--receive} has nothing to wait for."""
        for given, wait in (("1.5", 1.5), ("0", 0.0), ("-1", -1.0)):
            self.assertEqual(self.parse("tcp:h:1", "--wait", given).wait, wait)
        for given in ("-2", "nan", "inf", "soon"):
            self.assertIn("--wait", self.bad("connect", "tcp:h:1", "--wait", given))
        both = self.bad("connect", "tcp:h:1", "--wait", "1", "--receive")
        self.assertIn("one of them", both)

    def test_notUTF8(self) -> None:
        """Names are UTF-8: bytes of another encoding are none."""
        for option in ("name", "nick"):
            bad = self.bad("chat", "tcp:h:1", "--nick=n", f"--{option}", "\udce4")
            self.assertIn(f"--{option}: give text in UTF-8", bad)

    def test_wrong(self) -> None:
        """What does not fit is a sentence."""
        self.assertIn("arguments", self.bad("connect"))
        self.assertIn("--pin", self.bad("connect", "tcp:h:1", "--pin", "abc"))
        both = ["connect", "tcp:h:1", "--pin", str(KEY), "--any-server"]
        self.assertIn("one of them", self.bad(*both))
        self.assertIn("regular file", self.bad("connect", "tcp:h:1", "--key", ""))
