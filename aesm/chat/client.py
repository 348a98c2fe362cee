"""
What the clients of the chat share, whatever they look like: reading the lines of
the server, and a session that goes on when its connection is lost::

    client = ChatClient(reactor, endpoint, "alice", display)
    client.run()            # fires once it is over
    client.send("hello")
    client.leave()

The display is told what to show; what others wrote comes to it escaped, one line
at a time.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.chat.presence import DEFAULT_ROOM
from aesm.chat.text import fewMarks
from aesm.client.service import ClientService
from aesm.errors import AESMError, ConnectionClosed
from aesm.interfaces import IClientObserver
from aesm.messages.connection import Connection
from aesm.text import escape

__all__ = ["ChatClient", "ChatView", "Display"]

MAX_PRESENT = 5000  # names that a server can make us hold


class Display(Protocol):
    """What shows a chat to somebody."""

    def show(self, line: str) -> Deferred[None] | None:
        """
        Show one more line.

        @param line: printable characters.
        @return: fires when it is time to show more; None for now.
        """

    def changed(self) -> None:
        """Look again at the client's C{state} and at its view."""


class ChatView:
    """
    What a client has seen of the chat: its own name and room, and who else is there.

    @ivar name: its own name, empty until the server says so.
    @ivar room: the room, empty until the server says so.
    """

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.name = ""
        self.room = ""
        self._present: dict[str, None] = {}
        self._hasJoined = False

    @property
    def present(self) -> list[str]:
        """Who is in the room, sorted."""
        return sorted(self._present, key=str.casefold)

    def forget(self) -> None:
        """Know of nobody, as without a session."""
        self._present.clear()

    def join(self, nick: str) -> list[str]:
        """Begin a session: ask for the name, and go to the room, of the last one."""
        self.forget()
        command = "/regain" if self._hasJoined else "/nick"
        self._hasJoined = True
        lines = [f"{command} {self.name or nick}"]
        if self.room not in ("", DEFAULT_ROOM):
            lines.append(f"/join {self.room}")
        return lines

    def receive(self, line: str, when: float) -> str:
        """
        Take note of a line of the server.

        @return: what to show, printable characters.
        """
        # First of all, so that nothing below has to think of control characters.
        line = fewMarks(escape(line))
        head, _, text = line.partition(": ")
        match head.split(" "):
            case ["say", _, name]:
                shown = f"{name}: {text}"
            case ["old", _, time, name]:
                return f"{_clockOf(time)} {name}: {text}"
            case ["tell", sender, receiver]:
                shown = f"{sender} -> {receiver}: {text}"
            case ["join", room, name]:
                self._add(name)
                shown = f"* {name} has come into {room}"
            case ["leave", room, name]:
                self._present.pop(name, None)
                shown = f"* {name} has left {room}"
            case ["name", former, name]:
                self._present.pop(former, None)
                self._add(name)
                shown = f"* {former} is now called {name}"
            case ["you", "are", name, "in", room]:
                self.name, self.room = name, room
                shown = f"* you are {name} in {room}"
            case ["who", room, count]:
                names = text.split()
                if room == self.room:
                    self._present = dict.fromkeys(names[:MAX_PRESENT])
                shown = f"* in {room}, {count}: {text}"
            case ["rooms", count]:
                shown = f"* {count} rooms: {text}"
            case ["whois", name]:
                shown = f"* {name} has the key {text}"
            case ["note"]:
                shown = f"* {text}"
            case ["error"]:
                shown = f"! {text}"
            case _:
                shown = f"? {line}"
        return f"{_clock(when)} {shown}"

    def _add(self, name: str) -> None:
        """Take note that somebody is here."""
        if len(self._present) < MAX_PRESENT:
            self._present[name] = None


def _clock(when: float) -> str:
    """
    Write a time of day.

    @return: C{HH:MM}, local time.
    """
    try:
        return time.strftime("%H:%M", time.localtime(when))
    except (OverflowError, OSError, ValueError):
        return "--:--"


