"""
What sessions are stored in, so that they outlive the process: the interface that
L{aesm.store.journal} and L{aesm.store.connection} write to, whatever is behind it::

    store.open().addCallback(goOn)           # name, peer, state, incoming, outgoing
    store.begin(name, peer, {"received": 0}).addCallback(welcome)
    store.claim(name, peer).addCallback(goOn)
    store.put(name, peer, {"received": 7})   # these three only gather
    store.append(name, False, 6, 1, frames)
    store.discard(name, True, 40)
    store.commit().addCallback(acknowledge)  # fires when all of it is stored
    store.close()

Changes gather, and a commit takes all of them or none: the messages that a handler
sends and the one that it sent them for are never stored apart.  A store numbers
nothing and reads no frame: numbers and frames come from the session.

A session belongs to one process at a time, which alone writes it: that which began it,
or opened the store with it, or claimed it last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from aesm.errors import SpoolError

# What of a state says how far the peer is.  The peer alone decides on that: it may be
# stored, with the outgoing messages that are discarded for it, before anything else.
ACKNOWLEDGED: Final = ("acknowledged", "acknowledgedCost", "limit", "log")

# Called with sessions that are not ours any more, each with whether it goes on
# elsewhere, or None if a newer one of its key has taken its place; and with those of
# ours of which messages to the peer were left out, since one that is not had caused
# them: for each the numbers with which these were appended.  What was appended behind
# them has moved up.  Both are by name.
Lost = Callable[[Mapping[str, bool | None], Mapping[str, Collection[int]]], object]

# What sessions are told, in order: each a TEXT message and the names of the sessions
# that it is for; or None, and those that are closed (NOT_ALLOWED) and told nothing
# more.
Rows = Sequence[tuple[str | None, Collection[str]]]


# Called with the names of sessions.
Early = Callable[[Collection[str]], object]


class Blob(NamedTuple):
    """
    Messages that are stored, and discarded, together.

    @ivar number: the number of the first.
    @ivar messages: how many they are.
    @ivar frames: all of them, encoded.
    """

    number: int
    messages: int
    frames: bytes


class Stored(NamedTuple):
    """
    What is stored of one session.

    @ivar name: the session, 32 hexadecimal digits.
    @ivar peer: the peer's public key, in text form.
    @ivar state: what was last put.
    @ivar incoming: messages of the peer, in the order of their numbers.
    @ivar outgoing: messages to the peer, in the order of their numbers.
    @ivar requests: open requests of the peer, one each, in the order of their numbers.
    """

    name: str
    peer: str
    state: dict[str, Any]
    incoming: list[Blob]
    outgoing: list[Blob]
    requests: list[Blob]


class Entry(NamedTuple):
    """
    What another session, or process, has left to be read.

    @ivar position: in the order in which it is read.
    @ivar name: no other entry has it, whatever becomes of the store.
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


class Work(NamedTuple):
    """
    Messages of a client that nobody has read.

    @ivar name: the session over which they came.
    @ivar peer: the public key, in text form.
    @ivar blob: the messages.
    @ivar read: how many of these were read all the same.
    """

    name: str
    peer: str
    blob: Blob
    read: int


class Snapshot(NamedTuple):
    """
    What a replica made of the log, up to a position.

    @ivar position: of the last entry in it.
    @ivar name: of that entry.
    @ivar data: what the replica said.
    """

    position: int
    name: bytes
    data: bytes


