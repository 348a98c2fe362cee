"""
C{aesm serve}: a server in the foreground, without C{twistd} around it::

    status = runServer(reactor, service)

SIGTERM and Ctrl-C stop it in order, which takes some seconds at the most.  A second
Ctrl-C does not wait for that: it is somebody who has seen what the first one does.
Another SIGTERM changes nothing: several programs may send one each.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.application.app import ReactorSelectionMixin
from twisted.logger import globalLogBeginner
from twisted.python import usage

from aesm.commands.command import Command, parameter
from aesm.commands.daemon import AESMService
from aesm.commands.serverlog import FORMATS, LEVELS, logObserver
from aesm.commands.signals import awaitInterrupt, endAtOnce
from aesm.commands.tap import ServerOptions, makeService


class ServeOptions(Command, ServerOptions, ReactorSelectionMixin):
    """C{aesm serve}."""

    wrongUsage = 2  # so that it is not started again and again
    optParameters = [
        parameter("log-level", f"What to log at least: {', '.join(LEVELS)}.", "info"),
        parameter(
            "log-format",
            "How to log, on standard error; text: lines for people, json: an object "
            "a line.",
            "text",
        ),
    ]

    def postOptions(self) -> None:
        """Check the options, and make of them what the service needs."""
        for option, values in (("log-level", LEVELS), ("log-format", FORMATS)):
            if self[option] not in values:
                raise usage.UsageError(
                    f"--{option} must be one of {', '.join(values)}, "
                    f"not {self[option]!r}"
                )
        super().postOptions()

    def run(self) -> int:
        """Run the server until it is stopped, and return the exit status."""
        from twisted.internet import reactor

        service = makeService(self)
        observer = logObserver(self["log-level"], self["log-format"])
        globalLogBeginner.beginLoggingTo([observer])
        return runServer(reactor, service)


def runServer(reactor: Any, service: AESMService) -> int:
    """
    Run a server until it is stopped.

    @param reactor: not running yet; it will not run again.
    @return: the exit status: 0 if it ended in order.
    @raise CannotListen: it cannot listen somewhere; the log says why.
    """
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", _heedSecond)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    awaitInterrupt()
    reactor.run()
    return 1 if service.failed else 0


def _heedSecond() -> None:
    """Let the next Ctrl-C end the process, and the next SIGTERM do nothing."""
    endAtOnce(signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
