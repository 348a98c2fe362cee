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
def noFailures() -> Iterator[list[str]]:
    """
    Check that nothing is logged as a failure in the meantime.

    @return: what was, so far.
    @raise AssertionError: something was.
    """
    failures: list[str] = []

    @implementer(ILogObserver)
    def observe(event: dict[str, Any]) -> None:
        """Take note of a failure."""
        if event.get("log_level") is LogLevel.critical:
            failure = event.get("log_failure")
            words = failure.getTraceback() if failure else ""
            failures.append(f"{formatEvent(event)} {words}")

    globalLogPublisher.addObserver(observe)
    try:
        yield failures
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not failures, failures[0]
