"""
The chat in a terminal: a prompt that is edited as in a shell, and above it what is
said, in colours::

    terminal = ChatTerminal(openOutput())
    terminal.client = ChatClient(reactor, endpoint, "alice", terminal)
    await terminal.run()

C{prompt_toolkit} reads the keys and draws the prompt.  It needs asyncio, so the reactor
has to be Twisted's for that, which makes it one thread and one event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import Output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style
from prompt_toolkit.validation import Validator
from twisted.internet.defer import Deferred

from aesm.chat.client import ChatClient
from aesm.chat.looks import MIDDLE, colourOf, wrap
from aesm.chat.rules import COMMANDS, MAX_LINE
from aesm.chat.text import oneLine, sizeOf
from aesm.chat.view import Line
from aesm.text import cut

HINT = "write something, or /help; Tab completes"
ROOM_FOR_HINT = 70  # columns

# Without colours, as with NO_COLOR, what is bold and what is italic is left.
_STYLE = Style.from_dict(
    {
        "clock": "#767676",
        "note": "#767676",
        "error": "#c94c49",
        "told": "italic",
        "own": "bold",
        "own.text": "nobold",
        "trouble": "#b75e03",
        "placeholder": "#767676",
        "completion-menu": "bg:#303030 #eeeeee",
        "completion-menu.completion.current": "noreverse bg:#eeeeee #303030",
        "completion-menu.meta.completion": "bg:#303030 #b2b2b2",
        "completion-menu.meta.completion.current": "bg:#eeeeee #303030",
    }
)


# How it is drawn
#
# The screen is never redrawn as a whole, and what has scrolled away stays in the
# terminal's own history.  A line that comes in erases the prompt, is written in its
# place, and the prompt is drawn again below it, once for all lines of one turn of the
# event loop (`show`).


def openOutput() -> Output:
    """Make standard output what a L{ChatTerminal} draws on."""
    output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
    # Where the cursor is need not be known; some terminals never say.
    output.enable_cpr = False
    return output


class ChatTerminal:
    """
    The display of a L{ChatClient}, and the keyboard.

    @ivar client: whose display it is; set by who makes both.
    """

    client: ChatClient

    def __init__(self, output: Output, input: Input | None = None) -> None:
        """@param input: None for standard input."""
        self._session: PromptSession[str] = PromptSession(
            self._prompt,
            placeholder=self._placeholder,
            completer=_ChatCompleter(self),
            complete_while_typing=False,
            validator=Validator.from_callable(
                lambda text: sizeOf(text) <= MAX_LINE,
                f"a line has at most {MAX_LINE} bytes",
                move_cursor_to_end=True,
            ),
            validate_while_typing=False,
            key_bindings=self._bindings(),
            enable_suspend=True,
            erase_when_done=True,
            style=_STYLE,
            include_default_pygments_style=False,
            input=input,
            output=output,
        )
        # The prompt stays, whatever is entered.
        self._session.default_buffer.accept_handler = self._enter
        self._hasEntered = False

    async def run(self) -> None:
        """
        Take part, until the user leaves.

        @raise Exception: what trying again would not mend.
        """
        # Signals are the program's affair.
        reading = asyncio.ensure_future(
            self._session.prompt_async(handle_sigint=False, set_exception_handler=False)
        )
        reading.add_done_callback(self._inputEnded)
        try:
            await self.client.run()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, EOFError):
                await Deferred.fromFuture(reading)

    # Display

    def show(self, line: Line) -> None:
        """Write a line above the prompt."""
        app = self._session.app
        first, *others = wrap(
            f"{line.clock} {line.mark} ", line.text, app.output.get_size().columns
        )
        if app.is_running:
            app.renderer.erase()
        text = [first.removeprefix(f"{line.clock} {line.mark}"), *others]
        print_formatted_text(
            app.output,
            [
                ("class:clock", f"{line.clock} "),
                (_styleOf(line), line.mark),
                (f"class:{line.kind}.text", "\n".join(text) + "\n"),
            ],
            _STYLE,
            color_depth=app.color_depth,
        )
        app.output.reset_attributes()
        app.output.flush()
        app.invalidate()

    def changed(self) -> None:
        """Draw the prompt anew."""
        self._session.app.invalidate()

    # Parts

    def _prompt(self) -> StyleAndTextTuples:
        """Say where one is and who one is, or what the connection is about."""
        view = self.client.view
        most = self._session.app.output.get_size().columns // 3
        if self.client.status == "connected":
            where = ("class:clock", cut(view.room, most) or "connected")
        else:
            where = ("class:trouble", self.client.status)
        return [
            ("class:clock", "["),
            where,
            ("class:clock", "] "),
            ("class:own", cut(view.name, most)),
            ("", "> "),
        ]

    def _placeholder(self) -> StyleAndTextTuples:
        """Tell newcomers how to go on, where there is room."""
        isNarrow = self._session.app.output.get_size().columns < ROOM_FOR_HINT
        return [("class:placeholder", "" if self._hasEntered or isNarrow else HINT)]

    def _enter(self, buffer: Buffer) -> bool:
        """Send the line, and make room for the next."""
        self._hasEntered = True
        self.client.send(buffer.text)
        return False

    def _bindings(self) -> KeyBindings:
        """Give keys a meaning of the chat's."""
        bindings = KeyBindings()
        isEmpty = Condition(lambda: not self._session.default_buffer.text)

        @bindings.add("c-c")
        @bindings.add("c-d", filter=isEmpty)
        def leave(event: KeyPressEvent) -> None:
            """Leave the chat; once more, at once."""
            self.client.leave()

        @bindings.add(Keys.BracketedPaste)
        def paste(event: KeyPressEvent) -> None:
            """Take what is pasted as one line, which is not sent by that."""
            text = event.data.replace("\r\n", "\n")
            event.current_buffer.insert_text(oneLine(text))

        return bindings

    def _inputEnded(self, reading: asyncio.Future[str]) -> None:
        """Leave if the terminal is gone."""
        if not reading.cancelled() and reading.exception() is not None:
            self.client.leave()


class _ChatCompleter(Completer):
    """Completes commands, and the names of those who are here."""

    def __init__(self, terminal: ChatTerminal) -> None:
        self._terminal = terminal

    def get_completions(
        self, document: Document, event: CompleteEvent
    ) -> Iterator[Completion]:
        """Offer what the word before the cursor may become."""
        rest, _, word = document.text_before_cursor.rpartition(" ")
        if rest:
            behind = " "
        elif word.startswith("/"):
            for command, usage in {**COMMANDS, "quit": ": leave"}.items():
                if command.startswith(word[1:]):
                    yield Completion(
                        f"/{command} ", -len(word), display_meta=usage.lstrip(": ")
                    )
            return
        else:
            behind = ": "
        for name in self._terminal.client.view.present:
            if name.casefold().startswith(word.casefold()):
                yield Completion(name + behind, -len(word), display=name)


def _styleOf(line: Line) -> str:
    """Choose how it is shown who says something."""
    if line.speaker and line.kind != "own":
        return colourOf(line.speaker, MIDDLE)
    return f"class:{line.kind}"
