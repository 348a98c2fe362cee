"""
The chat in a window, with Tk and Twisted in one thread::

    window = ChatWindow(reactor, desktopIsDark())
    window.client = ChatClient(reactor, endpoint, "alice", window)
    await window.run()
"""

from __future__ import annotations

import os
import subprocess
import time
import tkinter
from collections.abc import Callable
from functools import partial
from tkinter import font, ttk
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from aesm.chat.client import ChatClient
from aesm.chat.looks import BRIGHT, DEEP, colourOf
from aesm.chat.rules import MAX_LINE
from aesm.chat.text import sizeOf
from aesm.chat.view import Line
from aesm.text import escape

MAX_LINES = 2000  # of the transcript
LOOK = 0.02  # seconds from one look at what the user does to the next
SMALLEST, USUAL, LARGEST = 7, 11, 40  # points
BUS = "DBUS_SESSION_BUS_ADDRESS"
# What the desktop says of light and dark: 1 is dark (XDG Desktop Portal, Settings).
_ASK = (
    *("gdbus", "call", "--session", "--timeout=1"),
    *("--dest=org.freedesktop.portal.Desktop",),
    *("--object-path=/org/freedesktop/portal/desktop",),
    *("--method=org.freedesktop.portal.Settings.Read",),
    *("org.freedesktop.appearance", "color-scheme"),
)


class _Colours(NamedTuple):
    """
    The colours of a window.

    @ivar paper: behind what is said; the rest of the window is its C{frame}.
    @ivar faint: what is less important than what is said in C{ink}.
    @ivar names: of people.
    """

    paper: str
    frame: str
    field: str
    line: str
    ink: str
    faint: str
    error: str
    button: str
    chosen: str
    names: tuple[str, ...]


_LIGHT = _Colours(
    paper="#ffffff",
    frame="#f3f3f5",
    field="#ffffff",
    line="#c9c9cf",
    ink="#1c1c1e",
    faint="#66666c",
    error="#b3261e",
    button="#2456b8",
    chosen="#cfe0ff",
    names=DEEP,
)
_DARK = _Colours(
    paper="#1b1c20",
    frame="#25262b",
    field="#1b1c20",
    line="#45464d",
    ink="#e8e8ea",
    faint="#a0a1a8",
    error="#ff8f86",
    button="#3564c4",
    chosen="#34497a",
    names=BRIGHT,
)


def desktopIsDark() -> bool:
    """Ask the desktop whether programs are to be dark; if it does not know, no."""
    if BUS not in os.environ:  # gdbus would start one
        return False
    try:
        answer = subprocess.run(_ASK, capture_output=True, timeout=2.0)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"uint32 1" in answer.stdout


