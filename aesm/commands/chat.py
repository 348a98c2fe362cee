"""
C{aesm chat}: the chat for people at a terminal, and line by line for everything
else::

    status = await runChat(reactor, "tcp:127.0.0.1:8765", "alice")

Either way it connects again whenever it is cut off.  Line by line it ends with its
input, and where the first attempt fails.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider

from aesm.chat.client import ChatClient, ChatView
from aesm.chat.screen import ChatTerminal, KeyReader, rawTerminal
from aesm.commands.connect import checkEndpoint, runLineClient
from aesm.commands.formats import PLAIN, Form
from aesm.commands.main import writeError
from aesm.commands.stdio import joinStandardFiles
from aesm.errors import AESMError
from aesm.messages.stream import Packet
from aesm.text import escape

__all__ = ["runChat"]

WIDTH = 80  # columns of a terminal that does not know


async def runChat(reactor: Any, endpoint: str, nick: str, **options: Any) -> int:
    """
    Chat over standard input and output.

    @return: the exit status: 0 after leaving; without a terminal, if the server
        has all of the input.
    """
    if not (os.isatty(0) and os.isatty(1)):
        lines = _Lines(nick)
        form = Form(lines.show, PLAIN.read)
        return await runLineClient(reactor, endpoint, form, lines.join, **options)
    if not checkEndpoint(reactor, endpoint):
        return 1
    try:
        await _runTerminal(reactor, endpoint, nick, **options)
    except (AESMError, ValueError) as error:
        writeError(str(error))
        return 1
    return 0


async def _runTerminal(reactor: Any, endpoint: str, nick: str, **options: Any) -> None:
    """
    Chat in the terminal that standard input and output are.

    @raise Exception: what trying again would not mend.
    """
    terminal = ChatTerminal(lambda: os.get_terminal_size(1).columns or WIDTH)
    terminal.client = ChatClient(reactor, endpoint, nick, terminal, **options)

    @provider(ILogObserver)
    def showTrust(event: LogEvent) -> None:
        """Tell of first contacts."""
        if event.get("log_namespace") == "aesm.trust":
            terminal.show("* " + escape(formatEvent(event)))

    def resized(number: int, frame: object) -> None:
        """Draw anew."""
        reactor.callFromThread(terminal.changed)

    former = signal.signal(signal.SIGWINCH, resized)
    globalLogPublisher.addObserver(showTrust)
    try:
        with rawTerminal(0):
            written = joinStandardFiles(KeyReader(terminal), reactor)
            try:
                await terminal.client.run()
            finally:
                await terminal.close()
                await written
    finally:
        globalLogPublisher.removeObserver(showTrust)
        signal.signal(signal.SIGWINCH, former)


class _Lines:
    """Writes the chat line by line."""

    def __init__(self, nick: str) -> None:
        self._nick = nick
        self._view = ChatView()

    def join(self) -> list[str]:
        """Begin a session."""
        return self._view.join(self._nick)

    def show(self, packet: Packet) -> bytes:
        """Write a packet."""
        text = packet.data if isinstance(packet.data, str) else repr(packet.data)
        return self._view.receive(text, packet.time).encode("utf-8") + b"\n"
