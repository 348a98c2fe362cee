"""
Signals that end a command at once: before it heeds them, and once it has heeded one::

    endAtOnce(signal.SIGINT)

While it loads Python would raise C{KeyboardInterrupt} wherever it is, which Twisted's
search for plugins logs and forgets, and other code makes another error of.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def endAtOnce(number: int) -> None:
    """Let a signal end the process, without a word, also the first of a container."""
    # What is process 1 of its namespace has no default: such a signal would be lost.
    signal.signal(number, _end if os.getpid() == 1 else signal.SIG_DFL)


def awaitInterrupt() -> None:
    """Let Ctrl-C raise C{KeyboardInterrupt}, if it would end the process at once."""
    # Twisted's reactor, too, takes over from this handler only.
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, _end):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    """End, with the status that shells have for a signal."""
    os._exit(128 + number)
