"""
How far one session has come in the log of what all are told::

    following = Following(Place(number, position, began))
    following.add(first, count, position)      # entries are in its outbox
    following.state(outbox.acknowledged, log.position)       # to be written
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

Places = list[tuple[int, int, int]]  # number of the first, how many, last position


class Place(NamedTuple):
    """
    Where a session was in the log.

    @ivar number: of a message.
    @ivar position: the entries up to this one have lower numbers, or are not for it.
    @ivar began: the last entry that was there when the session began.
    """

    number: int
    position: int
    began: int


class Following:
    """
    A session's place in the log.

    @ivar place: as it was last written.
    @ivar places: the entries that are in its outbox, and not acknowledged.
    @ivar isKept: whether these are to be stored as its own, since the log has lost
        them.
    """

    __slots__ = ("_behind", "isKept", "place", "places")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.places: Places = []
        self.isKept = False
        self._behind = place.position

    def add(self, first: int, count: int, position: int) -> None:
        """
        Entries are in the outbox.

        @param first: the number of the first message.
        @param count: how many there are.
        @param position: of the last entry; that of the next ones, if it is not whole.
        """
        if self.places:
            former, size, same = self.places[-1]
            if same == position and former + size == first:
                self.places[-1] = (former, size + count, position)
                return
        self.places.append((first, count, position))

    def extend(self, count: int) -> None:
        """
        So many messages of the first entry in the outbox are acknowledged, and not all.
        """
        if count:
            first, size, position = self.places[0]
            self.places[0] = (first - count, size + count, position)

    def behind(self, done: int, position: int) -> int:
        """
        Find up to which position all is acknowledged.

        @param done: how many messages are acknowledged.
        @param position: up to which the session was told all.
        """
        gone = 0
        for first, count, last in self.places:
            if first + count > done:
                break
            self._behind = last
            gone += 1
        del self.places[:gone]
        if not self.places:
            self._behind = position
        return self._behind

    def state(self, done: int, position: int) -> Place:
        """Say what is to be written; the arguments are those of C{behind}."""
        behind = self.behind(done, position)
        # Where some of what was told together is acknowledged, it is not counted yet.
        number = min(done, self.places[0][0]) if self.places else done
        self.place = Place(number, behind, self.place.began)
        return self.place

    def number(self, position: int) -> int | None:
        """
        Tell how many messages have to be acknowledged for an entry to be; 0 if it is,
        or None if the session began later.
        """
        if position <= self.place.began:
            return None
        return next((f + count for f, count, at in self.places if at >= position), 0)

    def undo(self, holes: Sequence[tuple[int, int]]) -> None:
        """
        Messages were taken out of the outbox.

        @param holes: of those that were behind one another the first, and how many.
        """
        self.places = [
            (first - sum(size for hole, size in holes if hole < first), count, position)
            for first, count, position in self.places
        ]

    def keep(self, position: int) -> Iterable[tuple[int, int]]:
        """
        Count what is in the outbox as the session's own, which goes on from a position:
        list the numbers of the first, and how many.
        """
        kept, self.places, self.isKept = self.places, [], False
        self._behind = position
        return [(first, count) for first, count, _ in kept]