class ISessionStore(Interface):
    """Sessions and their messages, kept where they outlive the process."""

    failure: SpoolError | None = Attribute(
        "Why nothing can be written at the moment, a L{SpoolError}, or None.  Changes "
        "gather in memory meanwhile: whoever accepts messages has to refuse more."
    )

    size: int = Attribute("The bytes that it takes, where operators look for them.")

    fences: bool = Attribute(
        "Whether other processes may claim what is ours.  Then it wants to be told "
        "causes: of what was not committed when a session was claimed elsewhere, "
        "nothing that it has caused is; it happens there."
    )

    def open(
        lost: Lost | None = None, lapsed: Callable[[], object] | None = None
    ) -> Deferred[list[Stored]]:
        """
        Begin, before anything else is asked.

        @param lost: to be called when other processes have claimed sessions of ours;
            None where that cannot be.
        @param lapsed: to be called when they have reason to believe that this process
            is gone; None where there are none.
        @return: fires with the sessions that are ours from the start, the oldest first;
            fails with L{SpoolError} if they cannot be read, or are damaged.
        """

    def damaged(reason: str) -> SpoolError:
        """
        Make the error for stored sessions that make no sense.

        @param reason: what is wrong with them.
        @return: says where they are and what the operator may do.
        """

    def begin(name: str, peer: str, state: dict[str, Any]) -> Deferred[None]:
        """
        Store a session of which its peer does not know yet.  Unlike what is committed,
        it does not wait until a store that has a failure works again: nobody depends
        on the session so far.

        @param name: the session, 32 hexadecimal digits.
        @param peer: the peer's public key, in text form.
        @param state: as C{put}.
        @return: fires once it is stored; fails with L{SpoolError} if it cannot be
            stored now, and with L{Refused<aesm.secure.refusals.Refused>} if the client
            is not let in for another one of its key, and then nothing of it is kept.
            Who cancels it has to drop the session, which may be stored or not.
        @raise TypeError: the state does not fit.
        @raise ValueError: the state does not fit.
        """

    def claim(name: str, peer: str) -> Deferred[Stored | None]:
        """
        Have a session that is not ours, since its client has come to us.  It may be
        nobody's, or of another process, which then loses it.  If we believe that it is
        ours, and another process has claimed it, C{lost} is called first.

        @param name: the session, as its client says: any text of up to 32 characters.
        @param peer: the key that the client has proved, in text form.
        @return: fires with what is stored of it, which is ours from now on, or with
            None if there is none of that key, or it still is ours; fails with
            L{SpoolError} if nobody can say now, or the store is closed before, and with
            L{Refused<aesm.secure.refusals.Refused>} as C{begin}.  It is not cancelled.
        """

    def put(name: str, peer: str, state: dict[str, Any]) -> None:
        """
        Add a session, or replace its state.

        @param name: the session, 32 hexadecimal digits.
        @param peer: the peer's public key, in text form.
        @param state: what fits into JSON; it is taken as it is now.
        @raise TypeError: the state does not fit.
        @raise ValueError: the state does not fit.
        """

    def append(
        name: str,
        outgoing: bool,
        number: int,
        count: int,
        frames: bytes,
        cause: str = "",
    ) -> None:
        """
        Add messages to a session, each direction in the order of their numbers.

        @param name: the session; messages of one that was never put, was dropped, or is
            not ours, are not kept.
        @param outgoing: whether they go to the peer.
        @param number: the number of the first.
        @param count: how many they are.
        @param frames: all of them, encoded.
        @param cause: the session whose message made us send them, or empty.
        """

    def discard(name: str, outgoing: bool, before: int) -> None:
        """
        Remove messages; those that were appended together go once all of them may.

        @param name: the session.
        @param outgoing: their direction.
        @param before: all those with numbers below this.
        """

    def addRequest(name: str, number: int, frame: bytes) -> None:
        """
        Add an open request of the peer to a session, in the order of their numbers.

        @param name: the session, as in C{append}.
        @param number: the request's.
        @param frame: the request, encoded.
        """

    def removeRequest(name: str, number: int, cause: str = "") -> None:
        """
        Remove a request, which is not open any more.

        @param name: the session.
        @param number: the request's.
        @param cause: the session whose message made us answer it, or empty.
        """

    def drop(name: str) -> None:
        """
        Remove a session with all its messages.

        @param name: the session.
        """

    def attend(name: str, isThere: bool) -> None:
        """
        Say whether a session's client is there, where other processes may claim what is
        ours: else it has the time to come back that they agree on, to any of them.  A
        session that begins, or is claimed, waits for its client.

        @param name: the session.
        @param isThere: whether it is there.
        """

    def release(name: str) -> None:
        """
        Leave a session, with what was said of it so far, to the process that claims it
        next.

        @param name: the session.
        """

    def commit(early: Early | None = None) -> Deferred[None]:
        """
        Write the changes so far, all of them or nothing; those that have nothing to do
        with each other maybe one after the other.

        @param early: called with sessions of which all is stored that was said so far,
            when that may be long before the rest is.
        @return: fires once they are stored, however long that takes; fails with
            L{SpoolError} if the store is closed before.
        """

    def close() -> Deferred[None]:
        """
        Write the changes so far, and release what the store holds open.

        @return: fires when that is done; fails with L{SpoolError}, as do the
            commits that are pending, if not all could be written.
        @raise RuntimeError: it was called before.
        """


