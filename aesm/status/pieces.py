"""
Answers that are long, in pieces, so that neither a slow reader nor thousands of
connections hold up anybody::

    pieces = joined(map(asciiJSON, rows))
    consumer.registerProducer(Pieces(pieces, write, done), False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

PIECES = 64  # rows of an answer that are written in a turn of the event loop


@implementer(IPullProducer)
class Pieces:
    """Writes an answer as it is taken, some of it in each turn."""

    def __init__(
        self,
        pieces: Iterator[str],
        write: Callable[[bytes], object],
        done: Callable[[], object],
    ) -> None:
        """@param done: called once all that was written is taken."""
        self._pieces = pieces
        self._write = write
        self._done = done

    def resumeProducing(self) -> None:
        """All that was written is taken: write what comes next."""
        text = "".join(islice(self._pieces, PIECES))
        if text:
            self._write(text.encode("ascii"))
        else:
            self._done()

    def stopProducing(self) -> None:
        """Nobody reads any more."""


def joined(texts: Iterable[str]) -> Iterator[str]:
    """Put commas between."""
    for number, text in enumerate(texts):
        yield f", {text}" if number else text
