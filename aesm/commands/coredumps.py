"""
No core dumps of a process that has keys and messages.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress

CORE_DUMPS = "AESM_CORE_DUMPS"  # in the environment: 1 has them stay as they are
PR_SET_DUMPABLE = 4  # of <linux/prctl.h>


def dumpNoCore() -> None:
    """
    See to it that no core is dumped of this process if it crashes, since keys and
    messages would be in it; unless the environment has C{AESM_CORE_DUMPS=1}.

    What cannot be had is done without.

    @see: core(5), PR_SET_DUMPABLE(2const)
    """
    if os.environ.get(CORE_DUMPS) == "1":
        return
    # The hard limit stays: programs that we start may want theirs back.
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    # A core that goes to a program, as to systemd-coredump or apport, heeds no limit.
    # Programs that we start are not concerned: exec(2) sets this anew.
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            from ctypes import CDLL, c_ulong

            none = c_ulong(0)
            CDLL(None).prctl(PR_SET_DUMPABLE, none, none, none, none)
