"""
Standard input and output, a piece at a time.
"""

from __future__ import annotations

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

from aesm.commands.stdio import MAX_LINE, Console, LineTooLong, openConsole


class ConsoleTestCase(SynchronousTestCase):
    """
    A console on a transport in memory.
    """

    def setUp(self) -> None:
        """
        Make a console.
        """
        self.transport = StringTransport()
        self.console = Console()
        self.console.makeConnection(self.transport)

    def reading(self) -> bool:
        """
        Tell whether the console takes input.
        """
        return self.transport.producerState == "producing"


class InputTests(ConsoleTestCase):
    """
    Input comes as lines, when it is asked for.
    """

    def test_interface(self) -> None:
        """
        It keeps on when one direction has ended, and is told to pause.
        """
        verifyObject(IHalfCloseableProtocol, self.console)
        verifyObject(IPushProducer, self.console)

    def test_onlyWhenAsked(self) -> None:
        """
        Nothing is read unless somebody waits for it.
        """
        self.assertFalse(self.reading())
        lines = self.console.readLines()
        self.assertTrue(self.reading())
        self.console.dataReceived(b"a\n")
        self.assertFalse(self.reading())
        self.assertEqual(self.successResultOf(lines), [b"a"])

    def test_lines(self) -> None:
        """
        Lines are put together from what comes, and none is left out.
        """
        for chunks, expected in (
            ((b"a", b"b\n\nc\r\nd"), [b"ab", b"", b"c\r"]),
            ((b"", b"e\n"), [b"de"]),
        ):
            lines = self.console.readLines()
            for chunk in chunks:
                self.assertNoResult(lines)
                self.console.dataReceived(chunk)
            self.assertEqual(self.successResultOf(lines), expected)

    def test_end(self) -> None:
        """
        At the end comes the last line, if it has no end, and then None, as often
        as one asks.
        """
        lines = self.console.readLines()
        self.console.dataReceived(b"rest")
        self.console.readConnectionLost()
        self.assertEqual(self.successResultOf(lines), [b"rest"])
        for _ in range(2):
            self.assertIsNone(self.successResultOf(self.console.readLines()))

    def test_endWhileNobodyReads(self) -> None:
        """
        The end can come before somebody asks.
        """
        self.console.readConnectionLost()
        self.assertIsNone(self.successResultOf(self.console.readLines()))

    def test_longest(self) -> None:
        """
        A line of the largest size is taken, a larger one is refused before its end
        has come.
        """
        lines = self.console.readLines()
        self.console.dataReceived(b"x" * MAX_LINE)
        self.assertNoResult(lines)
        self.console.dataReceived(b"\n")
        self.assertEqual(self.successResultOf(lines), [b"x" * MAX_LINE])
        lines = self.console.readLines()
        self.console.dataReceived(b"x" * (MAX_LINE + 1))
        self.failureResultOf(lines, LineTooLong)
        self.assertFalse(self.reading())

    def test_cancel(self) -> None:
        """
        Who no longer waits takes nothing.
        """
        lines = self.console.readLines()
        lines.cancel()
        self.failureResultOf(lines, CancelledError)
        self.assertFalse(self.reading())
        self.console.dataReceived(b"late\n")


class OutputTests(ConsoleTestCase):
    """
    Output goes out as it is taken.
    """

    def test_write(self) -> None:
        """
        What is written goes out, and there is room for more.
        """
        self.assertIsNone(self.successResultOf(self.console.write(b"hello\n")))
        self.assertEqual(self.transport.value(), b"hello\n")

    def test_wait(self) -> None:
        """
        Who writes more than is taken waits.
        """
        self.assertIs(self.transport.producer, self.console)
        self.console.pauseProducing()
        first, second = self.console.write(b"1"), self.console.write(b"2")
        self.assertNoResult(first)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.console.resumeProducing()
        self.successResultOf(first)
        self.successResultOf(self.console.write(b"3"))

    def test_lost(self) -> None:
        """
        Once the output is gone, who waits waits no more, and nothing is written.
        """
        self.console.pauseProducing()
        waiting = self.console.write(b"1")
        self.console.stopProducing()
        self.console.writeConnectionLost()
        self.successResultOf(waiting)
        self.successResultOf(self.console.outputLost)
        self.successResultOf(self.console.write(b"2"))
        self.assertEqual(self.transport.value(), b"1")
        self.successResultOf(self.console.close())

    def test_close(self) -> None:
        """
        Closing waits until everything is written.
        """
        closed = self.console.close()
        self.assertTrue(self.transport.disconnecting)
        self.assertNoResult(closed)
        self.console.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(closed)


class CopyTests(SynchronousTestCase):
    """
    The files are those of the caller.
    """

    def turn(self, reactor: SelectReactor, deferred: Deferred[Any]) -> None:
        """
        Run a reactor until something has happened, for a minute at the most.

        @param reactor: the reactor.
        @param deferred: what is to fire.
        """
        for _ in range(600):
            if deferred.called:
                break
            reactor.doIteration(0.1)

    def test_originalsStay(self) -> None:
        """
        C{openConsole} gives Twisted copies, which it may close.
        """
        reactor = SelectReactor()
        ends = [*os.pipe(), *os.pipe()]
        try:
            console = openConsole(reactor, ends[0], ends[3])
            os.write(ends[1], b"hello\n")
            lines = console.readLines()
            self.turn(reactor, lines)
            self.assertEqual(self.successResultOf(lines), [b"hello"])
            console.write(b"there\n")
            closed = console.close()
            self.turn(reactor, closed)
            self.successResultOf(closed)
            self.assertEqual(os.read(ends[2], 100), b"there\n")
            for end in ends:
                os.fstat(end)
        finally:
            for end in ends:
                os.close(end)
            reactor.removeAll()
