"""
A display for windows: an X server that shows them to nobody, where one is installed::

    with mock.patch.dict(os.environ, DISPLAY=display()):
        ...                     # windows of this process
    name, process = startDisplay()
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

__all__ = ["XVFB", "display", "startDisplay"]

XVFB = shutil.which("Xvfb")


@cache
def display() -> str:
    """
    Start a display, the same one for all tests of this process.

    It ends with its last client.  Tk is one until the process ends, and would end the
    process if its display went before.

    @return: what C{DISPLAY} is to be.
    """
    return startDisplay("-terminate")[0]


def startDisplay(*options: str) -> tuple[str, subprocess.Popen[bytes]]:
    """
    Start a display.

    @return: what C{DISPLAY} is to be, and who is to be ended.
    """
    assert XVFB is not None
    ours, theirs = os.pipe()
    screen = ("-screen", "0", "1280x800x24", "-nolisten", "tcp")
    process = subprocess.Popen(
        [XVFB, "-displayfd", str(theirs), *options, *screen],
        pass_fds=[theirs],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # not ended by Ctrl-C, before us
    )
    os.close(theirs)
    with os.fdopen(ours) as said:  # which it says once it is there
        return f":{said.readline().strip()}", process
