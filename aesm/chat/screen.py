"""
The chat in a terminal: a line to type on at the bottom, and above it what is
said::

    with rawTerminal(0):
        terminal = ChatTerminal()
        joinStandardFiles(KeyReader(terminal), reactor)

C{twisted.conch.insults} tells keys from control sequences and knows those to
write; the line itself is L{aesm.chat.editor}'s.
"""

from __future__ import annotations

import codecs
import os
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from twisted.conch.insults.insults import ServerProtocol, TerminalProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.chat.client import ChatClient
from aesm.chat.editor import LineEditor, cellsOf
from aesm.chat.rules import MAX_LINE

__all__ = ["ChatTerminal", "KeyReader", "rawTerminal"]

PASTE_ON, PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"  # xterm, "bracketed paste mode"
PASTE_BEGINS, PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"
# Some terminals send these for those keys; insults knows the others.
APPLICATION_KEYS = {
    b"\x1b[OA": "UP_ARROW",
    b"\x1b[OB": "DOWN_ARROW",
    b"\x1b[OC": "RIGHT_ARROW",
    b"\x1b[OD": "LEFT_ARROW",
    b"\x1b[OF": "END",
    b"\x1b[OH": "HOME",
}
NARROWEST = 8  # columns for the text, whatever the prompt

_KEY: Any = vars(ServerProtocol)  # insults names keys at run time


# How it is drawn
#
# The screen is never redrawn as a whole, and what has scrolled away stays in the
# terminal's own history.  The cursor is always somewhere in the one row of the prompt
# and the line that is typed, the last row written to; so a line that comes in erases
# that row, is written in its place, and the row is drawn again below it (`show`).  That
# the row is one row is what `LineEditor.window` sees to: the text that does not fit is
# not shown, and nothing here has to know how a terminal wraps.


@contextmanager
def rawTerminal(descriptor: int) -> Iterator[None]:
    """Get every key as it is pressed, and leave the terminal as it was."""
    attributes = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    os.write(descriptor, PASTE_ON)
    try:
        yield
    finally:
        with suppress(OSError, termios.error):  # it may be gone
            os.write(descriptor, PASTE_OFF)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, attributes)


class KeyReader(ServerProtocol):
    """Reads keys, and lets the line be drawn once for all that came together."""

    def __init__(self, terminalProtocol: ChatTerminal) -> None:
        super().__init__(lambda: terminalProtocol)
        self._keys = terminalProtocol

    def dataReceived(self, data: bytes) -> None:
        """Hand over keys."""
        super().dataReceived(data)
        self._keys.changed()


