"""
C{aesm chat}: the chat for people at a terminal or in a window, and line by line for
everything else::

    face = chooseFace()         # before there is a reactor
    status = await runChat(reactor, face, "tcp:127.0.0.1:8765", "alice")

Each of them connects again whenever it is cut off.  Line by line it ends with its
input, and where the first attempt fails.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine
from enum import Enum
from importlib.util import find_spec
from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python import usage
from zope.interface import provider

from aesm.chat.client import ChatClient
from aesm.chat.view import ChatView
from aesm.commands.client import ClientCommand, utf8
from aesm.commands.command import parameter
from aesm.commands.connect import checkEndpoint, runLineClient
from aesm.commands.formats import PLAIN, Form
from aesm.commands.main import observing
from aesm.commands.options import inOptions
from aesm.commands.output import writeError
from aesm.errors import AESMError
from aesm.messages.stream import Packet


class Face(Enum):
    """How the chat meets its user."""

    LINES = "lines"
    TERMINAL = "terminal"
    WINDOW = "window"
    DARK_WINDOW = "dark window"


class ChatOptions(ClientCommand):
    """C{aesm chat}."""

    longdesc = (
        "Takes part in the chat of a server that runs with --handler chat; /help "
        "lists its commands, /quit or Ctrl-D leaves.  At a terminal there are colours, "
        "and names are completed, if prompt_toolkit is installed (aesm[tools]).  "
        "Else each line of standard input is sent, each line of standard output was "
        "received, and the end of the input leaves, once the server has everything, "
        "with status 0.  The connection is made again when it is lost."
    )
    optParameters = [parameter("nick", "The name to ask for.")]
    optFlags = [
        ["window", None, "Open a window."],
        ["dark", None, "A dark window, where the desktop does not say so by itself."],
    ]

    def postOptions(self) -> None:
        """Check the options."""
        super().postOptions()
        if self["nick"] is None:
            raise usage.UsageError("give a name: --nick NAME")
        if self["dark"] and not self["window"]:
            raise usage.UsageError("--dark is for --window")
        self["nick"] = utf8("nick", self["nick"])

    def run(self) -> int:
        """Chat until the user leaves, with the reactor that this needs."""
        self.face = chooseFace(bool(self["window"]), bool(self["dark"]))
        return super().run()

    def runClient(
        self, reactor: Any, options: dict[str, Any]
    ) -> Coroutine[Any, Any, int]:
        """Chat until the user leaves."""
        return runChat(reactor, self.face, self.endpoint, self["nick"], **options)


def chooseFace(window: bool = False, dark: bool = False) -> Face:
    """
    Choose a face, and install the reactor that it needs, if there is one.

    @param window: whether the user has asked for a window.
    @param dark: whether it is to be dark, whatever the desktop says.
    """
    if window:
        return Face.DARK_WINDOW if dark else Face.WINDOW
    if not (os.isatty(0) and os.isatty(1)):
        return Face.LINES
    if os.environ.get("TERM", "dumb") == "dumb":  # it cannot move its cursor
        return Face.LINES
    if find_spec("prompt_toolkit") is None:
        writeError('pip install "aesm[tools]" for a prompt, colours and completion')
        return Face.LINES
    from twisted.internet import asyncioreactor

    asyncioreactor.install()
    return Face.TERMINAL


async def runChat(
    reactor: Any, face: Face, endpoint: str, nick: str, **options: Any
) -> int:
    """
    Chat.

    @param face: as L{chooseFace} gives it.
    @return: the exit status: 0 after leaving; line by line, if the server has all of
        the input.
    """
    if face is Face.LINES:
        lines = _Lines(nick)
        form = Form(lines.show, PLAIN.read)
        return await runLineClient(reactor, endpoint, form, lines.join, **options)
    if not checkEndpoint(reactor, endpoint):
        return 1
    try:
        if face is Face.TERMINAL:
            await _runTerminal(reactor, endpoint, nick, **options)
        else:
            await _runWindow(reactor, face, endpoint, nick, **options)
    except AESMError as error:
        writeError(str(error))
        return 1
    except ValueError as error:
        writeError(inOptions(str(error), options))
        return 1
    return 0


async def _runTerminal(reactor: Any, endpoint: str, nick: str, **options: Any) -> None:
    """Chat in the terminal that standard input and output are."""
    from aesm.chat.terminal import ChatTerminal, openOutput

    terminal = ChatTerminal(openOutput())
    client = terminal.client = ChatClient(reactor, endpoint, nick, terminal, **options)
    await deferLater(reactor, 0)  # asyncio's loop does not run before the reactor
    with observing(_trustShownBy(client)):
        await terminal.run()


async def _runWindow(
    reactor: Any, face: Face, endpoint: str, nick: str, **options: Any
) -> None:
    """Chat in a window; C{ValueError} if there cannot be one."""
    try:
        from aesm.chat.window import ChatWindow, desktopIsDark
    except ImportError:
        raise ValueError(
            "no window without tkinter, which this Python does not have; Debian and "
            "Ubuntu have it as python3-tk"
        ) from None
    window = ChatWindow(reactor, face is Face.DARK_WINDOW or desktopIsDark())
    client = window.client = ChatClient(reactor, endpoint, nick, window, **options)
    with observing(_trustShownBy(client)):
        await window.run()


def _trustShownBy(client: ChatClient) -> ILogObserver:
    """Make what shows first contacts."""

    @provider(ILogObserver)
    def show(event: LogEvent) -> None:
        """Show a first contact."""
        if event.get("log_namespace") == "aesm.trust":
            client.tell(formatEvent(event))

    return ILogObserver(show)


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
        line = self._view.receive(text, packet.time)
        return b"" if line is None else f"{line}\n".encode()
