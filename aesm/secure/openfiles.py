"""
How the files that a process may have open are shared out: each connection is one.

  - own files: the log, the spool, keys that are read, what listens, the event loop's;
  - the turn's: connections that came in this turn of the event loop and make room, or
    are turned away, are closed only after it;
  - handshakes: so that who is in does not keep others from coming in;
  - places, for those who are in: the rest.

Where a process has no file left, Twisted closes whoever waits to be accepted, be it a
good client or not, and logs three lines for each.  So it must not come to that.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from functools import lru_cache

OWN_FILES = 64
TURN_FILES = 1024
MAX_PENDING = 4096  # connections in the handshake
MIN_PENDING = 8


def filesForConnections() -> int:
    """Tell how many files there are for those who are in and in the handshake."""
    return _shared(_limit())[0]


def placesPossible() -> int:
    """
    Tell for how many connections there are files, beside handshakes; at least one.
    """
    return _shared(_limit())[1]


@lru_cache(maxsize=1)  # asked for each connection
def _shared(files: int) -> tuple[int, int]:
    """Share so many files out: those for connections, and of these for who is in."""
    own, turn = min(OWN_FILES, files // 4), min(TURN_FILES, files // 4)
    connections = max(1, files - own - turn)
    handshakes = max(MIN_PENDING, min(MAX_PENDING, files // 8))
    return connections, max(1, connections - handshakes)


def raiseFileLimit() -> None:
    """Let this process have as many files open as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems say more than they allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _limit() -> int:
    """Tell how many files may be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
