"""
What waits for a handler, in little memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from aesm.core.messages.frames import (
    EncodedBodies,
    Messages,
    decoded,
    newTuple,
)
from aesm.messages.stream import Packet, costOf

if TYPE_CHECKING:
    from aesm.messages.requests import Answer


class Pile:
    """
    Messages that came in small groups: what is kept of each beside its body is a
    sixteenth of C{Messages} for it.  Requests are always in one.

    @ivar micros: when each was sent.
    @ivar data: their bodies; of what was done with as it came, the cost; and what is a
        packet already.
    @ivar numbers: those of the requests among them, counted from 1, each at its place,
        0 at the others; None while there are only packets.
    @ivar cost: as of C{Messages}, without requests.
    """

    __slots__ = ("cost", "data", "micros", "numbers")

    def __init__(self) -> None:
        self.micros = array("Q")
        self.data: list[Any] = []
        self.numbers: array[int] | None = None
        self.cost = 0

    @classmethod
    def of(cls, first: int, requests: Messages) -> Pile:
        """Pile up requests, of which the first has that number."""
        pile, count = cls(), len(requests.data)
        pile.micros.extend(repeat(requests.micros, count))
        pile.data.extend(requests.data)
        pile.numbers = array("Q", range(first + 1, first + 1 + count))
        return pile

    @classmethod
    def settled(cls, count: int, cost: int) -> Pile:
        """Pile up what was done with as it came."""
        pile = cls()
        pile.micros.extend(repeat(0, count))
        pile.data = [0] * (count - 1) + [cost]
        pile.numbers = _zeros(count)
        pile.cost = cost
        return pile

    @classmethod
    def answer(cls, micros: int, answer: Answer) -> Pile:
        """Pile up one answer that is handed over as a packet."""
        pile = cls.settled(1, answer.charge)
        pile.micros[0] = micros
        pile.data[0] = answer
        return pile

    def addPile(self, pile: Pile) -> None:
        """Add what is in another one, which has numbers."""
        numbers = _zeros(len(self.data)) if self.numbers is None else self.numbers
        self.numbers = numbers + cast("array[int]", pile.numbers)
        self.micros.extend(pile.micros)
        self.data.extend(pile.data)
        self.cost += pile.cost

    def add(self, messages: Messages) -> None:
        """Add a group."""
        if type(messages.data) is EncodedBodies and type(self.data) is list:
            self.data = EncodedBodies(self.data)
        self.micros.extend(repeat(messages.micros, len(messages.data)))
        self.data.extend(messages.data)
        self.cost += messages.cost
        if self.numbers is not None:
            self.numbers.extend(_zeros(len(messages.data)))


def packetOf(micros: int, data: Any) -> Packet:
    """Make the packet that is handed over of what is in a pile, and no request."""
    if isinstance(data, Packet):
        return data
    return newTuple(Packet, (micros / 1e6, decoded(data)))


def _zeros(count: int) -> array[int]:
    """Make the places of what has no number."""
    return array("Q", bytes(8 * count))


def chargeOf(messages: Messages | Pile, start: int, end: int) -> int:
    """Compute what is taken once these are handed over: of a request nothing."""
    data: Sequence[Any] = messages.data[start:end]
    if isinstance(messages, Pile) and messages.numbers is not None:
        numbers = messages.numbers[start:end]
        data = [each for each, number in zip(data, numbers, strict=True) if not number]
    return sum(each if type(each) is int else costOf(each) for each in data)
