"""
Standard input and output, as little of them at a time as there is use for::

    stdio = openStdio(reactor)
    while (lines := await stdio.readLines()) is not None:
        await stdio.write(b"a line\\n")
    await stdio.close()

Back-pressure works both ways: input is read when somebody asks for it, and who
writes waits while nobody reads the output.  So neither a huge file nor what a stopped
pager does not take is kept in memory.
"""

from __future__ import annotations

import os
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["MAX_LINE", "LineTooLong", "Stdio", "openStdio"]

MAX_LINE = 32 << 20  # bytes: half of a connection's send buffer


class LineTooLong(Exception):
    """
    A line of the input cannot be a message.
    """


@implementer(IHalfCloseableProtocol, IPushProducer)
class Stdio(Protocol):
    """
    A transport's input as lines, and its output as bytes.

    @ivar outputLost: fires once nothing more can be written, as when who read it
        has gone.
    """

    transport: Any

    def __init__(self) -> None:
        """
        Begin with nothing.
        """
        self.outputLost: Deferred[None] = Deferred()
        self._partial = bytearray()  # the input's last line, so far
        self._ended = False  # the input
        self._reading: Deferred[list[bytes] | None] | None = None
        self._paused = False  # the output
        self._writing: list[Deferred[None]] = []
        self._closing: list[Deferred[None]] = []

    # What users call

    def readLines(self) -> Deferred[list[bytes] | None]:
        """
        Read on.  Whoever asks waits until it fires before asking again.

        @return: fires with one or more lines without their ends, then, at the end
            of the input, with None; a last line need not have an end.  Fails with
            L{LineTooLong}, and is not to be asked again then.
        """
        reading: Deferred[list[bytes] | None] = Deferred(self._stopReading)
        self._reading = reading
        if self._ended:
            self._deliverRest()
        else:
            self.transport.resumeProducing()
        return reading

    def write(self, data: bytes) -> Deferred[None]:
        """
        Write, also to nobody.

        @return: fires when it is time to write more.
        """
        if not self.outputLost.called:
            self.transport.write(data)
        if not self._paused:
            return succeed(None)
        writing: Deferred[None] = Deferred(self._writing.remove)
        self._writing.append(writing)
        return writing

    def close(self) -> Deferred[None]:
        """
        Write what is left, and let go of the transport.

        @return: fires when that is done.
        """
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if self.outputLost.called:
            return succeed(None)
        closing: Deferred[None] = Deferred()
        self._closing.append(closing)
        return closing

    # IProtocol and IHalfCloseableProtocol

    def connectionMade(self) -> None:
        """
        Wait until somebody wants to read.
        """
        self.transport.pauseProducing()
        cast(IConsumer, self.transport).registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """
        Give lines to who wants them, or wait for the end of the first.
        """
        # Paused again as soon as there are lines, so that there are never more of
        # them than one piece of input holds.
        first, *others = data.split(b"\n")
        self._partial += first
        if len(self._partial) > MAX_LINE:
            self._partial.clear()
            self.transport.pauseProducing()
            self._fire(Failure(LineTooLong(f"a line has more than {MAX_LINE} bytes")))
        elif others:
            lines = [bytes(self._partial), *others[:-1]]
            self._partial[:] = others[-1]
            self.transport.pauseProducing()
            self._fire(lines)

    def readConnectionLost(self) -> None:
        """
        The input has ended.
        """
        self._ended = True
        if self._reading is not None:
            self._deliverRest()

    def writeConnectionLost(self) -> None:
        """
        Nobody reads the output any more.
        """
        self.resumeProducing()  # nobody else will, and writers wait for it
        self.outputLost.callback(None)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        All is written and let go of.
        """
        closing, self._closing = self._closing, []
        for deferred in closing:
            deferred.callback(None)

    # IPushProducer, for the transport's output

    def pauseProducing(self) -> None:
        """
        The output takes no more for now.
        """
        self._paused = True

    def resumeProducing(self) -> None:
        """
        The output takes more.
        """
        self._paused = False
        writing, self._writing[:] = self._writing[:], []
        for deferred in writing:
            deferred.callback(None)

    def stopProducing(self) -> None:
        """
        The output is gone; C{writeConnectionLost} says so too.
        """

    # Parts

    def _deliverRest(self) -> None:
        """
        Give what is left after the last line's end, then None.
        """
        rest = bytes(self._partial)
        self._partial.clear()
        self._fire([rest] if rest else None)

    def _fire(self, outcome: list[bytes] | Failure | None) -> None:
        """
        Tell who reads.
        """
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.callback(outcome)

    def _stopReading(self, reading: Deferred[list[bytes] | None]) -> None:
        """
        Forget who no longer reads.
        """
        self._reading = None
        self.transport.pauseProducing()


def openStdio(reactor: Any, input: int = 0, output: int = 1) -> Stdio:
    """
    Read from one file and write to another.

    @param reactor: waits for them; one that cannot wait for regular files polls.
    """
    stdio = Stdio()
    # Twisted closes what it is given, so that it gets copies.  That the files no
    # longer block concerns the originals, too: CoroutineRunner undoes it.
    StandardIO(  # type: ignore[call-arg]  # mypy looks at that of Windows
        stdio, stdin=os.dup(input), stdout=os.dup(output), reactor=reactor
    )
    return stdio
