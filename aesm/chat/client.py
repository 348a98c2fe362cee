"""
What the clients of the chat share, whatever they look like: reading the lines of
the server, and a connection that is made again when it is lost::

    client = ChatClient(reactor, lambda: connect(reactor, endpoint), "alice", display)
    client.run()            # fires once it is over
    client.send("hello")
    client.leave()

The display is told what to show; what others wrote comes to it escaped, one line
at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from aesm.chat.rules import DEFAULT_ROOM
from aesm.connection import Connection
from aesm.errors import AESMError, ConnectionClosed, HandshakeTimeout, NotAuthorized
from aesm.terminal import escape

__all__ = ["ChatClient", "ChatView", "Display", "Redialler"]

FIRST_DELAY = 0.5  # seconds until a lost connection is made again
MAX_DELAY = 30.0
GROWTH = 1.7  # of the delay, each time
JITTER = 0.2  # of the delay, at random, so that clients do not come back as one
MAX_PRESENT = 5000  # names that a server can make us hold
TAKEN_OVER = 4001  # close code, PROTOCOL section 9

# What may be otherwise the next time; all else is for people to mend.
PASSING = (ConnectError, DNSLookupError, HandshakeTimeout, ConnectionClosed)


class Display(Protocol):
    """
    What shows a chat to somebody.
    """

    def show(self, line: str) -> Deferred[None] | None:
        """
        Show one more line.

        @param line: printable characters.
        @return: fires when it is time to show more; None for now.
        """

    def changed(self) -> None:
        """
        Look again at the client's C{state} and at its view.
        """


class ChatView:
    """
    What one has seen of the chat: who one is, where, and with whom.

    @ivar name: one's own name, empty until the server says so.
    @ivar room: the room, empty until the server says so.
    """

    def __init__(self) -> None:
        """
        Begin with nothing seen.
        """
        self.name = ""
        self.room = ""
        self._present: dict[str, None] = {}

    @property
    def present(self) -> list[str]:
        """
        Who is in the room, sorted.
        """
        return sorted(self._present, key=str.casefold)

    def forget(self) -> None:
        """
        Know of nobody, as without a connection.
        """
        self._present.clear()

    def receive(self, line: str, when: float) -> str:
        """
        Take note of a line of the server.

        @param line: anything.
        @param when: Unix seconds, when it was sent.
        @return: what to show, printable characters.
        """
        line = escape(line)
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
        """
        Take note that somebody is here.

        @param name: who.
        """
        if len(self._present) < MAX_PRESENT:
            self._present[name] = None


def _clock(when: float) -> str:
    """
    Write a time of day.

    @param when: Unix seconds, as a peer says.
    @return: C{HH:MM}, local time.
    """
    try:
        return time.strftime("%H:%M", time.localtime(when))
    except (OverflowError, OSError, ValueError):
        return "--:--"


def _clockOf(text: str) -> str:
    """
    Write the time of day of a line that is not new.

    @param text: the time as the server writes it.
    @return: as L{_clock}.
    """
    try:
        return _clock(datetime.fromisoformat(text).timestamp())
    except (OverflowError, ValueError):
        return "--:--"


class Redialler:
    """
    Makes a connection, over and over until there is one, with growing delays.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dial: Callable[[], Deferred[Connection]],
        failed: Callable[[Exception, float], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """
        @param clock: keeps time.
        @param dial: tries once.
        @param failed: told of each failure, and in how many seconds we try again.
        @param draw: gives a number from 0 to 1, for the jitter.
        """
        self._clock = clock
        self._dial = dial
        self._failed = failed
        self._draw = draw
        self._delay = FIRST_DELAY
        self._since = 0.0  # when there was a connection

    async def dial(self) -> Connection:
        """
        Make the connection.

        @return: the connection.
        @raise Exception: what will not pass by itself; says what to mend.
        """
        while True:
            try:
                connection = await self._dial()
            except PASSING as error:
                await self._wait(error)
            else:
                self._since = self._clock.seconds()
                return connection

    async def lost(self, reason: AESMError) -> None:
        """
        Wait until it is time to make the connection again.

        @param reason: why it ended.
        """
        if self._clock.seconds() - self._since >= MAX_DELAY:
            self._delay = FIRST_DELAY
        await self._wait(reason)

    async def _wait(self, error: Exception) -> None:
        """
        Wait, the next time longer.

        @param error: why.
        """
        delay = self._delay * (1 + JITTER * (2 * self._draw() - 1))
        self._delay = min(self._delay * GROWTH, MAX_DELAY)
        self._failed(error, delay)
        await deferLater(self._clock, delay)


class ChatClient:
    """
    Somebody in the chat.

    @ivar view: what they have seen of it.
    @ivar state: C{"connecting"}, C{"connected"}, C{"waiting"} to connect again,
        or C{"over"}.
    """

    def __init__(
        self,
        clock: IReactorTime,
        dial: Callable[[], Deferred[Connection]],
        nick: str,
        display: Display,
    ) -> None:
        """
        @param clock: keeps time.
        @param dial: tries once to connect.
        @param nick: the name to ask for.
        @param display: what shows it.
        """
        self.view = ChatView()
        self.state = "connecting"
        self._nick = nick
        self._display = display
        self._redialler = Redialler(clock, dial, self._failed)
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
        Send a line; C{/quit} leaves.  If it may not arrive, the display says so.

        @param text: what was typed.
        @return: fires when there is room for another; None if there is no
            connection.
        """
        if text.strip() == "/quit":
            self.leave()
            return None
        if self._connection is None:
            self._display.show("! not connected: this is not sent: " + escape(text))
            return None
        whole = text.encode("utf-8", "replace").decode("utf-8")
        sent = self._connection.sendData(whole)
        sent.addErrback(self._ebUnsent, text)
        return self._connection.drain().addErrback(_ebGone)

    def leave(self) -> None:
        """
        Leave: what was sent is finished, within bounds; called again, at once.
        """
        if self._leaving and self._connection is not None:
            self._connection.abort()
        elif self._running is not None and not self._leaving:
            self._leaving = True
            self._running.cancel()

    async def _run(self) -> None:
        """
        Connect and receive, over and over.

        @raise Exception: what trying again would not mend.
        """
        try:
            await self._takePart()
        except CancelledError:
            if not self._leaving:
                raise
        finally:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
            self.view.forget()
            self._enter("over")

    async def _takePart(self) -> None:
        """
        Connect and receive, over and over.

        @raise Exception: what trying again would not mend.
        """
        command = "/nick"
        while True:
            self._enter("connecting")
            connection = self._connection = await self._redialler.dial()
            self._enter("connected")
            connection.sendData(f"{command} {self.view.name or self._nick}")
            if self.view.room not in ("", DEFAULT_ROOM):
                connection.sendData(f"/join {self.view.room}")
            reason = await self._receive(connection)
            self._connection = None
            self.view.forget()
            if _isFinal(reason):
                raise reason
            command = "/regain"
            await self._redialler.lost(reason)

    async def _receive(self, connection: Connection) -> AESMError:
        """
        Show what comes, until the end.

        @param connection: where it comes from.
        @return: why it ended.
        """
        while True:
            try:
                packet = await connection.retrieved.get()
            except ConnectionClosed:
                return await connection.closed()
            if isinstance(packet.data, str):
                line = self.view.receive(packet.data, packet.time)
                showing = self._display.show(line)
                self._display.changed()
                if showing is not None:
                    await showing

    def _enter(self, state: str) -> None:
        """
        Be in another state.

        @param state: which.
        """
        self.state = state
        self._display.changed()

    def _failed(self, error: Exception, delay: float) -> None:
        """
        Show that there is no connection.

        @param error: why.
        @param delay: when we try again, seconds.
        """
        self._enter("waiting")
        words = escape(str(error)).rstrip(".")
        self._display.show(f"! {words}; trying again in {delay:.1f} seconds")

    def _ebUnsent(self, failure: Failure, text: str) -> None:
        """
        Show that a line may not have arrived.

        @param failure: why.
        @param text: the line.
        """
        failure.trap(AESMError)
        self._display.show(f"! this may not have arrived: {escape(text)}")


def _isFinal(reason: AESMError) -> bool:
    """
    Tell whether the server does not want us back.

    @param reason: why the connection ended.
    """
    return isinstance(reason, NotAuthorized) or (
        isinstance(reason, ConnectionClosed) and reason.code == TAKEN_OVER
    )


def _ebGone(failure: Failure) -> None:
    """
    Wait no more for a connection that is gone; C{ChatClient._receive} says why.

    @param failure: L{ConnectionClosed}.
    """
    failure.trap(ConnectionClosed)
