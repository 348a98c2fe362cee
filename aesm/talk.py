"""
C{aesm connect}: a connection joined to a console, each message a line.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectError

from aesm.acknowledgement import Acknowledgement
from aesm.client import connect
from aesm.connection import Connection
from aesm.console import Console, LineTooLong, openConsole
from aesm.errors import AESMError, ConnectionClosed, MessageTooBig, SendBufferFull
from aesm.program import complain
from aesm.terminal import Form

__all__ = ["connectOrComplain", "isEndpoint", "runTalk", "talk"]


async def runTalk(
    reactor: Any,
    endpoint: str,
    form: Form,
    opening: str | None = None,
    **options: Any,
) -> int:
    """
    Connect, and talk over standard input and output until one side ends.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    @param form: how messages are written.
    @param opening: what to send before the input, or None.
    @param options: as L{connect}.
    @return: the exit status: 0 if the peer has all of the input.
    """
    connection = await connectOrComplain(reactor, endpoint, **options)
    if connection is None:
        return 1
    if os.isatty(0):
        complain(f"connected to {endpoint}; Ctrl-D ends")
    if opening is not None:
        connection.sendData(opening)
    complaints: list[str] = []

    def say(text: str) -> None:
        """
        Complain, and remember it.

        @param text: about what.
        """
        complaints.append(text)
        complain(text)

    console = openConsole(reactor)
    try:
        complete = await talk(connection, console, form, say)
        if console.outputLost.called:
            say("standard output is closed")
        elif not complete:
            say(str(await connection.closed()))
    except LineTooLong as error:
        say(f"{error}: it is not sent, nor what follows")
    finally:
        await connection.close()
    await console.close()
    return 1 if complaints else 0


async def connectOrComplain(
    reactor: Any, endpoint: str, **options: Any
) -> Connection | None:
    """
    Connect.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    @param options: as L{connect}.
    @return: the connection; None after telling the user why there is none.
    """
    if not isEndpoint(reactor, endpoint):
        return None
    try:
        return await connect(reactor, endpoint, **options)
    except (AESMError, ValueError) as error:
        complain(str(error))
    except (ConnectError, OSError) as error:
        reason = str(error).rstrip(".")
        complain(f"cannot connect to {endpoint}: {reason}; does the server run?")
    return None


def isEndpoint(reactor: Any, endpoint: str) -> bool:
    """
    Tell whether there can be such an endpoint, and the user if not.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    """
    try:
        clientFromString(reactor, endpoint)
    except Exception as error:  # a plugin's code may parse it
        complain(
            f"{endpoint} is no client endpoint ({error}); name one such as "
            "tcp:127.0.0.1:8765"
        )
        return False
    return True


async def talk(
    connection: Connection,
    console: Console,
    form: Form,
    complain: Callable[[str], None],
) -> bool:
    """
    Send what is read and write what is received, until the input ends and the
    peer has all of it, or until the connection or the output is gone.

    @param connection: an open one; closed afterwards, unless this is cancelled.
    @param console: where to read and write.
    @param form: how messages are written.
    @param complain: called with a sentence for each line that is not sent.
    @return: whether the peer has all of the input, less the lines that were
        complained about.
    @raise LineTooLong: a line of the input cannot be a message.
    """
    console.outputLost.addCallback(_close, connection)
    sending = Deferred.fromCoroutine(_sendLines(connection, console, form, complain))
    writing = Deferred.fromCoroutine(_writePackets(connection, console, form))
    try:
        await writing
    finally:
        sending.cancel()
    return await sending


def _close(result: None, connection: Connection) -> None:
    """
    Close a connection whose packets nobody reads any more.

    @param result: nothing.
    @param connection: which.
    """
    connection.close()


async def _writePackets(connection: Connection, console: Console, form: Form) -> None:
    """
    Write packets, until the connection is gone and its last one is written.

    @param connection: where they come from.
    @param console: where to write.
    @param form: how to write them.
    """
    while True:
        try:
            packet = await connection.retrieved.get()
        except ConnectionClosed:
            return
        await console.write(form.show(packet))


async def _sendLines(
    connection: Connection,
    console: Console,
    form: Form,
    complain: Callable[[str], None],
) -> bool:
    """
    Send lines, as the peer takes them, wait until it has them, and close.

    @param connection: where to.
    @param console: where to read.
    @param form: how they are written.
    @param complain: called with a sentence for each line that is not sent.
    @return: whether the peer has them all.
    @raise LineTooLong: a line cannot be a message.
    """
    last: Deferred[None] | None = None
    number = 0
    try:
        while (lines := await console.readLines()) is not None:
            for line in lines:
                number += 1
                await connection.drain()
                try:
                    message = form.read(line)
                    if message is None:
                        continue
                    sent = connection.sendData(message)
                    if isinstance(sent, Acknowledgement):
                        last = sent  # one for all: what came before is there too
                    else:
                        await sent
                except (ValueError, MessageTooBig, SendBufferFull) as error:
                    complain(f"line {number} of the input is not sent: {error}")
        if last is not None:
            await last
    except (CancelledError, ConnectionClosed):
        return False
    else:
        return True
    finally:
        connection.close()
