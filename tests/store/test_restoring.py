"""
Tests for L{aesm.store.restoring}: what was stored makes no sense.
"""

from __future__ import annotations

from typing import Any

from aesm.store.interface import Blob
from aesm.store.sqlite import Changes, SpoolFile
from tests.support.pairs import CLIENT_KEY
from tests.support.spooled import SpoolTestCase


class DamagedTests(SpoolTestCase):
    """A spool in which is what nobody wrote."""

    def damage(self, change: Any) -> str:
        """
        Change a spool with a message in each direction, and start the server.

        @param change: called with the session's changes.
        @return: the error's text.
        """
        self.serving()
        client = self.service()
        client.sendData("x")
        self.network.deliver()
        self.killService(client)
        self.killServer()
        (stored,) = self.stored(self.path)
        changes = Changes()
        change(changes, stored.state)
        file = SpoolFile(self.path, full=False)
        file.write({stored.name: changes})
        file.close()
        text = self.cannotServe()
        self.assertEqual(self.cannotServe(), text)  # it is not left open
        self.path.unlink()
        return text

    def test_state(self) -> None:
        """
        A state that is none of ours, or not of this kind, is named, with the file.
        """

        def without(changes: Changes, state: dict[str, Any]) -> None:
            """Take a part away."""
            del state["window"]
            changes.put(str(CLIENT_KEY.publicKey), state)

        def otherType(changes: Changes, state: dict[str, Any]) -> None:
            """Make a number text."""
            changes.put(str(CLIENT_KEY.publicKey), {**state, "takenCost": "1"})

        def otherKey(changes: Changes, state: dict[str, Any]) -> None:
            """Let the peer be nobody."""
            changes.put("nobody", state)

        def noState(changes: Changes, state: dict[str, Any]) -> None:
            """Have nothing."""
            changes.record = (str(CLIENT_KEY.publicKey), "[]", b"[]")

        self.assertIn("KeyError", self.damage(noState))
        for change in (without, otherType, otherKey):
            text = self.damage(change)
            self.assertIn(f"{self.path} is no spool, or is damaged", text)
            self.assertIn("move it", text)

    def test_messages(self) -> None:
        """So are messages that are none, or not so many."""
        for frames in (b"", b"nonsense", b"\0" * 13, b"\0\0\0\0\2" + b"\0" * 8 + b"x"):

            def change(
                changes: Changes, state: dict[str, Any], frames: bytes = frames
            ) -> None:
                """Add what is no message."""
                changes.append(False, Blob(1, 1, frames))

            self.assertIn("are not what they were", self.damage(change))
