"""
What waits for a handler, in little memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any

from aesm.core.messages.frames import (
    EncodedBodies,
    EncodedRequest,
    Messages,
    decoded,
    newTuple,
)
from aesm.messages.stream import Packet, costOf

if TYPE_CHECKING:
    from aesm.messages.requests import Answer, Requests

__all__ = ["Pile", "chargeOf"]


class Pile:
    """
    Messages that came in small groups: what is kept of each beside its body is a
    sixteenth of C{Messages} for it.  Requests are always in one.

    @ivar micros: when each was sent.
    @ivar data: their bodies; of what was done with as it came, the cost; and what is a
        packet already.
    @ivar numbers: of the requests among them; None while there are only packets.
    @ivar cost: as of C{Messages}, without requests.
    """

    __slots__ = ("cost", "data", "micros", "numbers")

    def __init__(self) -> None:
        """Start with none."""
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
        pile.numbers = array("Q", range(first, first + count))
        return pile

    @classmethod
    def settled(cls, count: int, cost: int) -> Pile:
        """Pile up what was done with as it came."""
        pile = cls()
        pile.micros.extend(repeat(0, count))
        pile.data = [0] * (count - 1) + [cost]
        pile.numbers = array("Q")
        pile.cost = cost
        return pile

    @classmethod
    def answer(cls, micros: int, answer: Answer) -> Pile:
        """Pile up one answer that is handed over as a packet."""
        pile = cls.settled(1, answer.charge)
        pile.micros[0] = micros
        pile.data[0] = answer
        return pile

    def items(self, requests: Requests) -> Iterator[Any]:
        """
        Make what is handed over: packets, requests, and None for what was done with as
        it came.
        """
        numbers = iter(self.numbers or ())
        for micros, data in zip(self.micros, self.data, strict=True):
            if type(data) is EncodedRequest:
                yield requests.begin(next(numbers), micros, data)
            elif type(data) is int:
                yield None
            elif isinstance(data, Packet):
                yield data
            else:
                yield newTuple(Packet, (micros / 1e6, decoded(data)))

    def addPile(self, pile: Pile) -> None:
        """Add what is in another one, which has requests."""
        self.micros.extend(pile.micros)
        self.data.extend(pile.data)
        self.numbers = (self.numbers or array("Q")) + (pile.numbers or array("Q"))
        self.cost += pile.cost

    def add(self, messages: Messages) -> None:
        """Add a group."""
        if type(messages.data) is EncodedBodies and type(self.data) is list:
            self.data = EncodedBodies(self.data)
        self.micros.extend(repeat(messages.micros, len(messages.data)))
        self.data.extend(messages.data)
        self.cost += messages.cost


def chargeOf(data: Any) -> int:
    """Compute what is taken once this is handed over: of a request nothing."""
    if type(data) is int:
        return data
    return 0 if type(data) is EncodedRequest else costOf(data)