@implementer(IPushProducer)
class ChatTerminal(TerminalProtocol):
    """
    The display of a L{ChatClient}, and the keyboard.

    @ivar client: whose display it is; set by who makes both.
    """

    client: ChatClient
    terminal: Any

    def __init__(self, width: Callable[[], int]) -> None:
        """@param width: tells the terminal's, in columns."""
        self._width = width
        self._editor = LineEditor(MAX_LINE)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pasting = False
        self._isOpen = False
        self._paused: Deferred[None] | None = None  # fires when we may write more
        self._closed: Deferred[None] = Deferred()
        editor = self._editor
        self._keys: dict[bytes, Callable[[], None]] = {
            b"\r": self._enter,
            b"\n": self._enter,
            b"\x03": self._leave,  # Ctrl-C
            b"\x04": self._endOrDelete,  # Ctrl-D
            b"\x0c": self._clear,  # Ctrl-L
            b"\x01": editor.home,  # Ctrl-A, and so on, as in a shell
            b"\x02": editor.left,
            b"\x05": editor.end,
            b"\x06": editor.right,
            b"\x08": editor.backspace,
            b"\x0b": editor.removeBehind,
            b"\x0e": editor.newer,
            b"\x10": editor.older,
            b"\x15": editor.removeBefore,
            b"\x17": editor.removeWord,
            b"\x7f": editor.backspace,
            _KEY["LEFT_ARROW"]: editor.left,
            _KEY["RIGHT_ARROW"]: editor.right,
            _KEY["UP_ARROW"]: editor.older,
            _KEY["DOWN_ARROW"]: editor.newer,
            _KEY["HOME"]: editor.home,
            _KEY["END"]: editor.end,
            _KEY["DELETE"]: editor.delete,
        }

    # Display

    def show(self, line: str) -> Deferred[None] | None:
        """
        Write a line above the one that is typed.

        @return: fires when the terminal takes more; None for now.
        """
        if self._isOpen:
            self.terminal.write(b"\r")
            self.terminal.eraseToDisplayEnd()
            self.terminal.write(line.encode("utf-8", "replace") + b"\n")
            self._draw()
        return self._paused

    def changed(self) -> None:
        """Draw the prompt anew."""
        if self._isOpen:
            self._draw()

    def close(self) -> Deferred[None]:
        """
        Take no more keys, and write what is left.

        @return: fires when that is done.
        """
        if self._isOpen:
            self._isOpen = False
            self.terminal.write(b"\n")
            self.terminal.transport.unregisterProducer()
            self.terminal.transport.loseConnection()  # insults would reset it
        return self._closed

    # ITerminalProtocol

    def connectionMade(self) -> None:
        """Begin."""
        self._isOpen = True
        self.terminal.transport.registerProducer(self, True)
        self._draw()

    def keystrokeReceived(self, keyID: bytes, modifier: object) -> None:
        """
        Act on a key.

        @param keyID: one byte, or the name of a key, such as C{b"[F1]"}.
        @param modifier: None, or that a key was held with it.
        """
        if modifier is not None:
            return
        isCharacter = len(keyID) == 1
        action = self._keys.get(keyID)
        if action is not None and not (self._pasting and isCharacter):
            action()
        elif isCharacter and (self._pasting or keyID >= b" "):
            # No line that is pasted is sent by that: its end becomes a blank.
            self._editor.insert(self._decoder.decode(keyID))

    def unhandledControlSequence(self, seq: bytes) -> None:
        """Act on what insults does not know: the ends of what is pasted, and keys."""
        if seq in (PASTE_BEGINS, PASTE_ENDS):
            self._pasting = seq == PASTE_BEGINS
        elif seq in APPLICATION_KEYS:
            self.keystrokeReceived(_KEY[APPLICATION_KEYS[seq]], None)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The terminal is gone."""
        wasOpen, self._isOpen = self._isOpen, False
        self.resumeProducing()
        self._closed.callback(None)
        if wasOpen:
            self.client.leave()

    # IPushProducer, for what is written

    def pauseProducing(self) -> None:
        """The terminal takes no more for now, as after Ctrl-S."""
        self._paused = Deferred()

    def resumeProducing(self) -> None:
        """The terminal takes more."""
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        """The terminal is gone; C{connectionLost} says so too."""

    # Parts

    def _draw(self) -> None:
        """Draw the line that is typed, and put the cursor there."""
        columns = max(self._width(), 2 * NARROWEST)
        prompt = self._prompt()
        while cellsOf(prompt) > columns - NARROWEST:  # its end says whose line it is
            prompt = prompt[1:]
        text, cursor = self._editor.window(columns - cellsOf(prompt))
        self.terminal.write(b"\r" + (prompt + text).encode("utf-8", "replace"))
        self.terminal.eraseToLineEnd()
        self.terminal.write(b"\r")
        self.terminal.cursorForward(cellsOf(prompt) + cursor)

    def _prompt(self) -> str:
        """Say where one is and who one is."""
        view, state = self.client.view, self.client.state
        where = view.room if state == "connected" else state
        return f"[{where}] {view.name}> "

    def _enter(self) -> None:
        """Send the line."""
        line = self._editor.take()
        if line.strip():
            self.client.send(line)

    def _leave(self) -> None:
        """Leave the chat."""
        self.client.leave()

    def _endOrDelete(self) -> None:
        """Leave if nothing is typed, else remove a character, as shells do."""
        if self._editor.text:
            self._editor.delete()
        else:
            self.client.leave()

    def _clear(self) -> None:
        """Clear the screen."""
        self.terminal.eraseDisplay()
        self.terminal.cursorHome()
