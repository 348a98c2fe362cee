"""
The chat in a window, with Tk and Twisted in one thread::

    twistd -n aesm --handler chat
    python examples/chat_window.py tcp:127.0.0.1:8765 --nick alice

L{aesm.chat.client} does the work, as it does for C{aesm chat} in a terminal: it
connects, again whenever the connection is lost, and hands over what others wrote
as printable lines.  The window only shows them.
"""

from __future__ import annotations

import argparse
import tkinter
from tkinter.scrolledtext import ScrolledText
from typing import Any

from twisted.internet import tksupport
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from aesm import PSK, Pinned, PrivateKey, PublicKey
from aesm.chat.client import ChatClient
from aesm.text import escape

MAX_LINES = 2000  # of the transcript


class ChatWindow:
    """
    The display of a L{ChatClient}.

    @ivar client: whose display it is; set by who makes both.
    @ivar closed: fires when somebody closes the window.
    """

    client: ChatClient

    def __init__(self, root: tkinter.Tk, title: str) -> None:
        """
        @param root: the window.
        @param title: what stands at its top.
        """
        self.closed: Deferred[None] = Deferred()
        self._state = tkinter.Label(root, anchor="w")
        self._transcript = ScrolledText(
            root, width=60, height=18, wrap="word", state="disabled"
        )
        self._present = tkinter.Listbox(root, width=16, takefocus=False)
        self._entry = tkinter.Entry(root)
        root.title(title)
        root.columnconfigure(0, weight=1)
        root.rowconfigure(1, weight=1)
        self._state.grid(row=0, column=0, columnspan=2, sticky="ew", padx=6, pady=3)
        self._transcript.grid(row=1, column=0, sticky="nsew")
        self._present.grid(row=1, column=1, sticky="ns")
        self._entry.grid(row=2, column=0, columnspan=2, sticky="ew", padx=6, pady=6)
        self._entry.bind("<Return>", self._enter)
        self._entry.focus_set()
        root.protocol("WM_DELETE_WINDOW", self.close)

    # aesm.chat.client.Display

    def show(self, line: str) -> None:
        """
        Show one more line, and follow unless somebody has scrolled up.

        @param line: printable characters.
        """
        text = self._transcript
        follows = text.yview()[1] >= 1.0
        text.configure(state="normal")
        text.insert("end", line + "\n")
        text.delete("1.0", f"end - {MAX_LINES + 2} lines")
        text.configure(state="disabled")
        if follows:
            text.see("end")

    def changed(self) -> None:
        """Show the state, and who is there."""
        view = self.client.view
        words = [self.client.state]
        if self.client.state == "connected":
            words.append(
                f"as {view.name} in {view.room}" if view.name else "no name yet"
            )
        self._state.configure(text=", ".join(words))
        if list(self._present.get(0, "end")) != view.present:
            self._present.delete(0, "end")
            self._present.insert("end", *view.present)

    # What people do

    def _enter(self, event: object) -> None:
        """
        Send the line.

        @param event: the key.
        """
        line = self._entry.get()
        self._entry.delete(0, "end")
        if line.strip():
            self.client.send(line)

    def close(self) -> None:
        """Leave; a second time, without waiting for the server."""
        self.client.leave()
        if not self.closed.called:
            self.closed.callback(None)


def readArguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="The chat of aesm in a window.")
    parser.add_argument("endpoint", help="such as tcp:127.0.0.1:8765")
    parser.add_argument("--nick", required=True, help="the name to ask for")
    parser.add_argument("--name", default="aesm", help="the application's name")
    parser.add_argument("--key", type=PrivateKey.loadOrCreate, help="file of our key")
    parser.add_argument("--psk", type=PSK.load, help="file of the pre-shared key")
    parser.add_argument(
        "--pin", type=PublicKey.fromText, help="the server's public key"
    )
    return parser.parse_args()


async def main(reactor: Any, arguments: argparse.Namespace) -> None:
    """
    Show the window until it is closed.

    @param reactor: runs.
    @param arguments: the command line.
    """
    root = tkinter.Tk()
    window = ChatWindow(root, f"{arguments.nick} - aesm chat")
    client = window.client = ChatClient(
        reactor,
        arguments.endpoint,
        arguments.nick,
        window,
        name=arguments.name,
        key=arguments.key,
        psk=arguments.psk,
        trust=Pinned(arguments.pin) if arguments.pin else None,
    )
    tksupport.install(root, reactor=reactor)
    running = client.run()
    running.addCallbacks(
        lambda result: window.close(),
        lambda failure: window.show(f"! {escape(str(failure.value))}"),
    )
    try:
        await window.closed
        await running
    finally:
        tksupport.uninstall()
        root.destroy()


if __name__ == "__main__":
    read = readArguments()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, read)))
