"""
C{aesm chat}: the chat for people at a terminal, and line by line for everything
else::

    Program(reactor).run(lambda: runChat(reactor, "tcp:127.0.0.1:8765", "alice"))

At a terminal it connects again whenever it is cut off.  Line by line it ends with
its input or its connection, and leaves what to do then to what runs it.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.stdio import StandardIO
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from aesm.chat.client import ChatClient, ChatView
from aesm.chat.screen import ChatTerminal, KeyReader, rawTerminal
from aesm.client import connect
from aesm.connection import Connection
from aesm.errors import AESMError
from aesm.program import complain, sayTrust
from aesm.stream import Packet
from aesm.talk import isEndpoint, runTalk
from aesm.terminal import PLAIN, Form, escape

__all__ = ["runChat"]

WIDTH = 80  # columns of a terminal that does not know


async def runChat(reactor: Any, endpoint: str, nick: str, **options: Any) -> int:
    """
    Chat over standard input and output.

    @param reactor: runs.
    @param endpoint: a client endpoint's string.
    @param nick: the name to ask for.
    @param options: as L{connect}.
    @return: the exit status: 0 after leaving; without a terminal, if the server
        has all of the input.
    """
    if not (os.isatty(0) and os.isatty(1)):
        form = Form(_Lines().show, PLAIN.read)
        globalLogPublisher.addObserver(sayTrust)
        try:
            return await runTalk(reactor, endpoint, form, f"/nick {nick}", **options)
        finally:
            globalLogPublisher.removeObserver(sayTrust)
    if not isEndpoint(reactor, endpoint):
        return 1

    def dial() -> Deferred[Connection]:
        """
        Try once to connect.

        @return: as L{connect}.
        """
        return maybeDeferred(connect, reactor, endpoint, **options)

    try:
        await _runTerminal(reactor, dial, nick)
    except (AESMError, ValueError) as error:
        complain(str(error))
        return 1
    return 0


async def _runTerminal(reactor: Any, dial: Any, nick: str) -> None:
    """
    Chat in the terminal that standard input and output are.

    @param reactor: runs.
    @param dial: tries once to connect.
    @param nick: the name to ask for.
    @raise Exception: what trying again would not mend.
    """
    terminal = ChatTerminal(lambda: os.get_terminal_size(1).columns or WIDTH)
    terminal.client = ChatClient(reactor, dial, nick, terminal)

    @provider(ILogObserver)
    def showTrust(event: LogEvent) -> None:
        """
        Tell of first contacts.

        @param event: anything that is logged.
        """
        if event.get("log_namespace") == "aesm.trust":
            terminal.show("* " + escape(formatEvent(event)))

    def resized(number: int, frame: object) -> None:
        """
        Draw anew.

        @param number: the signal's.
        @param frame: where it came.
        """
        reactor.callFromThread(terminal.changed)

    former = signal.signal(signal.SIGWINCH, resized)
    globalLogPublisher.addObserver(showTrust)
    try:
        with rawTerminal(0):
            StandardIO(  # type: ignore[call-arg]  # mypy looks at that of Windows
                KeyReader(terminal), stdin=os.dup(0), stdout=os.dup(1), reactor=reactor
            )
            try:
                await terminal.client.run()
            finally:
                await terminal.close()
    finally:
        globalLogPublisher.removeObserver(showTrust)
        signal.signal(signal.SIGWINCH, former)


class _Lines:
    """
    Writes the chat line by line.
    """

    def __init__(self) -> None:
        """
        Begin with nothing seen.
        """
        self._view = ChatView()

    def show(self, packet: Packet) -> bytes:
        """
        Write a packet.

        @param packet: time and data; a server of the chat sends no bytes.
        @return: a line of UTF-8.
        """
        text = packet.data if isinstance(packet.data, str) else repr(packet.data)
        return self._view.receive(text, packet.time).encode("utf-8") + b"\n"
