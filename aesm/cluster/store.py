"""
Sessions in an engine that other nodes reach, too::

    store = EngineStore(engine, clock, grace=60.0)
    store.open(forget).addCallback(listen)             # who is another node's by now
    store.begin(name, peer, state).addCallback(welcome)
    store.claim(name, peer).addCallback(goOn)          # wherever it was before
    store.put(name, peer, {"received": 7})
    store.append(name, True, 6, 1, frames, cause)
    store.send(cause, key, data, tell)                 # to whoever has that key
    store.commit().addCallback(acknowledge)
    store.close()

As with a L{Spool<aesm.store.spool.Spool>}, what cannot be written is tried again until
it can: that is L{aesm.cluster.writer}'s.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.cluster import scripts
from aesm.cluster.batch import Effect, Part
from aesm.cluster.doorbell import Doorbell
from aesm.cluster.engine import Engine
from aesm.cluster.image import Image
from aesm.cluster.lease import Lease
from aesm.cluster.log import EngineLog
from aesm.cluster.members import Members
from aesm.cluster.sealing import Clear
from aesm.cluster.writer import Writer
from aesm.errors import SpoolError
from aesm.messages.deferred import ignore
from aesm.secure.refusals import Kind, Refused
from aesm.store.interface import (
    Early,
    Entry,
    ILogStore,
    LogPage,
    Lost,
    Snapshot,
    Stored,
    Work,
)

PAGE_SIZE = 512 << 10  # bytes that are read at a time
LOOK_SIZE = 256  # messages that are looked for at a time

_log = Logger(namespace="aesm.cluster")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


@implementer(ILogStore)
class EngineStore:
    """
    Sessions and their messages in an engine.

    @ivar lost: as L{ISessionStore.open} takes it.
    @ivar came: called with a session of ours, and what was sent to it; or None: there
        may be something in its inlet.
    @ivar ending: called with a session of ours that is to end here, since something of
        it is unread, and whether that is because a newer one of its key has come; else
        its client has not come back.
    @ivar wasRead: called with a session of ours, and the numbers of the first and the
        last of messages that came over it together and that some node has read.
    @ivar lapsed: called when the engine has given this node up: its clients are to be
        closed with 1001, so that they go on at nodes that reach it.
    """

    fences = True

    def __init__(
        self,
        engine: Engine,
        clock: IReactorTime,
        grace: float,
        sealer: Clear | None = None,
        perKey: int = 0,
    ) -> None:
        """
        @param engine: not started.
        @param clock: for trying again.
        @param grace: seconds that clients have to come back.
        @param perKey: how many sessions a key may have, in the cluster: those whose
            clients came last; 0 for any number; -1 for one whose client is there,
            others being refused meanwhile.
        @param sealer: seals what the engine keeps; None not to.
        """
        self.lost: Lost = ignore
        self.came: Callable[[str, Entry | None], object] = ignore
        self.told: Callable[[Entry | None], object] = ignore
        self.isKnown: Callable[[int], bool] = lambda position: False
        self.heard: Callable[[bytes], object] = ignore
        self.ending: Callable[[str, bool], object] = ignore
        self.wasRead: Callable[[str, int, int], object] = ignore
        self._engine = engine
        self._grace = round(grace * 1000)
        self._perKey = perKey
        self._isClosed = False
        self._ready: Deferred[list[Stored]] | None = None
        self._sealer = sealer or Clear()
        self._members = Members(self._sealer)
        self._writer = Writer(engine, clock, self._grace, self._sealer)
        self._writer.lost, self._writer.looked = self._lost, self._looked
        self.lapsed: Callable[[], object] = ignore
        self.lease = Lease(engine, self._grace)
        self.lease.lapsed = lambda: self.lapsed()
        self._log = EngineLog(engine, self._writer, self.lease, self._members)
        engine.up, engine.down = self._up, self._writer.down
        self._doorbell = Doorbell(engine)
        self._doorbell.rung, self._doorbell.missed = self._rung, self._missed

    @property
    def node(self) -> str:
        """What this node is called."""
        return self._engine.node

    @property
    def engine(self) -> Engine:
        """Where they are, for those who look on."""
        return self._engine

    @property
    def failure(self) -> SpoolError | None:
        """Why nothing can be written at the moment."""
        return self._writer.failure

    @property
    def size(self) -> int:
        """The bytes of all that is in the engine, as it said last."""
        return self._engine.size

    def describe(self) -> dict[str, Any]:
        """Say what operators are told of this node's part of the cluster."""
        failure = None if self.failure is None else str(self.failure)
        return {**self._engine.describe(), "bytes": self.size, "failure": failure}

    def open(
        self, lost: Lost | None = None, lapsed: Callable[[], object] | None = None
    ) -> Deferred[list[Stored]]:
        """
        Join the cluster.

        @param lost: None to leave the attribute.
        @param lapsed: the same.
        @return: fires, as L{Engine.start}, with no sessions: each comes with its
            client, by C{claim}.
        """
        self.lost, self.lapsed = lost or self.lost, lapsed or self.lapsed
        ready: Deferred[list[Stored]]
        ready = self._ready = Deferred(self._ebCancelled)
        return self._engine.start().addCallback(lambda nothing: ready)

    def _ebCancelled(self, ready: Deferred[list[Stored]]) -> None:
        """Who starts it does not want it any more."""
        self._engine.stop()

    # ISessionStore

    def damaged(self, reason: str) -> SpoolError:
        """Make the error for a session that makes no sense."""
        return SpoolError(
            f"what the engine has of a session is damaged ({reason}): it is left "
            "alone, and its client begins another one"
        )

    def begin(self, name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """Store a session of which its peer does not know yet."""
        if self._isClosed:
            return fail(self._writer.endedError())
        if self._writer.isLooking:
            return fail(SpoolError(str(self.failure)))
        if self._isOurs(name):
            return fail(_taken(name))
        encoded = _encode(state).encode()
        sealed = self._sealer.seal(encoded, name, "t")
        said = (self._engine.node, name, peer, sealed, self._grace)
        begun = self._come(scripts.BEGIN, peer, *said)
        # From now on, for who cancels this and drops it.
        self._writer.ours[name] = Image(peer, encoded, 1)
        begun.addCallbacks(
            self._cbBegun, self._ebBegun, callbackArgs=(name,), errbackArgs=(name,)
        )
        return begun

    def _come(self, script: scripts.Script, peer: str, *said: object) -> Deferred[Any]:
        """Run a script because a client has come, or fail with L{Refused}."""
        come = self._engine.call(script, *said, self._perKey)
        return come.addCallback(_letIn, peer)

    def _cbBegun(self, ended: list[bytes] | None, name: str) -> None:
        """A session is stored; C{SpoolError} if there was one of that name."""
        if ended is None:
            self._writer.ours.pop(name, None)
            raise _taken(name)
        self._ended(ended)

    def _ended(self, names: list[bytes]) -> None:
        """A newer session of their key has begun, or gone on, and they are over."""
        self._writer.leave(
            {name: None for name in map(bytes.decode, names) if self._isOurs(name)}
        )

    def _isOurs(self, name: str) -> bool:
        """Tell whether a session is ours, as far as we know."""
        return name in self._writer.ours

    def _ebBegun(self, failure: Failure, name: str) -> Failure:
        """If nobody knows whether it is, it goes when nobody has come in time."""
        if failure.check(SpoolError, Refused):
            self._writer.ours.pop(name, None)
        return failure

    def claim(self, name: str, peer: str) -> Deferred[Stored | None]:
        """
        Take a session over, since its client has come here.

        @return: as L{ISessionStore.claim}; if it fails the session is nobody's until
            its client comes again.
        """
        if self._writer.isLooking:
            return fail(SpoolError(str(self.failure)))
        return Deferred.fromCoroutine(self._claim(name, peer))

    async def _claim(self, name: str, peer: str) -> Stored | None:
        """Take a session over, page by page."""
        call, node = self._engine.call, self._engine.node
        ours = self._writer.ours.get(name)
        if ours is not None and (
            ours.peer != peer or await self._come(scripts.HOME, peer, name, ours.fence)
        ):
            return None
        said = (node, name, peer, self._grace, PAGE_SIZE)
        found = await self._come(scripts.CLAIM, peer, *said)
        if self._isOurs(name):
            self._writer.leave({name: found is not None})
        if found is None:
            return None
        ended, fence, state, page, taken = found
        self._ended(ended)
        state = self._sealer.open(state, name, "t")
        stored = Stored(name, peer, json.loads(state), [], [], [])
        kinds = stored.incoming, stored.outgoing, stored.requests
        while page is not None:
            *parts, behind = page
            try:
                for kept, kind, more in zip(kinds, "ior", parts, strict=True):
                    kept += [self._members.blob(member, name, kind) for member in more]
            except SpoolError as error:  # its state was sealed with our key
                reason = str(self.damaged(str(error)))
                _log.error("{reason}", reason=reason, name=name)
                return None
            if not behind:
                read = [[Part(*blob) for blob in kept] for kept in kinds]
                had = dict(zip(taken[::2], map(int, taken[1::2]), strict=True))
                self._writer.ours[name] = Image(peer, state, fence, read, had)
                return stored
            page = await call(scripts.PAGE, name, fence, *behind, PAGE_SIZE)
        raise SpoolError("another node has it by now: its client has to come again")

    def put(self, name: str, peer: str, state: dict[str, Any]) -> None:
        """Replace the state of a session that was begun or claimed."""
        encoded = _encode(state).encode()
        if (changes := self._writer.changes(name)) is not None:
            changes.state = encoded
            if state.get("over"):
                changes.place = "over"  # only what is unread is left of it

    def append(
        self,
        name: str,
        outgoing: bool,
        number: int,
        count: int,
        frames: bytes,
        cause: str = "",
    ) -> None:
        """Add messages to a session."""
        if (changes := self._writer.changes(name)) is not None:
            changes.parts[outgoing].append(Part(number, count, frames, cause))

    def discard(self, name: str, outgoing: bool, before: int) -> None:
        """Remove messages of a session."""
        changes = self._writer.changes(name)
        if changes is not None and changes.before[outgoing] < before:
            changes.before[outgoing] = before

    def addRequest(self, name: str, number: int, frame: bytes) -> None:
        """Add an open request to a session."""
        if (changes := self._writer.changes(name)) is not None:
            changes.requests[number] = Part(number, 1, frame)

    def removeRequest(self, name: str, number: int, cause: str = "") -> None:
        """Remove a request from a session."""
        if (changes := self._writer.changes(name)) is not None:
            changes.removed[number] = cause

    def drop(self, name: str) -> None:
        """Remove a session with all its messages."""
        if (changes := self._writer.changes(name)) is not None:
            changes.dropped = True
            self._log.ends(name)

    def attend(self, name: str, isThere: bool) -> None:
        """Say whether a session's client is there."""
        self._place(name, "enter" if isThere else "wait")

    def release(self, name: str) -> None:
        """Leave a session to whichever node its client comes to next."""
        self._place(name, "release")

    def _place(self, name: str, place: str) -> None:
        """Say where a session's client is, unless it is over."""
        changes = self._writer.changes(name)
        if changes is not None and changes.place != "over":
            changes.place = place

    def commit(self, early: Early | None = None) -> Deferred[None]:
        """Write the changes so far."""
        self._log.flush()
        return self._writer.commit(early)

    def close(self) -> Deferred[None]:
        """Write the changes so far, and leave the cluster: what is ours waits there."""
        if self._isClosed:
            raise RuntimeError("the engine is closed already")
        self._isClosed = True
        return Deferred.fromCoroutine(self._leave())

    # What a cluster has beside

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
        self._writer.next.effects.append(Effect("send", cause, (peer,), data, tell))

    def log(
        self, cause: str, data: bytes, tell: Callable[[int, bytes], object]
    ) -> None:
        """Tell something to all nodes."""
        self._log.write(cause, data, tell)

    def work(self) -> Deferred[list[Work]]:
        """
        Have something to read of what came, to any node, and nobody has read.

        @return: fires with as much as fits a page, which nobody else has, or with
            nothing; C{read} has to be told of each, or others have it once this node
            is gone.  Fails with L{SpoolError}.
        """
        found = self._engine.call(scripts.WORK, self._engine.node, PAGE_SIZE)
        return found.addCallback(self._members.work)

    def read(self, cause: str, work: Work, count: int) -> None:
        """
        Something was read: it goes, with all else that is committed, once all of it
        was.

        @param cause: as C{send}.
        @param count: how many of its messages.
        """
        first, messages, _ = work.blob
        where = (work.name, first, first + messages - 1, count)
        self._writer.next.effects.append(Effect("read", cause, where, None, ignore))

    def took(self, name: str, entry: Entry) -> None:
        """What was sent to a session of ours is in its outbox now."""
        if (changes := self._writer.changes(name)) is not None:
            changes.take(entry)
            self._writer.ours[name].take(entry.name)

    def readInlet(self, name: str, after: int = 0) -> Deferred[list[Entry]]:
        """
        Read what others sent to a session.

        @param after: the position up to which it was read; once more from 0 on when
            there I{may} be something, since positions are given again by an engine
            that went back in time.
        @return: fires with as much as fits a page, but what was taken; fails with
            L{SpoolError}.
        """
        found = self._engine.call(scripts.INLET, name, after, PAGE_SIZE)
        return found.addCallback(self._cbRead, name)

    def _cbRead(self, found: list[bytes], name: str) -> list[Entry]:
        """Leave out what was taken, as the engine may not know yet."""
        image = self._writer.ours.get(name)
        if image is None:
            return []
        entries = []
        for position, member in zip(found[::2], found[1::2], strict=True):
            try:
                entries.append(
                    self._members.entry(position, member, "send", image.peer)
                )
            except SpoolError as error:
                _log.error("{reason}: it is left alone", reason=str(error))
        return [entry for entry in entries if not image.has(entry.name)]

    def readLog(self, after: int, name: bytes = b"") -> Deferred[LogPage | None]:
        """Read what all were told."""
        return self._log.read(after, name, PAGE_SIZE)

    def readSnapshots(self) -> Deferred[list[Snapshot]]:
        """Read snapshots of a replica."""
        return self._log.readSnapshots()

    def writeSnapshot(self, newest: int, snapshot: Snapshot) -> Deferred[int]:
        """Store a snapshot of a replica."""
        return self._log.writeSnapshot(newest, snapshot)

    def say(self, node: str, words: bytes) -> Deferred[int]:
        """Ring a node's doorbell, or all."""
        return self._log.say(node, words)

    def sayEnds(self, endEntry: Callable[[str], bytes]) -> None:
        """Say of all sessions that are removed that they are over, from now on."""
        self._log.sayEnds(endEntry)

    # The engine

    def _up(self, isLost: bool) -> None:
        """The engine can be used."""
        self._writer.up(isLost)
        if isLost:
            self.lease.stop()  # nobody has given up what is not known any more
        self.lease.start()
        self._doorbell.start()

    def _looked(self) -> None:
        """It has all that it had: go on."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.callback([])
        else:
            self._missed()

    async def _leave(self) -> None:
        """Leave the cluster, once all is written, or cannot be."""
        try:
            await self._writer.end()
        finally:
            stopped = self._doorbell.stop()
            with suppress(SpoolError):
                await self.lease.leave()
            await self._engine.stop()
            await stopped

    def _lost(
        self, lost: dict[str, bool | None], undone: dict[str, list[Part]]
    ) -> None:
        """Say by their numbers which messages were left out."""
        numbers = {name: [part.number for part in undone[name]] for name in undone}
        self.lost(lost, numbers)

    # The doorbell

    def _rung(self, isOurs: bool, words: bytes) -> None:
        """A script has told us of something, or somebody else has."""
        try:
            self._hear(isOurs, words)
        except SpoolError as error:
            _log.error("{reason}: it is left alone", reason=str(error))

    def _hear(self, isOurs: bool, words: bytes) -> None:
        """Pass on what a script says; C{SpoolError} if somebody else sealed it."""
        if words.startswith(b"say "):
            self.heard(words[4:])
            return
        if not isOurs:
            self._log.heard(words, self.isKnown, self.told)
            return
        if words == b"drain":
            self.lease.look()
            return
        what, session, *more = words.split(b" ", 3)
        name = session.decode()
        if not self._isOurs(name):
            return
        if what == b"inlet":
            (position, member), image = more, self._writer.ours[name]
            entry = self._members.entry(position, member, "send", image.peer)
            if not image.has(entry.name):
                self.came(name, entry)
        elif what == b"read":
            self._read(name, *map(int, b" ".join(more).split()))
        elif what in (b"expired", b"newer"):
            self.ending(name, what == b"newer")
        elif what == b"moved":
            if self._writer.ours[name].fence < int(more[0]):
                self._writer.leave({name: True})
        else:
            self._writer.leave({name: None if what == b"replaced" else False})

    def _read(self, name: str, first: int, last: int) -> None:
        """Some node has read what came over a session of ours."""
        self._writer.ours[name].read(last)
        self.wasRead(name, first, last)

    def _missed(self) -> None:
        """Anything may have happened; of what moved, commits will tell."""
        for name in list(self._writer.ours):
            self.came(name, None)
        self.told(None)
        # What is under way may be read by others before we know that it is there.
        self.commit().addCallbacks(self._cbAllThere, lambda failure: None)

    def _cbAllThere(self, nothing: None) -> None:
        """See what others have read meanwhile."""
        call = self._engine.call
        for name, image in list(self._writer.ours.items()):
            unread = image.unread
            for at in range(0, len(unread), LOOK_SIZE):
                some = unread[at : at + LOOK_SIZE]
                seen = call(scripts.UNREAD, name, *(last for _, last in some))
                seen.addCallbacks(
                    self._cbUnread,
                    lambda failure: None,  # it is asked again with the next connection
                    callbackArgs=(name, some),
                )

    def _cbUnread(
        self, isThere: list[int], name: str, unread: list[tuple[int, int]]
    ) -> None:
        """What is not there any more was read."""
        for (first, last), there in zip(unread, isThere, strict=True):
            if not there and self._isOurs(name):
                self._read(name, first, last)


def _taken(name: str) -> SpoolError:
    """Make the error for a session that cannot begin, since there is one."""
    return SpoolError(f"there is a session {name} already")


def _letIn(reply: Any, peer: str) -> Any:
    """Take the reply to a client that has come; L{Refused} for another of its key."""
    if reply == 0:
        raise Refused(f"the key {peer} is connected already", Kind.CONNECTED)
    return reply
