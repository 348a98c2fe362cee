"""
Sessions in an engine that other nodes reach, too::

    store = EngineStore(engine, clock, grace=60.0)
    store.lost = forget                                # who is another node's by now
    store.start().addCallback(listen)
    store.begin(name, peer, state).addCallback(welcome)
    store.claim(name, peer).addCallback(goOn)          # wherever it was before
    store.put(name, peer, {"received": 7})
    store.append(name, True, 6, 1, frames, cause)
    store.send(cause, key, data, tell)                 # to whoever has that key
    store.commit().addCallback(acknowledge)
    store.close()

As with a L{Spool<aesm.store.spool.Spool>}, whatever gathers while one batch is being
written makes up the next, and one that cannot be written is tried again until it can.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.cluster.batch import Call, Effect, Gathered, Part
from aesm.cluster.doorbell import Doorbell
from aesm.cluster.image import Image
from aesm.cluster.lease import Lease
from aesm.cluster.repair import Found, repair
from aesm.cluster.scripts import BEGIN, CLAIM, COMMIT, INLET, LOG, PAGE
from aesm.errors import SpoolError
from aesm.store.interface import Blob, ISessionStore, Stored

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from aesm.cluster.engine import Engine

__all__ = ["EngineStore", "Entry", "LogPage"]

RETRY = 1.0  # seconds until a batch that could not be written is tried again
MAX_INLET = 1 << 20  # bytes that wait to be taken over into one session
MAX_LOG = 16 << 20  # bytes of what was told all
PAGE_SIZE = 512 << 10  # bytes that are read at a time

_log = Logger(namespace="aesm.cluster")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Entry(NamedTuple):
    """
    What another session, or node, has left to be read.

    @ivar position: in the order in which it is read.
    @ivar name: no other entry has it, whatever becomes of the engine.
    @ivar data: what was sent.
    """

    position: int
    name: bytes
    data: bytes


class LogPage(NamedTuple):
    """
    A part of what was told all.

    @ivar first: the first position that is still there.
    @ivar last: the last one.
    @ivar entries: from where was asked on, as many as fit; None if some are missing.
    """

    first: int
    last: int
    entries: list[Entry] | None


def _nobody(*arguments: object) -> None:
    """Nobody is to be told."""


# One call is under way at a time, and only L{_send} begins it:
#
#     commit --> _wake --> _send --> _cbSent --> _send, while there are more
#                 ^          ^           |
#                 |          |           +-----> _finish, if closing
#          engine.up         +-- RETRY -- _ebSent
#
# Until a call has its reply it stays at the head of _calls, and is sent again as it is,
# with the same number: the engine may have had it.  All that gathers meanwhile waits in
# _next, and goes as soon as it can: so what belongs together has to be said, and
# committed, without anything else in between.


@implementer(ISessionStore)
class EngineStore:
    """
    Sessions and their messages in an engine.

    @ivar lost: called with sessions that are not ours by now, and whether there still
        are such sessions, at another node; and with what others were to be sent and are
        not, since such sessions had caused it: the numbers of what is behind it move
        up.  Both are by the names of sessions.
    @ivar came: called with a session of ours, and what was sent to it; or None: there
        may be something in its inlet.
    @ivar told: called with what was told all; or None: there may be more in the log.
    @ivar lease: says that this node is alive.  When it had lapsed, it has to be said of
        all clients that are here that they are: C{enter}.
    """

    def __init__(self, engine: Engine, clock: IReactorTime, grace: float) -> None:
        """
        @param engine: not started.
        @param clock: for trying again.
        @param grace: seconds that clients have to come back.
        """
        self.lost: Callable[[dict[str, bool], dict[str, list[Part]]], object] = _nobody
        self.came: Callable[[str, Entry | None], object] = _nobody
        self.told: Callable[[Entry | None], object] = _nobody
        self._engine = engine
        self._clock = clock
        self._grace = round(grace * 1000)
        self._failure: SpoolError | None = None
        self._ours: dict[str, Image] = {}  # sessions, as the engine has them
        self._number = 0  # of the last call that the engine has
        self._told = 0  # of the last one in which anything went to others
        self._history = ""  # of the engine, when it was seen that it has all
        self._isLooking = True  # whether it has, or has to, before anything is written
        self._ready: Deferred[None] | None = None
        self._calls: deque[Call] = deque()
        self._waiters: list[Deferred[None]] = []  # for the last of these
        self._next = Gathered()
        self._isSending = False
        self._retry: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None
        self.lease = Lease(engine, self._grace)
        engine.up, engine.down = self._up, self._down
        self._doorbell = Doorbell(engine)
        self._doorbell.rung, self._doorbell.missed = self._rung, self._missed

    @property
    def failure(self) -> SpoolError | None:
        """
        Why nothing can be written at the moment.

        @see: L{ISessionStore}
        """
        failure = self._engine.failure or self._failure
        if failure is None and self._isLooking:
            failure = SpoolError("it is seen what the engine has: try again soon")
        return failure

    def start(self) -> Deferred[None]:
        """
        Join the cluster.

        @return: as L{Engine.start}.
        """
        ready = self._ready = Deferred(lambda ready: self._engine.stop())
        return self._engine.start().addCallback(lambda nothing: ready)

    # ISessionStore

    def load(self) -> list[Stored]:
        """
        Read nothing: a session comes with its client, by C{claim}.

        @see: L{ISessionStore.load}
        """
        return []

    def damaged(self, reason: str) -> SpoolError:
        """
        Make the error for a session that makes no sense.

        @see: L{ISessionStore.damaged}
        """
        return SpoolError(
            f"what the engine has of a session is damaged ({reason}): it is left "
            "alone, and its client begins another one"
        )

    def begin(self, name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """
        Store a session of which its peer does not know yet.

        @see: L{ISessionStore.begin}
        """
        if self._closed is not None:
            return fail(self._closedError())
        if self._isLooking:
            return fail(SpoolError(str(self.failure)))
        if name in self._ours:
            return fail(_taken(name))
        encoded = _encode(state)
        begun = self._engine.call(
            BEGIN, self._engine.node, name, peer, encoded, self._grace
        )
        # From now on, for who cancels this and drops it.
        self._ours[name] = Image(peer, encoded.encode(), 1)
        begun.addCallbacks(
            self._cbBegun, self._ebBegun, callbackArgs=(name,), errbackArgs=(name,)
        )
        return begun

    def _cbBegun(self, begun: int, name: str) -> None:
        """
        A session is stored.

        @raise SpoolError: there is one of that name.
        """
        if not begun:
            self._ours.pop(name, None)
            raise _taken(name)

    def _ebBegun(self, failure: Failure, name: str) -> Failure:
        """Nobody knows whether it is: if so, it goes when nobody has come in time."""
        if failure.check(SpoolError):
            self._ours.pop(name, None)
        return failure

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """
        Take a session over, since its client has come here.

        @param peer: the key that the client has proved.
        @return: fires with what is kept of it, or None if there is none of that key;
            fails with L{SpoolError}, and then it is nobody's until its client comes
            again.
        """
        if self._isLooking:
            return fail(SpoolError(str(self.failure)))
        return Deferred.fromCoroutine(self._claim(name, peer))

    async def _claim(self, name: str, peer: str) -> Stored | None:
        """Take a session over, page by page."""
        call, node = self._engine.call, self._engine.node
        found = await call(CLAIM, node, name, peer, self._grace, PAGE_SIZE)
        if found is None:
            return None
        fence, state, page = found
        stored = Stored(name, peer, _decoded(state), [], [], [])
        kinds = stored.incoming, stored.outgoing, stored.requests
        while page is not None:
            *parts, behind = page
            for kept, more in zip(kinds, parts, strict=True):
                kept.extend(map(_blob, more))
            if not behind:
                read = [[Part(*blob) for blob in kept] for kept in kinds]
                self._ours[name] = Image(peer, state, fence, read)
                return stored
            page = await call(PAGE, name, fence, *behind, PAGE_SIZE)
        return None  # another node was faster

    def put(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """
        Replace the state of a session that was begun or claimed.

        @see: L{ISessionStore.put}
        """
        encoded = _encode(state).encode()
        if name in self._ours:
            self._next.of(name).state = encoded

    def append(
        self,
        name: str,
        outgoing: bool,
        number: int,
        count: int,
        frames: bytes,
        cause: str = "",
    ) -> None:
        """
        Add messages to a session.

        @param cause: the session whose message made us send them, or empty.
        @see: L{ISessionStore.append}
        """
        if name in self._ours:
            part = Part(number, count, frames, cause)
            self._next.of(name).parts[outgoing].append(part)

    def discard(self, name: str, outgoing: bool, before: int) -> None:
        """
        Remove messages of a session.

        @see: L{ISessionStore.discard}
        """
        if name in self._ours:
            highest = self._next.of(name).before
            highest[outgoing] = max(highest[outgoing], before)

    def addRequest(self, name: str, number: int, frame: bytes) -> None:
        """
        Add an open request to a session.

        @see: L{ISessionStore.addRequest}
        """
        if name in self._ours:
            self._next.of(name).requests[number] = Part(number, 1, frame)

    def removeRequest(self, name: str, number: int) -> None:
        """
        Remove a request from a session.

        @see: L{ISessionStore.removeRequest}
        """
        if name in self._ours:
            self._next.of(name).removeRequest(number)

    def drop(self, name: str) -> None:
        """
        Remove a session with all its messages.

        @see: L{ISessionStore.drop}
        """
        if name in self._ours:
            self._next.of(name).dropped = True

    def commit(self) -> Deferred[None]:
        """
        Write the changes so far.

        @see: L{ISessionStore.commit}
        """
        if self._closed is not None:
            return fail(self._closedError())
        waiter: Deferred[None] = Deferred()
        self._next.waiters.append(waiter)
        self._wake()
        return waiter

    def close(self) -> Deferred[None]:
        """
        Write the changes so far, and leave the cluster: what is ours waits there.

        @see: L{ISessionStore.close}
        """
        if self._closed is not None:
            raise RuntimeError("the engine is closed already")
        closed = self._closed = Deferred()
        if self._engine.failure is not None and not self._isSending:
            self._finish(self._engine.failure)
        elif self._retry is not None and self._retry.active():
            self._retry.reset(0)  # the last try need not wait
        else:
            self._wake()
        return closed

    def _closedError(self) -> SpoolError:
        """Make the error for who writes too late."""
        return SpoolError("the engine is closed: nothing more is written")

    # What a cluster has beside

    def enter(self, name: str) -> None:
        """A session's client is here: do not give it up."""
        self._place(name, "enter")

    def wait(self, name: str) -> None:
        """A session's client is away: it has the grace to come back, to any node."""
        self._place(name, "wait")

    def release(self, name: str) -> None:
        """Leave a session to whichever node its client comes to next."""
        self._place(name, "release")

    def _place(self, name: str, place: str) -> None:
        """Say where a session's client is."""
        if name in self._ours:
            self._next.of(name).place = place

    def send(
        self, cause: str, peer: str, data: bytes, tell: Callable[[int, int], object]
    ) -> None:
        """
        Send something to all sessions of a key, wherever they are.

        @param cause: the session whose message made us do it, or empty.
        @param peer: the public key, in text form.
        @param tell: called once it is written, with how many sessions have it and how
            many have no room for it.
        """
        self._next.effects.append(Effect("send", cause, (peer, data), tell))

    def log(self, cause: str, data: bytes, tell: Callable[[int, int], object]) -> None:
        """
        Tell something to all nodes.

        @param cause: as C{send}.
        @param tell: called once it is written, with its position, and 0.
        """
        self._next.effects.append(Effect("log", cause, (data,), tell))

    def took(self, name: str, entry: Entry) -> None:
        """What was sent to a session of ours is in its outbox now."""
        if name in self._ours:
            self._next.of(name).taken.append((entry.position, entry.name))
            self._ours[name].take(entry.position, entry.name)

    def readInlet(self, name: str, after: int = 0) -> Deferred[list[Entry]]:
        """
        Read what others sent to a session.

        @param after: the position up to which it was read; once more from 0 on when
            there I{may} be something, since positions are given again by an engine
            that went back in time.
        @return: fires with as much as fits a page, but what was taken; fails with
            L{SpoolError}.
        """
        found = self._engine.call(INLET, name, after, PAGE_SIZE)
        return found.addCallback(self._cbRead, name)

    def _cbRead(self, found: list[bytes], name: str) -> list[Entry]:
        """Leave out what was taken, as the engine may not know yet."""
        image = self._ours.get(name)
        taken = {} if image is None else image.taken
        return [entry for entry in _entries(found) if entry.name not in taken]

    def readLog(self, after: int, name: bytes = b"") -> Deferred[LogPage | None]:
        """
        Read what all were told.

        @param after: the position up to which it was read.
        @param name: the name of the entry there; empty if none was read.
        @return: fires with a page; or with None if what was read is not in the engine:
            it went back in time; fails with L{SpoolError}.
        """
        found = self._engine.call(LOG, after, name, PAGE_SIZE)
        return found.addCallback(_logPage)

    # Writing

    def _wake(self) -> None:
        """Begin to write, unless something is being written, or nothing can be."""
        if self._isSending or self._retry is not None or self._engine.failure:
            return
        if self._isLooking:
            return
        if not self._calls:
            gathered, self._next = self._next, Gathered()
            self._calls = gathered.calls(self._ours)
            self._waiters = gathered.waiters
        self._send()

    def _send(self) -> None:
        """Have the engine do the next call, or tell those who wait for the last."""
        self._retry = None
        if not self._calls:
            self._written()
            return
        self._isSending = True
        said = self._calls[0].arguments(self._grace, MAX_INLET, MAX_LOG)
        sent = self._engine.call(COMMIT, self._engine.node, self._number + 1, *said)
        sent.addCallbacks(self._cbSent, self._ebSent)
        sent.addErrback(lambda failure: _log.failure("a bug", failure))

    def _written(self) -> None:
        """All of a batch is in the engine: tell who waits for it, and go on."""
        waiters, self._waiters = self._waiters, []
        self._isSending = True  # so that whatever all of them commit now is one batch
        for waiter in waiters:
            waiter.callback(None)
        self._isSending = False
        gathered = self._next
        if gathered.waiters or (
            self._closed is not None and (gathered.changes or gathered.effects)
        ):
            self._wake()
        elif self._closed is not None:
            self._finish(None)

    def _cbSent(self, reply: Any) -> None:
        """The engine has done a call."""
        self._isSending = False
        if isinstance(reply, int):  # it lacks what it had
            self._look()
            return
        self._works()
        self._number += 1
        call = self._calls.popleft()
        lost, results = reply
        names = list(call.changes)
        for name, changes in call.changes.items():
            if changes.dropped or changes.place == "release":
                self._ours.pop(name, None)
        if lost:
            self._lose(call, {names[i - 1]: bool(kept) for i, kept in lost})
        for name, changes in call.changes.items():
            image = self._ours.get(name)
            if image is not None and image.fence == call.fences[name]:
                image.apply(changes, self._number)
        if call.effects:
            self._told = self._number
        for at, effect in enumerate(call.effects):
            sent, more = results[2 * at : 2 * at + 2]
            if sent >= 0:
                effect.tell(sent, more)
        self._send()

    def _lose(self, call: Call, lost: dict[str, bool]) -> None:
        """Sessions are not ours: forget them, and what they caused."""
        # Not those of which the doorbell said so before, some of which came back.
        new = {
            name: kept
            for name, kept in lost.items()
            if name in self._ours and self._ours[name].fence == call.fences[name]
        }
        for name in new:
            del self._ours[name]
        undone = {
            name: left
            for name, changes in call.changes.items()
            if name not in lost and (left := changes.without(lost))
        }
        self._next.without(new, undone)
        if new or undone:
            self.lost(new, undone)

    def _works(self) -> None:
        """The engine has done something for us."""
        if self._failure is not None:
            self._failure = None
            _log.info("the engine takes it again")

    def _ebSent(self, failure: Failure) -> None:
        """Nobody knows whether the engine has done a call: say it again later."""
        self._isSending = False
        self._tryAgain(failure, self._send)

    def _tryAgain(self, failure: Failure, again: Callable[[], None]) -> None:
        """Do something again, unless it is the connection that failed, or the end."""
        reason = cast("SpoolError", failure.value)
        if self._failure is None:
            _log.error("{reason}; nothing more is accepted", reason=str(reason))
        self._failure = reason
        if self._closed is not None:
            self._finish(reason)
        elif self._engine.failure is None:
            self._retry = self._clock.callLater(RETRY, again)

    def _up(self, isLost: bool) -> None:
        """The engine can be used."""
        if isLost:
            self._forgetAll()
        self.lease.start()
        self._doorbell.start()
        if self._isLooking or self._engine.history != self._history:
            self._look()
        elif self._retry is None:
            self._wake()

    # Repairs

    def _look(self) -> None:
        """See whether the engine lacks anything, before anything else is written."""
        self._retry = None
        self._isLooking = True
        looked = Deferred.fromCoroutine(
            repair(self._engine, self._ours, self._number, self._grace)
        )
        looked.addCallbacks(
            self._cbLooked, self._ebLooked, callbackArgs=(self._engine.history,)
        )
        looked.addErrback(lambda failure: _log.failure("a bug", failure))

    def _cbLooked(self, found: Found, history: str) -> None:
        """It has everything."""
        self._isLooking, self._history = False, history
        self._works()
        if found.last < self._number or found.restored:
            _log.warn(
                "the engine lacked the last {count} batches of this node: {restored} "
                "sessions are written again",
                count=self._number - max(found.last, 0),
                restored=found.restored,
            )
        if found.last < self._told:
            _log.error(
                "what was sent to other sessions and all nodes in the last {count} "
                "batches may be lost",
                count=self._told - max(found.last, 0),
            )
        if found.forked:
            _log.error(
                "{count} sessions went on at other nodes without what was written here "
                "last",
                count=len(found.forked),
            )
        self._told = 0
        self._leave({name: True for name in found.moved if name in self._ours})
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback(None)
        else:
            self._missed()
        self._wake()

    def _ebLooked(self, failure: Failure) -> None:
        """It is begun again, at once or with the next connection."""
        failure.trap(SpoolError)
        self._tryAgain(failure, self._look)

    def _down(self) -> None:
        """The engine cannot be used."""
        retry, self._retry = self._retry, None
        if retry is not None:
            retry.cancel()

    def _forgetAll(self) -> None:
        """The engine has lost its data: no session is left."""
        waiters = self._waiters + self._next.waiters
        lost, self._ours = self._ours, {}
        self._calls.clear()
        self._isLooking = True
        self._waiters, self._next, self._number, self._told = [], Gathered(), 0, 0
        self.lost(dict.fromkeys(lost, False), {})
        for waiter in waiters:
            waiter.errback(SpoolError("the engine has lost its data"))

    def _finish(self, error: SpoolError | None) -> None:
        """
        Leave the cluster, then tell those who wait.

        @param error: why not all was written, or None.
        """
        self._down()
        stopped = self._doorbell.stop()
        left = self.lease.leave()
        left.addBoth(lambda result: self._engine.stop())
        left.addCallback(lambda nothing: stopped)
        left.addCallback(self._cbLeft, error)
        left.chainDeferred(cast("Deferred[None]", self._closed))

    def _cbLeft(self, result: object, error: SpoolError | None) -> Failure | None:
        """
        Tell those who wait for what was not written.

        @return: what L{close} fires with.
        """
        if error is None:
            return None
        for waiter in self._waiters + self._next.waiters:
            waiter.errback(error)
        return Failure(error)

    # The doorbell

    def _rung(self, isOurs: bool, words: bytes) -> None:
        """A script has told us of something."""
        if not isOurs:
            position, member = words.split(b" ", 1)
            self.told(_entry(position, member))
            return
        what, session, *more = words.split(b" ", 3)
        name = session.decode()
        if name not in self._ours:
            return
        if what == b"inlet":
            entry = _entry(*more)
            if entry.name not in self._ours[name].taken:
                self.came(name, entry)
        elif what == b"gone" or self._ours[name].fence < int(more[0]):
            self._leave({name: what != b"gone"})

    def _leave(self, lost: dict[str, bool]) -> None:
        """Sessions are not ours: forget them, and what they caused and nobody said."""
        for name in lost:
            del self._ours[name]
        # What is under way is left out by the engine, which says so.
        undone: dict[str, list[Part]] = {}
        self._next.without(lost, undone)
        if lost:
            self.lost(lost, undone)

    def _missed(self) -> None:
        """Anything may have happened; of what moved, commits will tell."""
        for name in list(self._ours):
            self.came(name, None)
        self.told(None)


def _taken(name: str) -> SpoolError:
    """Make the error for a session that cannot begin, since there is one."""
    return SpoolError(f"there is a session {name} already")


def _decoded(state: bytes) -> dict[str, Any]:
    """Read a state."""
    return cast("dict[str, Any]", json.loads(state))


def _blob(member: bytes) -> Blob:
    """Read messages that are kept together."""
    number, messages, frames = member.split(b" ", 2)
    return Blob(int(number), int(messages), frames)


def _entries(found: list[bytes]) -> list[Entry]:
    """Read what others left."""
    return list(map(_entry, found[::2], found[1::2]))


def _entry(position: bytes, member: bytes) -> Entry:
    """Read what others left."""
    return Entry(int(position), *member.split(b" ", 1))


def _logPage(found: list[Any] | None) -> LogPage | None:
    """Read a part of the log."""
    if found is None:
        return None
    first, last, *more = found
    return LogPage(first, last, _entries(more[0]) if more else None)
