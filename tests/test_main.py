"""
Tests for L{aesm.__main__}: Ctrl-C while the program C{aesm} loads.
"""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from aesm.__main__ import main
from tests.test_imports import runPython


class MainTests(SynchronousTestCase):
    """C{aesm} as shells start it."""

    def test_interrupted(self) -> None:
        """Ctrl-C while anything loads says nothing, and ends as shells expect it."""
        program = """
import sys
class Interrupt:
    def __init__(self, name):
        self.name = name
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise KeyboardInterrupt
from aesm.__main__ import main
sys.argv[1:] = ["pubkey"]
for name in ("aesm.commands", "twisted", "aesm.commands.keys"):
    sys.meta_path.insert(0, Interrupt(name))
    print(main())
    del sys.meta_path[0]
"""
        self.assertEqual(runPython(program), "130\n130\n130")

    def test_runs(self) -> None:
        """Otherwise it is the command, with the arguments of the process."""
        self.patch(sys, "argv", ["aesm", "--version"])
        self.assertRaises(SystemExit, main)
