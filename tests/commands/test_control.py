"""
Asking a server: L{aesm.commands.control}.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from aesm.commands import control as module
from aesm.commands.control import NotDone, ask


class AskTests(SynchronousTestCase):
    """L{ask} waits for an answer."""

    def setUp(self) -> None:
        """Make a folder whose name is short enough for a socket's."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "a b"

    def answering(self, answer: bytes | None) -> list[bytes]:
        """
        Listen, and answer one request.

        @param answer: None to say nothing.
        @return: gets what was asked.
        """
        asked: list[bytes] = []
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.path))
        listening.listen()
        done = threading.Event()

        def serve() -> None:
            """Answer."""
            with listening, listening.accept()[0] as accepted:
                with accepted.makefile("rb") as file:
                    asked.append(file.readline())
                if answer is None:
                    done.wait()
                else:
                    accepted.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(done.set)
        return asked

    def fails(self) -> str:
        """Ask, which fails."""
        return str(self.assertRaises(NotDone, ask, self.path, {}))

    def test_answer(self) -> None:
        """Request and answer are a line each."""
        asked = self.answering(b'{"ok": true}\nmore')
        self.assertEqual(ask(self.path, {"who": "\u0416\n"}), {"ok": True})
        self.assertEqual(asked, [b'{"who": "\\u0416\\n"}\n'])

    def test_noServer(self) -> None:
        """Where there is none, it says where it was looked for."""
        self.assertIn(f"no server is at '{self.path}'; name its", self.fails())
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.path))
        self.assertIn("no server is at", self.fails())

    def test_hungUp(self) -> None:
        """A server that says nothing, or something else, is no answer."""
        for answer in (b"", b"{", b"[]\n"):
            self.answering(answer)
            self.assertIn("hung up", self.fails())
            os.unlink(self.path)

    def test_silent(self) -> None:
        """Nobody is waited for for ever."""
        self.patch(module, "PATIENCE", 0.01)
        self.answering(None)
        self.assertIn("timed out", self.fails())

    def test_forbidden(self) -> None:
        """Why it cannot be asked is said."""
        self.path = self.path / ("x" * 200)
        self.assertIn("too long", self.fails())
