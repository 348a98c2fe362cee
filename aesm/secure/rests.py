"""
Connections at rest: what is silent lets go of what can be made again from its keys.

What C{cryptography} makes of a key takes twenty times the room of the key, and is made
again in a microsecond.  One timer looks after all connections of a factory, so that a
connection has none of its own for this, and one that is at rest costs nothing::

    rests.woke(secure)       # it is open, or has something to read or write again
    rests.forget(secure)     # it is gone
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall, IReactorTime

if TYPE_CHECKING:
    from aesm.secure.protocol import SecureProtocol

__all__ = ["Rests"]

SILENCE = 0.5  # seconds between two looks: who was silent from one to the next rests


class Rests:
    """Has connections rest."""

    def __init__(self, clock: IReactorTime) -> None:
        """Start with nobody awake."""
        self._clock = clock
        # Who is awake, and how many records had passed at the last look.
        self._awake: dict[SecureProtocol, int] = {}
        self._call: IDelayedCall | None = None

    def woke(self, secure: SecureProtocol) -> None:
        """Look after a connection until it rests."""
        self._awake[secure] = -1
        if self._call is None:
            self._call = self._clock.callLater(SILENCE, self._look)

    def forget(self, secure: SecureProtocol) -> None:
        """Look after a connection no more, if it is awake."""
        self._awake.pop(secure, None)
        if self._call is not None and not self._awake:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        """Have those rest that were silent since the last look."""
        self._call = None
        for secure, former in list(self._awake.items()):
            passed = secure.channel.passed
            if passed == former:
                del self._awake[secure]
                secure.channel.rest()
            else:
                self._awake[secure] = passed
        if self._awake:
            self._call = self._clock.callLater(SILENCE, self._look)