class IReplica(Interface):
    """
    What each process makes of the events in a log, all of them the same: a state, and
    what sessions are told.  It does nothing else, and asks nobody: neither what time it
    is nor who is connected here.  A handler with C{clientsTogether} that has one, as
    C{replica}, runs on several nodes; with C{connections.log.tell} it says what
    happens, and learns of that here, as all others do.
    """

    def apply(data: bytes, micros: int) -> Rows:
        """
        Something has happened.

        @param data: as C{Log.tell} was given it, at this process or another.
        @param micros: when it was told, microseconds since the Unix epoch.
        @return: what sessions are told.
        @raise ValueError: this process cannot make of it what others do, since it is of
            another version: it serves nobody any more.  Any other error is a bug, which
            all have: it is logged, and nobody is told.
        """

    def gone(name: str) -> Rows:
        """
        A session is over: it ended, or its client did not come back in time.

        @param name: the session, of which there may have been no event.
        @return: as C{apply}.
        """

    def snapshot() -> bytes:
        """Say the whole state."""

    def restore(data: bytes | None) -> None:
        """
        Have another state, whatever there was.

        @param data: from C{snapshot}, maybe of another process; None for the state
            before anything has happened.
        @raise ValueError: as C{apply}.
        """

    def rewound() -> None:
        """
        The log went back in time, and so did the state.  What was told of sessions that
        are here may not be in it any more, and has to be told again; some of that may
        come again by itself.
        """


class ILogStore(ISessionStore):
    """
    What several processes share, each of which may claim what is another's, and may
    tell all of them something: a log, in which positions follow each other.
    """

    node: str = Attribute("What this process is called there: a word.")

    told: Callable[[Entry | None], object] = Attribute(
        "Called with what was told all; or None: there may be more in the log."
    )

    isKnown: Callable[[int], bool] = Attribute(
        "Asked whether all up to a position is known, and need not be told once more."
    )

    heard: Callable[[bytes], object] = Attribute(
        "Called with the words that another process, or this one, has said to us."
    )

    def log(cause: str, data: bytes, tell: Callable[[int, bytes], object]) -> None:
        """
        Tell something to all, with what is committed next.

        @param cause: the session whose message made us do it, or empty.
        @param tell: called once it is written, with its position and its name; never,
            if the cause is not ours by then.
        """

    def readLog(after: int, name: bytes = b"") -> Deferred[LogPage | None]:
        """
        Read what all were told.

        @param after: the position up to which it was read.
        @param name: the name of the entry there; empty if none was read.
        @return: fires with a page; or with None if what was read is not in the log: it
            went back in time; fails with L{SpoolError}.
        """

    def sayEnds(endEntry: Callable[[str], bytes]) -> None:
        """
        Say of each session that is removed, from now on, that it is over: once,
        whichever process finds that.

        @param endEntry: makes what is told all then.
        """

    def readSnapshots() -> Deferred[list[Snapshot]]:
        """
        Read what a replica made of the log, up to some positions.

        @return: fires with those from which the log goes on, the oldest first; fails
            with L{SpoolError}.
        """

    def writeSnapshot(newest: int, snapshot: Snapshot) -> Deferred[int]:
        """
        Store a snapshot, if that makes sense: the oldest of three goes.

        @param newest: the position of the newest one that we know of, or 0.
        @param snapshot: is left out if there is a newer one than that, or if the log
            has another entry there by now.
        @return: fires with the position of the newest one that there is then; fails
            with L{SpoolError}.
        """

    def say(node: str, words: bytes) -> Deferred[int]:
        """
        Say something to another process, or to all, which hear it if they are there.

        @param node: who is to hear it; empty for all, ourselves among them.
        @return: fires with how many hear it; fails with L{SpoolError}.
        """
