"""
What the clients of the chat share, whatever they look like: a session that goes on
when its connection is lost, and L{what they see of the chat<aesm.chat.view>}::

    client = ChatClient(reactor, endpoint, "alice", display)
    client.run()            # fires once it is over
    client.send("hello")
    client.leave()

The display is told what to show; what others wrote comes to it escaped, one line
at a time.
"""

from __future__ import annotations

import math
import re
import time
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.chat.view import ChatView, Line
from aesm.client.service import ClientService
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import IClientObserver
from aesm.messages.connection import Connection
from aesm.messages.deferred import cancelTimer
from aesm.messages.requests import Request
from aesm.text import escape


class Display(Protocol):
    """What shows a chat to somebody."""

    def show(self, line: Line) -> None:
        """Show one more line."""

    def changed(self) -> None:
        """Look again at how the client is, and at its view."""


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
        self._clock = clock
        self._nick = nick
        self._display = display
        self._ticking: IDelayedCall | None = None  # while it waits
        self._nextAttempt = 0.0  # when it has waited
        self._trouble = ""  # why there is no connection, as the user knows it
        self._service = ClientService(endpoint, reactor=clock, observer=self, **options)
        self._service.leaves = False  # all is read to the end
        self._connection: Connection | None = None
        self._leaving = False
        self._running: Deferred[None] | None = None

    @property
    def status(self) -> str:
        """Say in a few words how the connection is."""
        if self._leaving and self.state != "over":
            return "leaving"
        if self.state != "waiting":
            return self.state
        seconds = math.ceil(self._nextAttempt - self._clock.seconds())
        return f"trying again in {seconds} s" if seconds > 0 else "connecting"

    def run(self) -> Deferred[None]:
        """
        Take part.

        @return: fires once C{leave} was called and all is closed; fails with what
            trying again would not mend.  Cancelling it closes in order too.
        """
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def send(self, text: str) -> None:
        """
        Send a line, once there is a connection; C{/quit} leaves, and a blank one is
        none.  If it may not arrive, the display says so.
        """
        text = text.strip()
        if text == "/quit":
            self.leave()
        if text in ("", "/quit"):
            return
        # A terminal can deliver half a surrogate pair, which UTF-8 cannot write.
        whole = text.encode("utf-8", "replace").decode("utf-8")
        self._service.sendData(whole).addErrback(self._ebUnsent, text)

    def tell(self, text: str) -> None:
        """Show words that come neither from the server nor from the user."""
        self._display.show(Line.note(time.time(), escape(text)))

    def leave(self) -> None:
        """Leave: what was sent is finished, within bounds; called again, at once."""
        if self._leaving and self._connection is not None:
            self._connection.abort()
        elif self._running is not None and not self._leaving:
            self._leaving = True
            self._display.changed()
            self._running.cancel()

    # IClientObserver

    def onConnected(self, connection: Connection) -> None:
        """Begin a session, or go on with it."""
        if connection is not self._connection:
            for line in self.view.join(self._nick):
                connection.sendData(line)
        self._connection = connection
        if self._trouble:
            self._trouble = ""
            self.tell("connected again")
        self._enter("connected")

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """Show that there is no connection, and why, unless the user knows."""
        trouble = _wordsOf(reason)
        if trouble != self._trouble:
            self._trouble = trouble
            self._complain(trouble)
        self._nextAttempt = self._clock.seconds() + delay
        self._enter("waiting")

    def onStopped(self, reason: Exception) -> None:
        """Leave what there is to say to C{run}."""

    # Parts

    async def _run(self) -> None:
        """Connect and receive, until what trying again would not mend."""
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
            if isinstance(packet, Request):
                packet.refuse("nobody answers here", CloseCode.NOT_TAKEN)
            elif isinstance(packet.data, str):
                line = self.view.receive(packet.data, packet.time)
                if line is not None:
                    self._display.show(line)
                self._display.changed()
        await self._service.whenConnected()  # fails with why it has stopped

    def _enter(self, state: str) -> None:
        """Be in another state."""
        self.state = state
        self._tick()

    def _tick(self) -> None:
        """Have the display look, and each second again while the status counts."""
        cancelTimer(self._ticking)
        if self.state == "waiting":
            self._ticking = self._clock.callLater(1.0, self._tick)
        self._display.changed()

    def _complain(self, text: str) -> None:
        """Show what went wrong."""
        self._display.show(Line.error(time.time(), escape(text)))

    def _ebUnsent(self, failure: Failure, text: str) -> None:
        """Show that a line may not have arrived."""
        failure.trap(AESMError)
        self._complain(f"this may not have arrived: {text}")


def _wordsOf(reason: BaseException) -> str:
    """Say why there is no connection, without the system's number and words for it."""
    return re.sub(r": \d+: .*", "", str(reason)).rstrip(".")
