"""
Standard input and output, a piece at a time.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.commands.stdio import MAX_LINE, LineTooLong, Stdio, openStdio


class StdioTestCase(SynchronousTestCase):
    """Standard input and output on a transport in memory."""

    def setUp(self) -> None:
        """Put it on a transport."""
        self.transport = StringTransport()
        self.stdio = Stdio()
        self.stdio.makeConnection(self.transport)

    def reading(self) -> bool:
        """Tell whether it takes input."""
        return self.transport.producerState == "producing"


class InputTests(StdioTestCase):
    """Input comes as lines, when it is asked for."""

    def test_interface(self) -> None:
        """It keeps on when one direction has ended, and is told to pause."""
        verifyObject(IHalfCloseableProtocol, self.stdio)
        verifyObject(IPushProducer, self.stdio)

    def test_onlyWhenAsked(self) -> None:
        """Nothing is read unless somebody waits for it."""
        self.assertFalse(self.reading())
        lines = self.stdio.readLines()
        self.assertTrue(self.reading())
        self.stdio.dataReceived(b"a\n")
        self.assertFalse(self.reading())
        self.assertEqual(self.successResultOf(lines), [b"a"])

    def test_lines(self) -> None:
        """Lines are put together from what comes, and none is left out."""
        for chunks, expected in (
            ((b"a", b"b\n\nc\r\nd"), [b"ab", b"", b"c\r"]),
            ((b"", b"e\n"), [b"de"]),
        ):
            lines = self.stdio.readLines()
            for chunk in chunks:
                self.assertNoResult(lines)
                self.stdio.dataReceived(chunk)
            self.assertEqual(self.successResultOf(lines), expected)

    def test_end(self) -> None:
        """
        At the end comes the last line, if it has no end, and then None, as often
        as one asks.
        """
        lines = self.stdio.readLines()
        self.stdio.dataReceived(b"rest")
        self.stdio.readConnectionLost()
        self.assertEqual(self.successResultOf(lines), [b"rest"])
        for _ in range(2):
            self.assertIsNone(self.successResultOf(self.stdio.readLines()))

    def test_endWhileNobodyReads(self) -> None:
        """The end can come before somebody asks."""
        self.stdio.readConnectionLost()
        self.assertIsNone(self.successResultOf(self.stdio.readLines()))

    def test_longest(self) -> None:
        """
        A line of the largest size is taken, a larger one is refused before its end
        has come.
        """
        lines = self.stdio.readLines()
        self.stdio.dataReceived(b"x" * MAX_LINE)
        self.assertNoResult(lines)
        self.stdio.dataReceived(b"\n")
        self.assertEqual(self.successResultOf(lines), [b"x" * MAX_LINE])
        lines = self.stdio.readLines()
        self.stdio.dataReceived(b"x" * (MAX_LINE + 1))
        self.failureResultOf(lines, LineTooLong)
        self.assertFalse(self.reading())

    def test_cancel(self) -> None:
        """Who no longer waits takes nothing."""
        lines = self.stdio.readLines()
        lines.cancel()
        self.failureResultOf(lines, CancelledError)
        self.assertFalse(self.reading())
        self.stdio.dataReceived(b"late\n")


class OutputTests(StdioTestCase):
    """Output goes out as it is taken."""

    def test_write(self) -> None:
        """What is written goes out, and there is room for more."""
        self.assertIsNone(self.successResultOf(self.stdio.write(b"hello\n")))
        self.assertEqual(self.transport.value(), b"hello\n")

    def test_wait(self) -> None:
        """Who writes more than is taken waits."""
        self.assertIs(self.transport.producer, self.stdio)
        self.stdio.pauseProducing()
        first, second = self.stdio.write(b"1"), self.stdio.write(b"2")
        self.assertNoResult(first)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.stdio.resumeProducing()
        self.successResultOf(first)
        self.successResultOf(self.stdio.write(b"3"))

    def test_lost(self) -> None:
        """Once the output is gone, who waits waits no more, and nothing is written."""
        self.stdio.pauseProducing()
        waiting = self.stdio.write(b"1")
        self.stdio.stopProducing()
        self.stdio.writeConnectionLost()
        self.successResultOf(waiting)
        self.successResultOf(self.stdio.outputLost)
        self.successResultOf(self.stdio.write(b"2"))
        self.assertEqual(self.transport.value(), b"1")
        self.successResultOf(self.stdio.close())

    def test_close(self) -> None:
        """Closing waits until everything is written."""
        closed = self.stdio.close()
        self.assertTrue(self.transport.disconnecting)
        self.assertNoResult(closed)
        self.stdio.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(closed)


class JoinedFilesTests(SynchronousTestCase):
    """Standard files stay as they are: others have them, too."""

    def setUp(self) -> None:
        """Make two pipes, and a reactor of our own."""
        self.reactor = SelectReactor()
        self.addCleanup(self.reactor.removeAll)
        self.input, self.typist = os.pipe()
        self.reader, self.output = os.pipe()
        self.open = [self.input, self.typist, self.reader, self.output]
        self.addCleanup(self.closeAll)

    def closeAll(self) -> None:
        """Close what is open."""
        for descriptor in self.open:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close one end of a pipe."""
        self.open.remove(descriptor)
        os.close(descriptor)

    def result(self, deferred: Deferred[Any]) -> Any:
        """Run the reactor until something has happened, for a minute at the most."""
        for _ in range(600):
            if deferred.called:
                break
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.1)
        return self.successResultOf(deferred)

    def test_flagsStay(self) -> None:
        """Nothing is made non-blocking, not even for a while, and nothing is closed."""
        stdio, written = openStdio(self.reactor, self.input, self.output)
        lines = stdio.readLines()
        os.write(self.typist, b"hello\n")
        self.assertEqual(self.result(lines), [b"hello"])
        stdio.write(b"there\n")
        self.assertTrue(all(map(os.get_blocking, self.open)))
        self.result(stdio.close())
        self.assertIsNone(self.result(written))
        self.assertEqual(os.read(self.reader, 100), b"there\n")
        self.assertTrue(all(map(os.get_blocking, self.open)))

    def test_madeNonBlocking(self) -> None:
        """What others have made non-blocking is written to whole, all the same."""
        os.set_blocking(self.output, False)
        stdio, written = openStdio(self.reactor, None, self.output)
        stdio.write(b"x" * 300_000)
        closed, got = stdio.close(), 0
        while got < 300_000:
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0)
            got += len(os.read(self.reader, 65536))
        self.result(closed)
        self.assertIsNone(self.result(written))

    def test_end(self) -> None:
        """The end of the input comes through, and the output stays."""
        stdio, written = openStdio(self.reactor, self.input, self.output)
        os.write(self.typist, b"last")
        self.close(self.typist)
        self.assertEqual(self.result(stdio.readLines()), [b"last"])
        self.assertIsNone(self.result(stdio.readLines()))
        self.result(stdio.close())
        self.result(written)

    def test_readerGone(self) -> None:
        """That nobody reads the output is known, without a word written."""
        stdio, written = openStdio(self.reactor, None, self.output)
        self.close(self.reader)
        self.result(stdio.outputLost)
        self.assertEqual(self.result(written).errno, errno.EPIPE)
        self.result(stdio.close())

    def test_full(self) -> None:
        """Why the output takes nothing is known, also at the very end."""
        full = os.open("/dev/full", os.O_WRONLY)
        self.open.append(full)
        stdio, written = openStdio(self.reactor, None, full)
        stdio.write(b"something\n")
        self.result(stdio.close())
        self.assertEqual(self.result(written).errno, errno.ENOSPC)

    def test_noInput(self) -> None:
        """Without an input there is none, and no end of it."""
        stdio, written = openStdio(self.reactor, None, self.output)
        lines = stdio.readLines()
        self.reactor.doIteration(0)
        self.assertNoResult(lines)
        self.result(stdio.close())
        self.result(written)
