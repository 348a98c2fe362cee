"""
A store that several processes share, in memory, which answers when a test says so::

    shelf = Shelf()
    store = ShelfStore(shelf)
    store.isSlow = True
    opened = store.open()
    store.work()                 # the oldest question has its answer

It is what servers are to get along with, whatever they store their sessions in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from aesm.errors import SpoolError
from aesm.store.interface import Blob, ISessionStore, Stored

__all__ = ["Shelf", "ShelfStore"]


class Shelf:
    """
    What several processes have in common.

    @ivar sessions: what is kept of each.
    @ivar owners: whose each is.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.sessions: dict[str, Stored] = {}
        self.owners: dict[str, ShelfStore] = {}


@implementer(ISessionStore)
class ShelfStore:
    """
    A process's way to the shelf.

    @ivar failure: as L{ISessionStore} has it.
    @ivar size: the same.
    @ivar isSlow: whether answers wait until told.
    @ivar waiting: what was asked and has no answer.
    @ivar broken: what questions about sessions fail with, while it is set.
    """

    def __init__(self, shelf: Shelf) -> None:
        """@param shelf: may have sessions, which are ours if they are nobody's."""
        self.failure: SpoolError | None = None
        self.size = 0
        self.isSlow = False
        self.waiting: list[Callable[[], object]] = []
        self.broken: Exception | None = None
        self._shelf = shelf
        self._gathered: list[tuple[str, Callable[[Stored], object]]] = []
        self._isClosed = False

    def _ask(self, answer: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Answer, now or later."""
        asked: Deferred[Any] = Deferred()
        answering = partial(execute, answer, *arguments)
        if self.isSlow:
            self.waiting.append(lambda: answering().chainDeferred(asked))
        else:
            answering().chainDeferred(asked)
        return asked

    def _check(self) -> None:
        """
        Let a question fail.

        @raise Exception: it is to.
        """
        if self.broken is not None:
            raise self.broken

    def work(self) -> None:
        """Answer the oldest question."""
        self.waiting.pop(0)()

    def kill(self) -> None:
        """Answer nothing any more, as for a process that is killed."""
        self.isSlow = True
        self.waiting.clear()
        self._shelf.owners = {
            name: owner
            for name, owner in self._shelf.owners.items()
            if owner is not self
        }

    # ISessionStore

    def open(self) -> Deferred[list[Stored]]:
        """
        Find what is nobody's.

        @see: L{ISessionStore.open}
        """
        return self._ask(self._open)

    def _open(self) -> list[Stored]:
        """Have what is nobody's."""
        self._check()
        shelf = self._shelf
        names = [name for name in shelf.sessions if name not in shelf.owners]
        return [self._have(name) for name in names]

    def damaged(self, reason: str) -> SpoolError:
        """
        Make an error.

        @see: L{ISessionStore.damaged}
        """
        return SpoolError(f"the shelf is damaged: {reason}")

    def begin(self, name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """
        Store a session.

        @see: L{ISessionStore.begin}
        """
        return self._ask(self._begin, name, peer, _copied(state))

    def _begin(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """Store a session."""
        self._check()
        if name in self._shelf.sessions:
            raise SpoolError(f"there is a session {name}")
        self._shelf.sessions[name] = Stored(name, peer, state, [], [], [])
        self._shelf.owners[name] = self

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """
        Have a session.

        @see: L{ISessionStore.claim}
        """
        return self._ask(self._claim, name, peer)

    def _claim(self, name: str, peer: str) -> Stored | None:
        """Have a session, if there is such a one."""
        self._check()
        stored = self._shelf.sessions.get(name)
        return None if stored is None or stored.peer != peer else self._have(name)

    def _have(self, name: str) -> Stored:
        """Have a session."""
        self._shelf.owners[name] = self
        name, peer, state, *messages = self._shelf.sessions[name]
        return Stored(name, peer, _copied(state), *map(list, messages))

    def put(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """
        Replace a state.

        @see: L{ISessionStore.put}
        """
        state = _copied(state)
        self._gathered.append((name, lambda stored: stored.state.update(state)))

    def append(
        self, name: str, outgoing: bool, number: int, count: int, frames: bytes
    ) -> None:
        """
        Add messages.

        @see: L{ISessionStore.append}
        """
        blob = Blob(number, count, frames)
        self._gathered.append((name, lambda stored: _of(stored, outgoing).append(blob)))

    def discard(self, name: str, outgoing: bool, before: int) -> None:
        """
        Remove messages.

        @see: L{ISessionStore.discard}
        """

        def removed(stored: Stored) -> None:
            """Leave out what is old."""
            blobs = _of(stored, outgoing)
            blobs[:] = [blob for blob in blobs if blob.number + blob.messages > before]

        self._gathered.append((name, removed))

    def addRequest(self, name: str, number: int, frame: bytes) -> None:
        """
        Add a request.

        @see: L{ISessionStore.addRequest}
        """
        blob = Blob(number, 1, frame)
        self._gathered.append((name, lambda stored: stored.requests.append(blob)))

    def removeRequest(self, name: str, number: int) -> None:
        """
        Remove a request.

        @see: L{ISessionStore.removeRequest}
        """

        def removed(stored: Stored) -> None:
            """Leave it out."""
            left = [blob for blob in stored.requests if blob.number != number]
            stored.requests[:] = left

        self._gathered.append((name, removed))

    def drop(self, name: str) -> None:
        """
        Remove a session.

        @see: L{ISessionStore.drop}
        """
        self._gathered.append((name, self._drop))

    def _drop(self, stored: Stored) -> None:
        """Remove a session."""
        del self._shelf.sessions[stored.name], self._shelf.owners[stored.name]

    def commit(self) -> Deferred[None]:
        """
        Write what was gathered.

        @see: L{ISessionStore.commit}
        """
        gathered, self._gathered = self._gathered, []
        return self._ask(self._commit, gathered)

    def _commit(self, gathered: list[tuple[str, Callable[[Stored], object]]]) -> None:
        """Write what is about sessions that are ours."""
        for name, change in gathered:
            if self._shelf.owners.get(name) is self:
                change(self._shelf.sessions[name])

    def close(self) -> Deferred[None]:
        """
        Write what was gathered, and leave all sessions to whom they come to.

        @see: L{ISessionStore.close}
        """
        if self._isClosed:
            raise RuntimeError("it is closed")
        self._isClosed = True
        return self.commit().addCallback(lambda nothing: self.kill())


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Make of a state what comes back."""
    copied: dict[str, Any] = json.loads(json.dumps(state))
    return copied


def _of(stored: Stored, outgoing: bool) -> list[Blob]:
    """Find the messages of a direction."""
    return stored.outgoing if outgoing else stored.incoming
