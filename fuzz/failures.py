"""
What is logged as a failure of ours, which nothing that a peer does may cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.logger import (
    ILogObserver,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

__all__ = ["noFailures"]


@contextmanager
def noFailures(but: type[Exception] | None = None) -> Iterator[list[str]]:
    """
    Check that nothing is logged as a failure in the meantime.

    @param but: of this kind there may be: the application's.
    @return: what was, so far.
    @raise AssertionError: something was.
    """
    failures: list[str] = []

    @implementer(ILogObserver)
    def observe(event: dict[str, Any]) -> None:
        """Take note of a failure."""
        if event.get("log_level") is LogLevel.critical:
            failure = event.get("log_failure")
            if but is not None and failure is not None and failure.check(but):
                return
            words = failure.getTraceback() if failure else ""
            failures.append(f"{formatEvent(event)} {words}")

    globalLogPublisher.addObserver(observe)
    try:
        yield failures
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not failures, failures[0]