class ChatWindow:
    """
    The display of a L{ChatClient}.

    @ivar client: whose display it is; set by who makes both.
    """

    client: ChatClient

    def __init__(self, reactor: Any, dark: bool) -> None:
        """
        @raise ValueError: there is no display.
        """
        try:
            self._root = tkinter.Tk(className="aesm")
        except tkinter.TclError as error:
            raise ValueError(f"no window: {error}") from None
        self._closed: Deferred[None] = Deferred()
        self._colours = _DARK if dark else _LIGHT
        self._looking = LoopingCall(self._root.update)
        self._looking.clock = reactor
        self._fonts = [
            font.nametofont(name, self._root)
            for name in ("TkDefaultFont", "TkTextFont")
        ]
        self._bold, self._italic = (base.copy() for base in self._fonts[:1] * 2)
        self._bold.configure(weight="bold")
        self._italic.configure(slant="italic")
        self._fonts += [self._bold, self._italic]
        self._dress()
        self._build()
        self._resize()
        self._bind()

    async def run(self) -> None:
        """
        Show it until the user leaves; if there is no way to go on, until they have
        seen why.

        @raise Exception: what trying again would not mend.
        """
        # Tk waits for its files in a loop of its own: it is asked in between.
        looking = self._looking.start(LOOK)
        looking.addErrback(Failure.trap, tkinter.TclError)  # of the end
        try:
            await self.client.run()
        except CancelledError:
            raise
        except Exception as error:
            self.show(Line.error(time.time(), escape(str(error))))
            await self._closed
            raise
        finally:
            self._looking.stop()
            self._root.destroy()

    # Display

    def show(self, line: Line) -> None:
        """Show one more line, and follow unless somebody has scrolled up."""
        text = self._transcript
        follows = text.yview()[1] >= 1.0
        text.configure(state="normal")
        if text.index("end - 1 chars") != "1.0":
            text.insert("end", "\n")
        who: str = line.kind
        if line.speaker and line.kind != "own":
            who = colourOf(line.speaker, self._colours.names)
            text.tag_configure(who, foreground=who, font=self._bold)
        text.insert("end", f"{line.clock}\t", ("line", "clock"))
        text.insert("end", f"{line.mark} ", ("line", who))
        text.insert("end", line.text, ("line", f"{line.kind} text"))
        text.delete("1.0", f"end - {MAX_LINES} lines")
        text.configure(state="disabled")
        if follows:
            text.see("end")

    def changed(self) -> None:
        """Show who one is, who else is there, and how the connection is."""
        view, colours = self.client.view, self._colours
        title = f"{view.name} in {view.room}" if view.name else "no name yet"
        self._root.title(f"{title} - aesm chat")
        self._title.configure(text=title)
        isWell = self.client.status == "connected"
        self._status.configure(
            text=self.client.status,
            foreground=colours.faint if isWell else colours.error,
        )
        present = view.present
        if list(self._present.get(0, "end")) != present:
            self._present.delete(0, "end")
            self._present.insert("end", *present)
            for index, name in enumerate(present):
                isOwn = name == view.name
                colour = colours.ink if isOwn else colourOf(name, colours.names)
                self._present.itemconfigure(index, foreground=colour)
            self._here.configure(text=f"Here: {len(present)}")

    # Making it

    def _dress(self) -> None:
        """Give all that Tk draws its colours."""
        colours, style = self._colours, ttk.Style(self._root)
        style.theme_use("clam")  # the one that takes colours
        style.configure(
            ".",
            background=colours.frame,
            foreground=colours.ink,
            fieldbackground=colours.field,
            bordercolor=colours.line,
            lightcolor=colours.frame,
            darkcolor=colours.frame,
            troughcolor=colours.frame,
            insertcolor=colours.ink,
            selectbackground=colours.chosen,
            selectforeground=colours.ink,
        )
        style.configure("TEntry", padding=6, lightcolor=colours.field)
        style.map("TEntry", bordercolor=[("focus", colours.button)])
        style.configure(
            "TButton",
            padding=(16, 6),
            background=colours.button,
            foreground="#ffffff",
            bordercolor=colours.button,
            lightcolor=colours.button,
            darkcolor=colours.button,
            focuscolor="#ffffff",
        )
        style.map("TButton", background=[("active", colours.button)])
        bar = "Vertical.TScrollbar"  # without arrows and furrows
        thumb: Any = ("Vertical.Scrollbar.thumb", {"expand": True, "sticky": "nswe"})
        trough: Any = {"sticky": "ns", "children": [thumb]}
        style.layout(bar, [("Vertical.Scrollbar.trough", trough)])
        style.configure(bar, background=colours.line, gripcount=0, arrowsize=10)
        style.map(bar, background=[("disabled", colours.frame)])
        style.configure("Faint.TLabel", foreground=colours.faint)
        style.configure("Title.TLabel", font=self._bold)
        self._root.configure(background=colours.frame)

    def _build(self) -> None:
        """Lay out what there is: who and how, what was said and who is here, a line."""
        root, colours = self._root, self._colours
        plain: dict[str, Any] = dict(
            background=colours.paper,
            foreground=colours.ink,
            selectbackground=colours.chosen,
            selectforeground=colours.ink,
            relief="flat",
            highlightthickness=1,
            highlightbackground=colours.line,
            highlightcolor=colours.button,
            font=self._fonts[1],
        )
        self._title = ttk.Label(root, style="Title.TLabel")
        self._status = ttk.Label(root, style="Faint.TLabel")
        self._here = ttk.Label(root, style="Faint.TLabel")
        self._transcript = tkinter.Text(
            root,
            width=58,
            height=18,
            wrap="word",
            state="disabled",
            takefocus=1,  # to copy from
            borderwidth=0,
            padx=10,
            pady=8,
            spacing1=2,
            spacing2=1,
            spacing3=3,
            **plain,
        )
        bar = ttk.Scrollbar(root, command=self._transcript.yview)
        self._transcript.configure(yscrollcommand=bar.set)
        self._present = tkinter.Listbox(
            root, width=16, borderwidth=8, takefocus=0, activestyle="none", **plain
        )
        label = ttk.Label(root, text="Message", underline=0)
        self._entry = ttk.Entry(root, font=self._fonts[1])
        self._send = ttk.Button(root, text="Send", command=self._enter)
        tags: dict[str, dict[str, Any]] = {
            "clock": dict(foreground=colours.faint),
            "note": dict(foreground=colours.faint),
            "note text": dict(foreground=colours.faint),
            "error": dict(foreground=colours.error, font=self._bold),
            "error text": dict(foreground=colours.error),
            "own": dict(font=self._bold),
            "told text": dict(font=self._italic),
        }
        for tag, options in tags.items():
            self._transcript.tag_configure(tag, **options)
        root.columnconfigure(1, weight=1)
        root.rowconfigure(1, weight=1)
        self._title.grid(row=0, column=0, columnspan=2, sticky="w", padx=14, pady=10)
        self._status.grid(row=0, column=1, sticky="e", padx=(0, 8))
        self._here.grid(row=0, column=3, sticky="w", padx=(10, 14))
        self._transcript.grid(
            row=1, column=0, columnspan=2, sticky="nsew", padx=(14, 0)
        )
        bar.grid(row=1, column=2, sticky="ns")
        self._present.grid(row=1, column=3, sticky="ns", padx=(10, 14))
        label.grid(row=2, column=0, sticky="w", padx=14)
        self._entry.grid(row=2, column=1, sticky="ew", pady=14)
        self._send.grid(row=2, column=3, sticky="ew", padx=(10, 14))

    def _bind(self) -> None:
        """Give keys a meaning."""
        root, entry = self._root, self._entry
        root.protocol("WM_DELETE_WINDOW", self._close)
        scroll = self._transcript.yview_scroll
        keys: list[tuple[tkinter.Misc, str, Callable[[], object]]] = [
            (entry, "<Return>", self._enter),
            (entry, "<KP_Enter>", self._enter),
            (self._send, "<Return>", self._enter),
            (self._send, "<KP_Enter>", self._enter),
            (entry, "<Escape>", partial(entry.delete, 0, "end")),
            (entry, "<Prior>", partial(scroll, -1, "pages")),
            (entry, "<Next>", partial(scroll, 1, "pages")),
            (root, "<Alt-m>", entry.focus_set),
            (root, "<Control-plus>", partial(self._resize, 1)),
            (root, "<Control-equal>", partial(self._resize, 1)),
            (root, "<Control-KP_Add>", partial(self._resize, 1)),
            (root, "<Control-minus>", partial(self._resize, -1)),
            (root, "<Control-KP_Subtract>", partial(self._resize, -1)),
            (root, "<Control-0>", self._resize),
        ]
        for widget, key, act in keys:
            widget.bind(key, partial(_press, act))
        entry.focus_set()

    # What people do

    def _resize(self, change: int | None = None) -> None:
        """Write larger, by points, or for None in the usual size."""
        points = USUAL if change is None else self._fonts[0].cget("size") + change
        for each in self._fonts:
            each.configure(size=min(max(points, SMALLEST), LARGEST))
        # What is said hangs beside the clock.
        indent = self._fonts[1].measure("00:00   ")
        self._transcript.configure(tabs=(indent,))
        self._transcript.tag_configure("line", lmargin2=indent)
        self._transcript.see("end")

    def _enter(self) -> None:
        """Send the line."""
        text = self._entry.get()
        if sizeOf(text) > MAX_LINE:
            problem = f"a line has at most {MAX_LINE} bytes"
            self.show(Line.error(time.time(), problem))
            return
        self._entry.delete(0, "end")
        self.client.send(text)

    def _close(self) -> None:
        """Leave; a second time, without waiting for the server."""
        if self.client.state != "over":
            self.client.leave()
        elif not self._closed.called:
            self._closed.callback(None)


def _press(act: Callable[[], object], event: object) -> None:
    """Do what a key is for."""
    act()
