"""
Tests for L{aesm.commands.coredumps}.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import aesm
from aesm.commands.coredumps import dumpNoCore

PREPARE = """
import ctypes, json, os, resource, subprocess, sys
from aesm.commands.coredumps import dumpNoCore

hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

def state():
    dumpable = ctypes.CDLL(None).prctl(3) if sys.platform == "linux" else 0
    return resource.getrlimit(resource.RLIMIT_CORE), dumpable
"""
STATE = (
    PREPARE
    + """
before = state()
dumpNoCore()
raised = "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))"
code = sys.argv[1] + raised + "; print(json.dumps(state()))"
child = subprocess.check_output([sys.executable, "-c", code])
print(json.dumps([before, state(), json.loads(child)]))
"""
)
CRASH = PREPARE + "dumpNoCore(); os.abort()"


class CoreDumpTests(SynchronousTestCase):
    """C{dumpNoCore} keeps keys and messages off the disk."""

    def run_(self, program: str, setting: str) -> subprocess.CompletedProcess[bytes]:
        """
        Run a program of Python in a process and a folder of its own.

        @param setting: C{AESM_CORE_DUMPS} in its environment.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        self.folder = folder
        source = str(Path(aesm.__file__).parents[1])
        return subprocess.run(
            [sys.executable, "-c", program, PREPARE],
            env={**os.environ, "PYTHONPATH": source, "AESM_CORE_DUMPS": setting},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def states(self, setting: str) -> Any:
        """Tell what is the case before, after, and in a program that it starts."""
        return json.loads(self.run_(STATE, setting).stdout)

    def test_none(self) -> None:
        """
        The soft limit is 0, the hard one stays; on Linux the process cannot be dumped
        otherwise, either.  A program that it starts can have its dumps back.
        """
        for setting in "", "0":
            before, after, child = self.states(setting)
            (soft, hard), dumpable = before
            self.assertEqual((soft, dumpable), (hard, int(sys.platform == "linux")))
            self.assertEqual(after, [[0, hard], 0])
            self.assertEqual(child, before)

    def test_wanted(self) -> None:
        """With C{AESM_CORE_DUMPS=1} all stays as it is."""
        before, after, child = self.states("1")
        self.assertEqual(after, before)
        self.assertEqual(child, before)

    def test_command(self) -> None:
        """C{aesm} does this before it has any key."""
        program = PREPARE + (
            "from aesm.commands.cli import main\n"
            "main(['psk', 'file']); print(json.dumps(state()))"
        )
        (soft, _), dumpable = json.loads(self.run_(program, "").stdout)
        self.assertEqual((soft, dumpable), (0, 0))

    def test_crash(self) -> None:
        """A process that crashes leaves nothing behind."""
        crashed = self.run_(CRASH, "")
        self.assertLess(crashed.returncode, 0)
        self.assertEqual(os.listdir(self.folder), [])

    def test_cannot(self) -> None:
        """What the system does not let us have is no error."""

        def refuse(*arguments: object) -> None:
            raise ValueError("not allowed to raise maximum limit")

        self.patch(os, "environ", {})
        self.patch(resource, "setrlimit", refuse)
        self.patch(sys, "platform", "other")
        dumpNoCore()
