"""
Tests for L{aesm.__main__}: Ctrl-C while the program C{aesm} loads.
"""

from __future__ import annotations

import signal
import sys

from twisted.trial.unittest import SynchronousTestCase

from aesm.__main__ import main
from tests.test_imports import runPython

INTERRUPTED = """
import os, signal, sys
class Interrupt:
    # As what logs or forgets all that is raised, such as Twisted's search for plugins.
    def __init__(self, name):
        self.name = name
    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                print("lost")
from aesm.__main__ import main
sys.argv[1:] = ["pubkey", "nosuch"]
for name in ("twisted", "aesm.commands.keys"):
    sys.meta_path[0:0] = [Interrupt(name)]
    child = os.fork()
    if not child:
        main()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    del sys.meta_path[0]
"""


class MainTests(SynchronousTestCase):
    """C{aesm} as shells start it."""

    def test_interrupted(self) -> None:
        """
        Ctrl-C while anything loads says nothing, and ends it at once, also where the
        exception that Python makes of it would be lost.
        """
        self.assertEqual(runPython(INTERRUPTED).split(), [str(-signal.SIGINT)] * 2)

    def test_interruptedBefore(self) -> None:
        """The same before that is in force; the status is what shells expect."""
        program = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "aesm.commands":
            raise KeyboardInterrupt
from aesm.__main__ import main
sys.meta_path.insert(0, Interrupt())
print(main())
"""
        self.assertEqual(runPython(program), "130")

    def test_runs(self) -> None:
        """
        Otherwise it is the command, with the arguments of the process; signals that it
        was started without, as C{nohup} and shells have it, stay so.
        """
        self.patch(sys, "argv", ["aesm", "--version"])
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
            signal.signal(number, signal.SIG_IGN)
        self.assertRaises(SystemExit, main)
        for number in (signal.SIGINT, signal.SIGTERM):
            self.assertIs(signal.getsignal(number), signal.SIG_IGN)
