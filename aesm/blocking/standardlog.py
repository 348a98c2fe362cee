"""
What aesm reports, for programs that have never heard of Twisted's logging::

    standardLog.start()

Events of C{aesm.*} go to the standard library's C{logging}, to loggers of the same
names, as long as nobody has begun Twisted's logging, which would be heard then.

A thread of its own hands them over.  The handlers of C{logging} have locks, and what
they write to may be slow: the reactor's thread must not wait for these, least of all
while a signal handler that waits for the reactor has interrupted the main thread in
one of them.
"""

from __future__ import annotations

import logging
from queue import SimpleQueue
from threading import Event, Thread

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    STDLibLogObserver,
    globalLogBeginner,
    globalLogPublisher,
)
from zope.interface import implementer

FLUSH_TIMEOUT = 1.0  # seconds to wait for handlers of logging


@implementer(ILogObserver)
class StandardLog:
    """Hands events over to C{logging}, where nobody else listens."""

    def __init__(self) -> None:
        self._observers: dict[str, STDLibLogObserver] = {}
        self._events: SimpleQueue[LogEvent | Event] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Listen, if nobody does; later calls change nothing."""
        if self._thread is None and self._isAlone([]):
            globalLogPublisher.addObserver(self)
        elif self._thread is None or self._thread.is_alive():
            return
        # Or a forked child begins, which has no such thread any more.
        self._thread = Thread(target=self._run, name="aesm log", daemon=True)
        self._thread.start()

    def __call__(self, event: LogEvent) -> None:
        """Take an event; called in any thread."""
        namespace = str(event.get("log_namespace"))
        if namespace.startswith("aesm.") and self._isAlone([self]):
            self._events.put(event)

    def flush(self) -> None:
        """Wait, for a second at most, until C{logging} has what was reported."""
        if self._thread is not None:
            flushed = Event()
            self._events.put(flushed)
            flushed.wait(FLUSH_TIMEOUT)

    def _isAlone(self, observers: list[StandardLog]) -> bool:
        """
        Tell whether nobody but ours has begun Twisted's logging, nor listens to it.
        """
        # Twisted does not tell in public.  While logging has not begun, a temporary
        # observer keeps events for those who begin it.  That is gone, and the new ones
        # are there, before these events are published again, which are ours no more.
        temporary = globalLogBeginner._temporaryObserver
        return list(globalLogPublisher._observers) == [temporary, *observers]

    # In the log's thread

    def _run(self) -> None:
        """Hand events over for ever."""
        while True:
            event = self._events.get()
            if isinstance(event, Event):
                event.set()
            else:
                self._tell(event)

    def _tell(self, event: LogEvent) -> None:
        """Hand one event over."""
        namespace = str(event["log_namespace"])
        observer = self._observers.get(namespace)
        if observer is None:
            observer = self._observers[namespace] = STDLibLogObserver(namespace)
        # Twisted's temporary observer writes critical events to standard error, as
        # logging does where it was not set up: once is enough.
        critical = event.get("log_level") is LogLevel.critical
        if not critical or logging.getLogger(namespace).hasHandlers():
            observer(event)


standardLog = StandardLog()
