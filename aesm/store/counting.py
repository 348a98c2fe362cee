"""
How many clients have something that all were told, at all processes::

    counting = Counting(store, clock, patience, has)
    count = LogCount(counting, cause, entry, written)     # asks once somebody looks
    journal.add(count.write).addBoth(count.settle)
    counting.heard(words)                         # of this process, or others
    counting.stop()

Who asks says so to all processes that listen, and each answers once its own clients
have it, are away or gone; or soon, with how many have it by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, cast

from twisted.internet.defer import Deferred

from aesm.errors import SpoolError
from aesm.messages.acknowledgements import AckCount, LazyDeferred
from aesm.messages.deferred import cancelTimer, ignore
from aesm.store.undoing import elsewhere, hasLeft

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from aesm.messages.connection import Connection
    from aesm.store.interface import ILogStore, ISessionStore

SOON = 0.75  # of the patience, until a process says how many have it by then


class LogCount(LazyDeferred[int]):
    """Fires with the number of clients that have an entry, at all processes."""

    def __init__(
        self,
        counting: Counting,
        cause: Connection | None,
        entry: bytes,
        written: Callable[[int, bytes], object],
    ) -> None:
        """
        @param cause: whose message makes us write it.
        @param entry: what is to be written.
        @param written: called when it is, with its position and its name.
        """
        self.position = 0  # none yet
        self._counting = counting
        self._cause = cause
        self._entry = entry
        self._tell = written
        self._reason: BaseException | None = None

    def write(self, store: ISessionStore) -> None:
        """Give the entry to the store, unless its cause is elsewhere by now."""
        if not hasLeft(self._cause):
            name = "" if self._cause is None else self._cause.session.name
            cast("ILogStore", store).log(name, self._entry, self._written)

    def _written(self, position: int, name: bytes) -> None:
        """Note that it is in the log."""
        self.position = position
        self._tell(position, name)

    def settle(self, failure: Failure | None) -> None:
        """
        All of its turn is written: ask, if anybody wants to know.

        @param failure: why it is not.
        """
        self._entry = b""
        if failure is not None:
            self.fail(failure.value)
        elif not self.position:
            self.fail(elsewhere())
        elif self._looked and not self._called:
            self.begin()

    def begin(self) -> None:
        """Somebody wants to know: ask, as soon as it is written."""
        if self._reason is not None:
            self.errback(self._reason)
        elif self.position:
            self._counting.ask(self)

    def fail(self, reason: BaseException | None) -> None:
        """Nobody can say who has it: tell who looks."""
        self._reason = reason
        if self._looked and not self._called:
            self.errback(reason)


class _Question:
    """Who has an entry: what was asked of all processes, and what they have said."""

    def __init__(self, count: LogCount, deadline: IDelayedCall) -> None:
        """@param deadline: when no answer is waited for any more."""
        self.count = count
        self.deadline = deadline
        self.asked: int | None = None  # how many, once that is known
        self.having = self.answers = 0


class Counting:
    """Asks, and answers."""

    def __init__(
        self,
        store: ILogStore,
        clock: IReactorTime,
        patience: float,
        has: Callable[[int], Deferred[list[Deferred[None]]]],
    ) -> None:
        """
        @param store: says it to others.
        @param clock: keeps time.
        @param patience: seconds until who does not say that it has an entry counts as
            one that does not.
        @param has: finds out, for an entry's position, who of our clients have it: each
            fires once one does, and fails if it is away or gone.
        """
        self._store = store
        self._clock = clock
        self._patience = patience
        self._has = has
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._answering: dict[AckCount, IDelayedCall] = {}
        self._isStopped = False

    def stop(self) -> None:
        """Ask and answer no more."""
        self._isStopped = True
        answering, self._answering = self._answering, {}
        for call in answering.values():
            call.cancel()
        for number in list(self._questions):
            self._end(number).count.fail(_stopped())

    def ask(self, count: LogCount) -> None:
        """Ask all processes how many of their clients have an entry."""
        if self._isStopped:
            count.fail(_stopped())
            return
        self._asked += 1
        number = self._asked
        deadline = self._clock.callLater(self._patience, self._counted, number)
        self._questions[number] = _Question(count, deadline)
        node = self._store.node.encode()
        said = self._store.say("", b"ask %s %d %d" % (node, number, count.position))
        said.addCallbacks(
            self._cbAsked,
            self._ebAsked,
            callbackArgs=(number,),
            errbackArgs=(number,),
        )

    def _cbAsked(self, listening: int, number: int) -> None:
        """So many processes have heard a question."""
        question = self._questions.get(number)
        if question is not None:
            question.asked = listening
            self._settle(number, question)

    def _ebAsked(self, failure: Failure, number: int) -> None:
        """Nobody can be asked."""
        if number in self._questions:
            self._end(number).count.fail(failure.value)

    def _settle(self, number: int, question: _Question) -> None:
        """See whether all have answered."""
        if question.asked is not None and question.answers >= question.asked:
            self._counted(number)

    def _end(self, number: int) -> _Question:
        """Wait for no answers any more."""
        question = self._questions.pop(number)
        cancelTimer(question.deadline)
        return question

    def _counted(self, number: int) -> None:
        """All have answered, or the others are gone."""
        question = self._end(number)
        if not question.count.called:  # it may be cancelled
            question.count.callback(question.having)

    def heard(self, words: bytes) -> None:
        """A process asks, or answers."""
        if self._isStopped:
            return
        match words.split(b" "):
            case [b"ask", node, number, position]:
                tell = partial(self._tally, node.decode(), int(number))
                found = self._has(int(position)).addCallback(tell)
                found.addErrback(ignore)  # we stop
            case [b"has", number, having]:
                question = self._questions.get(int(number))
                if question is not None:
                    question.having += int(having)
                    question.answers += 1
                    self._settle(int(number), question)

    def _tally(self, node: str, number: int, has: Iterable[Deferred[None]]) -> None:
        """Say how many of our clients have an entry, once they do, or soon."""
        tally = AckCount(has)
        # Soon enough that a client which does not take it costs nobody else's count.
        self._answering[tally] = self._clock.callLater(
            self._patience * SOON, tally.endNow
        )
        tally.addCallback(self._answer, tally, node, number)

    def _answer(self, having: int, tally: AckCount, node: str, number: int) -> None:
        """Say how many have it."""
        call = self._answering.pop(tally, None)
        if call is None:  # we stop
            return
        cancelTimer(call)
        said = self._store.say(node, b"has %d %d" % (number, having))
        said.addErrback(ignore)  # who asks waits for a while only


def _stopped() -> SpoolError:
    """Make the error for who asks too late."""
    return SpoolError("nobody says how many have it: the log is closed")
