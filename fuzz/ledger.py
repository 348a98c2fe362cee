"""
What was sent in one direction between an honest client and the server, and what has
become of it: the promise of docs/sessions.md as a few sets.

Each message has a number of its own, which its data begins with, so that what comes can
be compared with what was sent, across cuts, kills and sessions.  Requests are messages,
and so are their answers, in the ledger of the other direction.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from aesm import Answer, Packet, Request, RequestFailed, RequestTimeout
from aesm.errors import AESMError, CloseCode, MessageTooBig, SendBufferFull

__all__ = ["Ledger", "numberOf"]

_WAITING = "waiting"  # its sender hears of it yet
_KEPT = "kept"  # its sender knows that the other side has it
_TOLD = "told"  # its sender knows that the other side may not have it
_REFUSED = "refused"  # it was not accepted
_NOBODY = "nobody"  # there is nobody to tell: the sender was killed


class Ledger:
    """The messages of one direction."""

    def __init__(self) -> None:
        """Begin with none."""
        self._data: dict[int, str | bytes] = {}
        self._fates: dict[int, str] = {}
        self._origins: dict[int, int] = {}  # of answers: which message they answer
        self._secret: set[int] = set()  # those that only the receiver may have
        self._ever: set[int] = set()  # what any life of the receiver has got
        self._got: set[int] = set()  # what the present one has, or those before kept
        self._settled: set[int] = set()  # what no kill can undo
        self._left: set[int] = set()  # what a receiver may have dropped
        self._requests: dict[int, Request] = {}  # that the receiver's life has got
        self._last: dict[object, int] = {}  # for each session, in this life

    def send(
        self,
        number: int,
        data: str | bytes,
        sent: Deferred[Any] | None,
        origin: int | None = None,
    ) -> None:
        """
        Take note of a message.

        @param sent: what sending it returned; None if that says nothing of this
            message alone.
        @param origin: the number of the message that it answers, or None.
        """
        self._data[number] = data
        self._fates[number] = _NOBODY if sent is None else _WAITING
        if origin is not None:
            self._origins[number] = origin
        if sent is not None:
            self._secret.add(number)
            sent.addCallbacks(
                self._cbKept,
                self._ebTold,
                callbackArgs=(number,),
                errbackArgs=(number,),
            )

    def _cbKept(self, result: object, number: int) -> None:
        """A message is acknowledged."""
        if self._fates[number] == _WAITING:
            self._fates[number] = _KEPT

    def _ebTold(self, failure: Failure, number: int) -> None:
        """A message may not have arrived."""
        failure.trap(AESMError)
        if self._fates[number] == _WAITING:
            refused = failure.check(SendBufferFull, MessageTooBig)
            self._fates[number] = _REFUSED if refused else _TOLD

    def ask(
        self, number: int, data: str | bytes, answer: Deferred[Any], back: Ledger
    ) -> None:
        """
        Take note of a request.

        @param answer: what asking returned.
        @param back: where its answer comes.
        """
        self._data[number] = data
        self._fates[number] = _WAITING
        self._secret.add(number)
        answer.addCallbacks(
            self._cbAnswered,
            self._ebUnanswered,
            callbackArgs=(number, back),
            errbackArgs=(number, back),
        )

    def _cbAnswered(self, data: str | bytes, number: int, back: Ledger) -> None:
        """A request is answered, or refused by who was asked."""
        if self._fates[number] != _WAITING:  # by a process that is over, or too late
            return
        assert number in self._ever, f"{number} is answered and did not come"
        self._fates[number] = _KEPT
        if numberOf(data) != -1:  # else aesm has refused it by itself
            assert back._origins.get(numberOf(data)) == number, "another one's answer"
            back.got(data, data)

    def _ebUnanswered(self, failure: Failure, number: int, back: Ledger) -> None:
        """A request is refused, or nobody knows what has become of it."""
        if self._fates[number] != _WAITING:
            return
        error = failure.value
        if isinstance(error, RequestFailed):
            if numberOf(error.reason) == -1:
                ours = (CloseCode.TOO_BIG, CloseCode.INTERNAL_ERROR)
                assert error.code in ours, f"{number}: {error!r}"
            self._cbAnswered(error.reason, number, back)
        elif isinstance(error, RequestTimeout | CancelledError):
            self._fates[number] = _NOBODY
        else:
            self._ebTold(failure, number)

    def answer(self, number: int, data: str, origin: int) -> None:
        """
        Take note of an answer, or of the words of a refusal.

        @param origin: the number of the request.
        """
        self.send(number, data, None, origin)
        self._secret.add(number)

    def take(self, session: object, packet: Packet, questions: Ledger) -> None:
        """
        Check a packet that is taken, whatever it is.

        @param session: over which one.
        @param questions: where the receiver's requests are.
        """
        if isinstance(packet, Answer):  # to a process before this one
            data = packet.failure.reason if packet.failure else packet.data
            assert data is not None
            if numberOf(data) != -1:
                asked = self._origins[numberOf(data)]
                assert questions._fates[asked] != _WAITING, f"{asked} still waits"
                self.got(data, data)
            return
        assert packet.data is not None
        self.got(session, packet.data)
        if isinstance(packet, Request):
            self._requests[numberOf(packet.data)] = packet

    def got(self, session: object, data: str | bytes) -> None:
        """
        Check a message that comes.

        @param session: over which one.
        """
        number = numberOf(data)
        assert self._data.get(number) == data, f"{data[:20]!r} was not sent"
        assert self._fates[number] != _REFUSED, f"{number} was refused"
        assert number not in self._got, f"{number} comes twice"
        assert number > self._last.get(session, -1), f"{number} is out of order"
        origin = self._origins.get(number)
        if origin is not None:
            answered = {self._origins.get(other) for other in self._got}
            assert origin not in answered, f"{origin} is answered twice"
        self._last[session] = number
        self._got.add(number)
        self._ever.add(number)

    def settle(self) -> None:
        """
        All that has come is written down, if anything is; but requests that are not
        answered come again.
        """
        requests = self._requests.items()
        unanswered = {number for number, request in requests if request.isOpen}
        self._settled = self._got - unanswered

    def left(self) -> None:
        """The receiver takes no more of a session: what has come is dropped."""
        self._left.update(self._data.keys() - self._ever)

    def receiverEnded(self, durable: bool) -> None:
        """
        The receiver's process is over.

        @param durable: whether it has a spool.
        """
        self._last.clear()
        self._requests.clear()
        if durable:
            self._got = set(self._settled)
            return
        for number, fate in self._fates.items():  # it was unread, and is gone
            if fate == _KEPT and number not in self._ever:
                self._fates[number] = _NOBODY

    def senderEnded(self) -> None:
        """The sender's process is over: it is told of nothing more."""
        for number, fate in self._fates.items():
            if fate == _WAITING:
                self._fates[number] = _NOBODY

    def isSecret(self, data: str | bytes) -> bool:
        """Tell whether a message was sent in this direction, and to nobody else."""
        return numberOf(data) in self._secret and data in self._data.values()

    @property
    def waiting(self) -> bool:
        """Whether a sender does not know yet what has become of a message."""
        return _WAITING in self._fates.values()

    def check(self) -> None:
        """
        Check that what was acknowledged has come, and what was refused has not, once
        all is taken.
        """
        for number, fate in self._fates.items():
            taken = number in self._ever or number in self._left
            assert fate != _KEPT or taken, f"{number} is lost"
            assert fate != _REFUSED or number not in self._ever, f"{number} was refused"


def numberOf(data: str | bytes) -> int:
    """
    Read which message it is.

    @return: -1 if it is none of ours.
    """
    text = data if isinstance(data, str) else data.decode("latin-1")
    head = text.partition(":")[0]
    return int(head) if head.isascii() and head.isdecimal() else -1