def _clockOf(text: str) -> str:
    """Write the time of day of a line of a room's history, C{YYYY-MM-DDTHH:MM:SSZ}."""
    try:
        return _clock(datetime.fromisoformat(text).timestamp())
    except (OverflowError, ValueError):
        return "--:--"


@implementer(IClientObserver)
class ChatClient:
    """
    A client of the chat, which observes its service.

    @ivar view: what it has seen of it.
    @ivar state: C{"connecting"}, C{"connected"}, C{"waiting"} to connect again,
        or C{"over"}.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: str | IStreamClientEndpoint,
        nick: str,
        display: Display,
        **options: Any,
    ) -> None:
        """@raise ValueError: the endpoint or an option cannot be used."""
        self.view = ChatView()
        self.state = "connecting"
        self._nick = nick
        self._display = display
        self._service = ClientService(endpoint, reactor=clock, observer=self, **options)
        self._service.leaves = False  # all is read to the end
        self._connection: Connection | None = None
        self._leaving = False
        self._running: Deferred[None] | None = None

    def run(self) -> Deferred[None]:
        """
        Take part.

        @return: fires once C{leave} was called and all is closed; fails with what
            trying again would not mend.  Cancelling it closes in order too.
        """
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def send(self, text: str) -> Deferred[None] | None:
        """
        Send a line, once there is a connection; C{/quit} leaves.  If it may not
        arrive, the display says so.

        @return: fires when there is room for another; None before there was a
            connection.
        """
        if text.strip() == "/quit":
            self.leave()
            return None
        # A terminal can deliver half a surrogate pair, which UTF-8 cannot write.
        whole = text.encode("utf-8", "replace").decode("utf-8")
        self._service.sendData(whole).addErrback(self._ebUnsent, text)
        if self._connection is None:
            return None
        return self._connection.drain().addErrback(_ebGone)

    def leave(self) -> None:
        """Leave: what was sent is finished, within bounds; called again, at once."""
        if self._leaving and self._connection is not None:
            self._connection.abort()
        elif self._running is not None and not self._leaving:
            self._leaving = True
            self._running.cancel()

    # IClientObserver

    def onConnected(self, connection: Connection) -> None:
        """Begin a session, or go on with it."""
        if connection is not self._connection:
            for line in self.view.join(self._nick):
                connection.sendData(line)
        self._connection = connection
        self._enter("connected")

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """Show that there is no connection."""
        self._enter("waiting")
        words = escape(str(reason)).rstrip(".")
        self._display.show(f"! {words}; trying again in {delay:.1f} seconds")

    def onStopped(self, reason: Exception) -> None:
        """Leave what there is to say to C{run}."""

    # Parts

    async def _run(self) -> None:
        """
        Connect and receive.

        @raise Exception: what trying again would not mend.
        """
        try:
            self._service.startService()
            await self._receive()
        except CancelledError:
            if not self._leaving:
                raise
        finally:
            await self._service.stopService()
            self.view.forget()
            self._enter("over")

    async def _receive(self) -> None:
        """Show what comes."""
        while True:
            try:
                packet = await self._service.retrieved.get()
            except ConnectionClosed:
                break
            if isinstance(packet.data, str):
                line = self.view.receive(packet.data, packet.time)
                showing = self._display.show(line)
                self._display.changed()
                if showing is not None:
                    await showing
        await self._service.whenConnected()  # fails with why it has stopped

    def _enter(self, state: str) -> None:
        """Be in another state."""
        self.state = state
        self._display.changed()

    def _ebUnsent(self, failure: Failure, text: str) -> None:
        """Show that a line may not have arrived."""
        failure.trap(AESMError)
        self._display.show(f"! this may not have arrived: {escape(text)}")


def _ebGone(failure: Failure) -> None:
    """Wait no more for a connection that is gone; there will be another one."""
    failure.trap(ConnectionClosed)
