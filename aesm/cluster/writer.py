"""
How what has happened at a node comes into the engine: one batch at a time, each until
the engine has it::

    writer = Writer(engine, clock, grace, sealer)
    writer.lost = forget                          # who is another node's by now
    writer.ours[name] = Image(peer, state, fence)
    writer.changes(name).state = state            # gathers
    writer.commit().addCallback(acknowledge)
    writer.end().addCallback(stop)

Whatever gathers while one batch is being written makes up the next, with what comes
in the turn of the event loop behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.cluster.again import Sent, again
from aesm.cluster.batch import Call, Changes, Gathered, Part
from aesm.cluster.engine import Engine, EngineFull
from aesm.cluster.repair import Found, repair
from aesm.cluster.scripts import COMMIT, LOOKED, SETTLE
from aesm.errors import SpoolError
from aesm.messages.deferred import cancelTimer, ignore

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from aesm.cluster.image import Image
    from aesm.cluster.sealing import Clear
    from aesm.store.interface import Early

RETRY = 1.0  # seconds until a batch that could not be written is tried again
REST = 2  # turns of the event loop that are over by the end of the next one
RESERVE = 1 << 20  # bytes that an engine is to hold for a node although it is full

_log = Logger(namespace="aesm.cluster")


# One call is under way at a time, and only L{_send} begins it:
#
#     commit --> _wake --> _send --> _cbSent --> _send, while there are more
#                 ^ ^        ^           |
#                 | |        |           +-----> ended, if ending
#                 | +--------|-- _rest <-+
#          engine.up         +-- RETRY -- _ebSent
#                 ^
#      _cbAllThere <-- again <-- _cbSettled
#                                     |
#                         _settle, again and again, until all nodes have looked
#                         ^
#                      _cbLooked <-- _look, with each engine that may lack something
#
# What has gathered meanwhile rests before it goes: where one commit finds another under
# way, much comes at once, and to tell all of a commit takes so long that more has come
# behind it.  It is read in one turn of the event loop, and is in the same batch: or the
# last few of each burst would be one of their own, in a record for each who is told,
# which each acknowledges.  A commit that finds none under way never waits.
#
# Until a call has its reply it stays at the head of _calls, and is sent again as it is,
# with the same number: the engine may have had it.  One that names a session that is
# not ours any more is not done at all: what that session caused is left out, and what
# is behind it numbered anew.  Then it is sent again, with the same number: it never was
# done as it was, and never can be, since fences only grow.  An engine that went back in
# time may have done it before that, and others have some of it: so what goes to them
# keeps its names, and comes to none of them twice.  Nor does what went before that, and
# is said again where an engine lacks it (L{aesm.cluster.again}).  All that gathers
# meanwhile waits in next, and goes as soon as it can: so what belongs together has to
# be said, and committed, without anything else in between.
#
# An engine that is full refuses what adds something, and that must not hold up what
# makes room.  So what was refused, and has not been done, is put back in front of what
# has gathered, and what goes ahead is taken out of all of it:
#
#   - what peers have acknowledged, and whether clients are there, which depends on
#     nothing else: those messages had left, so they were in the engine; nobody's
#     handler was asked; and of the state only that goes with it which says how far the
#     peer is, over what the engine has, so that the session is at any time as if just
#     the peer had been heard.  A session whose client has come back would be given up
#     if nobody said so;
#   - all of what was caused together, if it removes something: what was taken out of an
#     inlet goes into an outbox in the same step, an open request with its answer, what
#     was read with what was sent for it.  Or some of it would be lost with this node.
#     So the engine is told to take it all the same, if it is not more than what it
#     removes, and RESERVE, which is there again when an engine has taken something of
#     its own accord;
#   - what adds nothing.
#
# Groups that have nothing in common may be done in any order.  Those who wait for
# sessions of which all is done go on at once: then what is in the engine can be
# acknowledged.  The rest waits for room.  The number of a call that was refused can be
# another's, since it is not done late: the engine does nothing more of a former
# connection.


class Writer:
    """
    What writes to the engine.

    @ivar ours: the sessions that are ours, as the engine has them.
    @ivar next: what has gathered.
    @ivar lost: called with sessions that are not ours by now, and why, as
        L{Lost<aesm.store.interface.Lost>}; and with what others were to be sent and are
        not, since such sessions had caused it: the numbers of what is behind it move
        up.  Both are by the names of sessions.
    @ivar looked: called when it was seen that the engine has all that it had.
    @ivar isLooking: whether that is being seen, or has to be: nothing may be written.
    @ivar number: of the last call that the engine has.
    """

    def __init__(
        self, engine: Engine, clock: IReactorTime, grace: int, sealer: Clear
    ) -> None:
        """
        @param clock: for trying again.
        @param grace: milliseconds that clients have to come back.
        @param sealer: seals what the engine keeps.
        """
        self.ours: dict[str, Image] = {}
        self.next = Gathered()
        self.lost: Callable[[dict[str, bool | None], dict[str, list[Part]]], object] = (
            ignore
        )
        self.looked: Callable[[], object] = ignore
        self.isLooking = True
        self._engine = engine
        self._clock = clock
        self._grace = grace
        self._sealer = sealer
        engine.mark = sealer.mark
        self._failure: SpoolError | None = None
        self.number = 0
        self._named = 0  # effects that were said
        self._sent = Sent()
        self._missing: list[Call] = []  # of these, in the engine
        self._history = ""  # of the engine, when it had all, and what was under way
        self._calls: deque[Call] = deque()
        self._waiters: list[Deferred[None]] = []  # for the last of these
        self._isSending = False
        self._early: list[Early] = []
        self._isFull = False  # the engine, as far as we know
        self._isAhead = False  # these calls make room
        self._reserve = RESERVE
        self._pause: IDelayedCall | None = None  # until it goes on
        self._ended: Deferred[None] | None = None
        self._isOver = False

    @property
    def failure(self) -> SpoolError | None:
        """Why nothing can be written at the moment."""
        failure = self._engine.failure or self._failure
        if failure is None and self.isLooking:
            failure = SpoolError("it is seen what the engine has: try again soon")
        return failure

    def changes(self, name: str) -> Changes | None:
        """Find what has gathered of a session, to be added to, if it is ours."""
        if name not in self.ours:
            return None
        changes = self.next.changes.get(name)  # there is some, mostly
        return self.next.of(name) if changes is None else changes

    def commit(self, early: Early | None = None) -> Deferred[None]:
        """
        Write what has gathered.

        @param early: as L{ISessionStore.commit<aesm.store.interface.ISessionStore>}.
        @return: fires once the engine has it; fails with L{SpoolError} if that does not
            come to pass before the end.
        """
        if self._ended is not None:
            return fail(self.endedError())
        waiter: Deferred[None] = Deferred()
        self.next.waiters.append(waiter)
        if early is not None:
            self.next.early.append(early)
        self._wake()
        return waiter

    def end(self) -> Deferred[None]:
        """
        Write what has gathered, and nothing more.

        @return: fires when that is done; fails with L{SpoolError} if it cannot be done
            now, and so do the commits that wait.
        @raise RuntimeError: it was called before.
        """
        if self._ended is not None:
            raise RuntimeError("the engine is closed already")
        ended = self._ended = Deferred()
        if self._engine.failure is not None and not self._isSending:
            left = (self._calls, self._waiters, self.next.waiters, self.next.changes)
            self._end(self._engine.failure if any(left) else None)
        elif self._pause is not None and self._pause.active():
            self._pause.reset(0)  # the last try need not wait
        else:
            self._wake()
        return ended

    def endedError(self) -> SpoolError:
        """Make the error for who writes too late."""
        return SpoolError("the engine is closed: nothing more is written")

    def leave(self, lost: dict[str, bool | None]) -> None:
        """
        Sessions are not ours: forget them, and what they caused and nobody said.

        @param lost: with why.
        """
        for name in lost:
            del self.ours[name]
        # What is under way is refused by the engine, which says why.
        undone: dict[str, list[Part]] = {}
        self.next.without(lost, undone)
        if lost:
            self.lost(lost, undone)

    def _wake(self) -> None:
        """Begin to write, unless something is being written, or nothing can be."""
        isBusy = self._isSending or self.isLooking or self._pause is not None
        if isBusy or self._engine.failure is not None:
            return
        if not self._calls:
            gathered, self.next = self.next, Gathered()
            self._calls = gathered.calls(self.ours)
            self._waiters, self._early = gathered.waiters, gathered.early
        self._send()

    def _send(self) -> None:
        """Have the engine do the next call, or tell those who wait for the last."""
        self._pause = None
        if not self._calls:
            self._written()
            return
        self._isSending = True
        call, engine = self._calls[0], self._engine
        if call.named < 0:
            call.named, self._named = self._named, self._named + len(call.effects)
        adds = call.adds and not self._isAhead
        said = call.arguments(self._grace, self._sealer, adds)
        line = engine.line
        sent = engine.call(COMMIT, engine.node, line, self.number + 1, *said)
        sent.addCallbacks(self._cbSent, self._ebSent)
        sent.addErrback(lambda failure: _log.failure("a bug", failure))

    def _written(self) -> None:
        """All of a batch is in the engine: tell who waits for it, and go on."""
        if not self._isAhead:
            self._isFull = False
            self._works()
            if self._history != self._engine.history:
                self._sayLooked()
        self._isAhead = False
        waiters, self._waiters, self._early = self._waiters, [], []
        isBusy = bool(self.next.waiters)
        self._isSending = True  # so that whatever all of them commit now is one batch
        for waiter in waiters:
            waiter.callback(None)
        self._isSending = False
        gathered = self.next
        if gathered.waiters or (
            self._ended is not None and (gathered.changes or gathered.effects)
        ):
            self._rest(REST if isBusy else 0)
        elif self._ended is not None:
            self._end(None)

    def _cbSent(self, reply: Any) -> None:
        """The engine has done a call, or says why it cannot."""
        if isinstance(reply, int):  # it lacks what it had
            self._isSending = False
            self._look()
            return
        # It counts as being sent until then: who is told of what is lost commits.
        lost, results = reply
        call = self._calls[0]
        if call.adds and not (lost or self._isAhead):
            self._isFull, self._reserve = False, RESERVE
        self._works()
        if lost:
            names = list(call.changes)
            self._lose(call, {names[i - 1]: bool(kept) for i, kept in lost})
        else:
            del self._calls[0]
            self._done(call, results)
        self._send()

    def _done(self, call: Call, results: list[int]) -> None:
        """The engine has done a call: take note of what it has now."""
        self.number += 1
        for name, changes in call.changes.items():
            image = self.ours.get(name)
            if image is None or image.fence != call.fences[name]:
                continue
            if changes.dropped or changes.place == "release":
                del self.ours[name]
            else:
                image.apply(changes, self.number)
        self._sent.add(self.number, call)
        for effect, *both in zip(
            call.effects, results[::2], results[1::2], strict=True
        ):
            effect.tell(*both)
        if call.isWhole and (self._calls or self._isAhead):
            for early in self._early:
                early(call.changes)

    def _lose(self, call: Call, lost: dict[str, bool]) -> None:
        """Sessions are not ours: forget them, and what they caused."""
        # Not those of which the doorbell said so before, some of which came back.
        new: dict[str, bool | None] = {
            name: kept
            for name, kept in lost.items()
            if name in self.ours and self.ours[name].fence == call.fences[name]
        }
        for name in new:
            del self.ours[name]
        if call.isDoubtful and (left := call.causedBy(lost)):
            _log.error(
                "{count} messages may be lost that were being sent for sessions which "
                "went on at other nodes, when the engine went back in time",
                count=left,
            )
        undone = call.without(lost)
        self.next.without(new, undone)
        if new or undone:
            self.lost(new, undone)

    def _works(self) -> None:
        """The engine has done something for us: it works, unless it has no room."""
        if self._failure is not None and not self._isFull:
            self._failure = None
            _log.info("the engine takes it again")

    def _ebSent(self, failure: Failure) -> None:
        """Nobody knows whether the engine has done a call, or it has no room."""
        if failure.check(EngineFull) and self._makeRoom():
            self._fails(failure)
            self._send()
        else:
            self._isSending = False
            self._tryAgain(failure, self._goOn)

    def _rest(self, turns: int) -> None:
        """Go on, so many turns of the event loop later."""
        if turns:
            self._pause = self._clock.callLater(0, self._rest, turns - 1)
        else:
            self._goOn()

    def _goOn(self) -> None:
        """Write what has gathered, or was to be written before."""
        self._pause = None
        self._wake()

    def _makeRoom(self) -> bool:
        """The engine has no room: tell whether anything can be done all the same."""
        self._isFull = self._isAhead = True
        while self._calls:
            call = self._calls.pop()
            stale = [
                name
                for name, fence in call.fences.items()
                if name not in self.ours or self.ours[name].fence != fence
            ]
            undone = call.without(stale)
            self.next.without((), undone)
            self.next.putBack(call)
            if undone:
                self.lost({}, undone)
        self.next.waiters[:0] = self._waiters
        self.next.early[:0] = self._early
        self._calls, self._reserve = self.next.ahead(self.ours, self._reserve)
        self._waiters, self._early = [], self.next.early[:]
        self._isAhead = bool(self._calls)
        return self._isAhead

    def _fails(self, failure: Failure) -> SpoolError:
        """Accept nothing more, and say why."""
        reason = cast("SpoolError", failure.value)
        if self._failure is None:
            _log.error("{reason}; nothing more is accepted", reason=str(reason))
        self._failure = reason
        return reason

    def _tryAgain(self, failure: Failure, again: Callable[[], None]) -> None:
        """Do something again, unless it is the connection that failed, or the end."""
        reason = self._fails(failure)
        if self._ended is not None:
            self._end(reason)
        elif self._engine.failure is None:
            self._pause = self._clock.callLater(RETRY, again)

    def _end(self, error: SpoolError | None) -> None:
        """Do nothing more, and tell who waits why not all was written, if so."""
        if self._isOver:
            return
        self._isOver = True
        self.down()
        ended = cast("Deferred[None]", self._ended)
        if error is None:
            ended.callback(None)
            return
        for waiter in self._waiters + self.next.waiters:
            waiter.errback(error)
        ended.errback(error)

    # The engine

    def up(self, isLost: bool) -> None:
        """
        The engine can be used.

        @param isLost: whether it has lost its data, so that no session is left.
        """
        if self._isOver:
            return
        if isLost:
            self._forgetAll()
        if self.isLooking or self._engine.history != self._history:
            self._look()
        elif self._pause is None:
            self._wake()

    def down(self) -> None:
        """The engine cannot be used."""
        cancelTimer(self._pause)
        self._pause = None

    def _forgetAll(self) -> None:
        """Begin again, with no sessions."""
        waiters = self._waiters + self.next.waiters
        lost, self.ours = self.ours, {}
        self._calls.clear()
        self._early, self._reserve = [], RESERVE
        self.isLooking, self._isFull, self._isAhead = True, False, False
        self._waiters, self.next, self.number, self._sent = [], Gathered(), 0, Sent()
        self.lost(dict.fromkeys(lost, False), {})
        for waiter in waiters:
            waiter.errback(SpoolError("the engine has lost its data"))

    def _look(self) -> None:
        """See whether the engine lacks anything, before anything else is written."""
        self._pause = None
        self.isLooking = True
        known = (self.ours, self._grace, self._sealer)
        looked = Deferred.fromCoroutine(repair(self._engine, *known))
        looked.addCallbacks(self._cbLooked, self._ebLooked)
        looked.addErrback(lambda failure: _log.failure("a bug", failure))

    def _cbLooked(self, found: Found) -> None:
        """It has everything of this node again."""
        due = self.number + 1
        found.tell(self.number)
        self._missing = self._sent.missing(found.last, due)
        if self._calls and found.last < due:
            self._calls[0].isDoubtful = True
        self.leave({name: True for name in found.moved if name in self.ours})
        self._settle()

    def _settle(self) -> None:
        """Go on once all other nodes have looked as well."""
        self._pause = None
        engine = self._engine
        said = (engine.process, self.number, engine.history, self._grace)
        settled = engine.call(SETTLE, engine.node, *said)
        settled.addCallbacks(self._cbSettled, self._ebLooked)
        settled.addErrback(lambda failure: _log.failure("a bug", failure))

    def _cbSettled(self, areAll: int) -> None:
        """All have, or are waited for."""
        if not areAll:
            if self._ended is not None:
                self._end(self.failure)
            else:
                self._pause = self._clock.callLater(RETRY, self._settle)
            return
        known = (self._missing, self.ours, self._grace, self._sealer)
        said = Deferred.fromCoroutine(again(self._engine, *known))
        said.addCallbacks(self._cbAllThere, self._ebLooked)
        said.addErrback(lambda failure: _log.failure("a bug", failure))

    def _cbAllThere(self, nothing: None) -> None:
        """The engine has all that it had."""
        self.isLooking, self._missing = False, []
        self._works()
        if self._calls:
            self.looked()
            self._wake()
        else:
            self._sayLooked().addCallback(self._cbAllSaid)

    def _cbAllSaid(self, nothing: None) -> None:
        """Nothing was under way."""
        self.looked()
        self._wake()

    def _sayLooked(self) -> Deferred[None]:
        """What was under way is done: fires when that is said, or was not heard."""
        said = (self._engine.node, self._engine.history)
        done: Deferred[None] = self._engine.call(LOOKED, *said)
        done.addCallbacks(self._cbSaid, lambda failure: None, callbackArgs=said[1:])
        return done

    def _cbSaid(self, nothing: None, history: str) -> None:
        """Nothing is to be looked for, until there is another history."""
        self._history = history

    def _ebLooked(self, failure: Failure) -> None:
        """It is begun again, soon or with the next connection."""
        failure.trap(SpoolError)
        self._tryAgain(failure, self._look)
