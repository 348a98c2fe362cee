"""
What a server tells systemd, or whatever else has set C{NOTIFY_SOCKET}::

    notifier = Notifier(reactor, describe)
    notifier.ready()        # it listens
    notifier.reloading()    # it reads its files again
    notifier.reloaded()
    notifier.stopping()
    notifier.stopped()

In between it says how the server is doing, and that its event loop runs, if somebody
wants to know.  Without C{NOTIFY_SOCKET} all of this does nothing, and nothing that
happens to the socket ends the server.

@see: sd_notify(3), sd_watchdog_enabled(3)
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

_log = Logger(namespace="aesm.daemon")

STATUS_INTERVAL = 5.0  # seconds between looks whether there is news
PATIENCE = 1.0  # seconds that what must not get lost may wait for room in the socket
STOPPING = 30.0  # seconds for the rest, where it needs more than it would be given
USECS = 1_000_000


class Notifier:
    """Tells what has started the server how that is doing."""

    def __init__(self, reactor: Any, describe: Callable[[], str]) -> None:
        """
        Take our variables out of the environment, so that no program inherits them.
        """
        take = os.environ.pop
        self._path = take("NOTIFY_SOCKET", "")
        self._watchdog = take("WATCHDOG_USEC", ""), take("WATCHDOG_PID", "")
        self._describe = describe
        self._reactor = reactor
        self._described = ""  # what we have said last
        self._loops: list[LoopingCall] = []
        # Kept open, since the server may have no file free when it must say that it
        # is alive.
        self._socket: socket.socket | None = None
        self._failed = False

    def ready(self) -> None:
        """Say that the server listens, and from now on how it is doing."""
        if not self._path or self._socket is not None:
            return
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            self._cannot(error)
            return
        self._tell("READY=1", PATIENCE)
        self._repeat(self._tellStatus, STATUS_INTERVAL)
        period = self._watchdogPeriod()
        if period is not None:
            self._repeat(lambda: self._tell("WATCHDOG=1"), period / 2)

    def reloading(self) -> None:
        """Say that files are being read again."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={now}", PATIENCE)

    def reloaded(self) -> None:
        """Say that they have been."""
        self._tell("READY=1", PATIENCE)

    def stopping(self, seconds: float = 0.0) -> None:
        """
        Say that the server is stopping, and how much longer than usual that takes.
        """
        more = f"\nEXTEND_TIMEOUT_USEC={round((seconds + STOPPING) * USECS)}"
        self._tell(f"STOPPING=1{more if seconds else ''}", PATIENCE)

    def stopped(self) -> None:
        """Say nothing any more."""
        for loop in self._loops:
            loop.stop()
        self._loops.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _repeat(self, what: Callable[[], object], interval: float) -> None:
        """Do something now, and again and again, from the event loop."""
        loop = LoopingCall(what)
        loop.clock = self._reactor
        loop.start(interval)
        self._loops.append(loop)

    def _watchdogPeriod(self) -> float | None:
        """Tell within how many seconds to say that we are alive, if we have to."""
        period, process = self._watchdog
        # Not earlier: twistd in the background is another process than it was.
        if process not in ("", str(os.getpid())) or not period.isdecimal():
            return None
        return int(period) / USECS or None

    def _tellStatus(self) -> None:
        """Say how the server is doing, if that is news."""
        description = self._describe()
        if description != self._described and self._tell(f"STATUS={description}"):
            self._described = description

    def _tell(self, what: str, patience: float = 0.0) -> bool:
        """Send a datagram, if somebody listens who has room for it in time."""
        if self._socket is None:
            return False
        address = self._path
        if address.startswith("@"):  # it is in no file system
            address = "\0" + address[1:]
        try:
            self._socket.settimeout(patience)
            self._socket.sendto(what.encode("utf-8"), os.fsencode(address))
        except OSError as error:
            self._cannot(error)
            return False
        self._failed = False
        return True

    def _cannot(self, error: OSError) -> None:
        """Say that systemd hears nothing, once for as long as that is so."""
        if not self._failed:
            self._failed = True
            _log.warn(
                "cannot tell systemd how the server is doing, at NOTIFY_SOCKET "
                "{path!r}: {reason}; the server goes on without",
                path=self._path,
                reason=error.strerror or str(error),
            )
