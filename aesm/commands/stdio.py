"""
Standard input and output, as little of them at a time as there is use for::

    stdio, written = openStdio(reactor)
    while (lines := await stdio.readLines()) is not None:
        await stdio.write(b"a line\\n")
    await stdio.close()
    await written

Back-pressure works both ways: input is read when somebody asks for it, and who
writes waits while nobody reads the output.  So neither a huge file nor what a stopped
pager does not take is kept in memory.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from zope.interface import implementer

MAX_LINE = 32 << 20  # bytes: half of a connection's send buffer
PIECE = 65536  # bytes that are copied at once: what a pipe holds


class LineTooLong(Exception):
    """A line of the input cannot be a message."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Stdio(Protocol):
    """
    A transport's input as lines, and its output as bytes.

    @ivar outputLost: fires once nothing more can be written, as when who read it
        has gone.
    """

    transport: Any

    def __init__(self) -> None:
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
        """Wait until somebody wants to read."""
        self.transport.pauseProducing()
        cast(IConsumer, self.transport).registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Give lines to who wants them, or wait for the end of the first."""
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
        """The input has ended."""
        self._ended = True
        if self._reading is not None:
            self._deliverRest()

    def writeConnectionLost(self) -> None:
        """Nobody reads the output any more."""
        self.resumeProducing()  # nobody else will, and writers wait for it
        self.outputLost.callback(None)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """All is written and let go of."""
        closing, self._closing = self._closing, []
        for deferred in closing:
            deferred.callback(None)

    # IPushProducer, for the transport's output

    def pauseProducing(self) -> None:
        """The output takes no more for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The output takes more."""
        self._paused = False
        writing, self._writing[:] = self._writing[:], []
        for deferred in writing:
            deferred.callback(None)

    def stopProducing(self) -> None:
        """The output is gone; C{writeConnectionLost} says so too."""

    # Parts

    def _deliverRest(self) -> None:
        """Give what is left after the last line's end, then None."""
        rest = bytes(self._partial)
        self._partial.clear()
        self._fire([rest] if rest else None)

    def _fire(self, outcome: list[bytes] | Failure | None) -> None:
        """Tell who reads."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.callback(outcome)

    def _stopReading(self, reading: Deferred[list[bytes] | None]) -> None:
        """Forget who no longer reads."""
        self._reading = None
        self.transport.pauseProducing()


# Standard files are shared
#
# Whether a file blocks belongs to its open file description (open(2)), which the shell
# and all that it starts share with us: to make it non-blocking makes others lose what
# they write, and stays so if we are killed.  So Twisted, which makes non-blocking what
# it is given, gets pipes of ours, and threads copy between these and the standard
# files, waiting as every program does.  A pipe holds little, so that back-pressure
# passes through.


def openStdio(
    reactor: Any, input: int | None = 0, output: int = 1
) -> tuple[Stdio, Deferred[OSError | None]]:
    """
    Read from one file and write to another, both as they are.

    @param input: None to read nothing.
    @return: the face to them, and as L{joinStandardFiles}.
    """
    stdio = Stdio()
    return stdio, joinStandardFiles(stdio, reactor, input, output)


def joinStandardFiles(
    protocol: IProtocol, reactor: Any, input: int | None = 0, output: int = 1
) -> Deferred[OSError | None]:
    """
    Give a protocol a transport that reads from one file and writes to another, and
    leaves them as they are.

    @param input: None for an input that never says anything.
    @return: fires once all is written after the transport was closed, with None, or as
        soon as nothing more can be written, with why.
    """
    written: Deferred[OSError | None] = Deferred()
    inputEnd, fromInput = os.pipe()
    toOutput, outputEnd = os.pipe()

    def write() -> None:
        """Copy to the output until the transport is closed."""
        error = _copy(toOutput, output)
        os.close(toOutput)  # tells the transport, if it does not know
        reactor.callFromThread(written.callback, error)

    def read() -> None:
        """Copy from the input until it ends, or the transport is closed."""
        _copy(cast(int, input), fromInput)  # an input that fails has ended
        os.close(fromInput)

    # Daemons: a read of a terminal does not end, and must not keep the process.
    threading.Thread(target=write, daemon=True).start()
    if input is not None:
        threading.Thread(target=read, daemon=True).start()
    _PipedIO(protocol, reactor, inputEnd, outputEnd)
    return written


class _PipedIO(StandardIO):
    """Closes its files, which Twisted leaves open: the threads wait for that."""

    def __init__(
        self, protocol: IProtocol, reactor: Any, stdin: int, stdout: int
    ) -> None:
        self._files = {"read": stdin, "write": stdout}
        super().__init__(  # type: ignore[call-arg]  # mypy looks at that of Windows
            protocol, stdin=stdin, stdout=stdout, reactor=reactor
        )

    def childConnectionLost(self, fd: str, reason: Failure) -> None:
        """One direction is over, and waited for no more."""
        os.close(self._files[fd])
        # For any other reason, an older Twisted gives up both directions at once.
        done = Failure(ConnectionDone())
        super().childConnectionLost(fd, done)  # type: ignore[misc]


def _copy(source: int, target: int) -> OSError | None:
    """Copy in a thread, to the end of the source or the error of whom nobody reads."""
    # Not just read: a job in the background is stopped for reading from its terminal,
    # be there anything to read or not; and who has nothing to write hears from poll
    # only that the reader has gone.
    ready = select.poll()
    ready.register(source, select.POLLIN)
    ready.register(target, 0)
    try:
        while True:
            events = dict(ready.poll())
            if events.pop(target, 0) & (select.POLLERR | select.POLLHUP):
                return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            if source not in events:
                continue
            try:
                data = memoryview(os.read(source, PIECE))
            except BlockingIOError:  # somebody else took it, of those who share it
                continue
            if not data:
                return None
            while data:
                data = data[_write(target, data) :]
    except OSError as error:
        return error


def _write(target: int, data: memoryview) -> int:
    """Write some of the data, also where others have made the file non-blocking."""
    try:
        return os.write(target, data)
    except BlockingIOError:
        ready = select.poll()
        ready.register(target, select.POLLOUT)
        ready.poll()
        return 0
