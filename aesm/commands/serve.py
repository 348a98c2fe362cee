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

from aesm.commands.daemon import AESMService

__all__ = ["runServer"]


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
    reactor.run()
    return 1 if service.failed else 0


def _heedSecond() -> None:
    """Let the next Ctrl-C end the process, and the next SIGTERM do nothing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
