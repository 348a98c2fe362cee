"""
The C{aesm} command, as far as it needs no server.
"""

from __future__ import annotations

import os
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from aesm._version import FORM, __version__
from aesm.commands.cli import Options, main
from aesm.trust.keys import PrivateKey

KEY = PrivateKey.generate().publicKey


def beHomeless(case: SynchronousTestCase) -> None:
    """
    Be a user that the system does not know, and who is told of no directory.

    @param case: for how long.
    """

    def home() -> Path:
        """
        Look for it.

        @return: never.
        @raise RuntimeError: always.
        """
        raise RuntimeError("Could not determine home directory.")

    case.patch(Path, "home", home)
    for name in ("AESM_HOME", "XDG_STATE_HOME"):
        os.environ.pop(name, None)


class CommandTestCase(SynchronousTestCase):
    """
    Commands in this process, with a state directory of their own.

    @ivar home: the state directory.
    """

    def setUp(self) -> None:
        """Make a state directory, and catch what is said."""
        self.home = Path(self.mktemp()).absolute()
        self.patch(
            os,
            "environ",
            {**os.environ, "AESM_HOME": str(self.home), "AESM_CORE_DUMPS": "1"},
        )

    def execute(self, *arguments: str) -> tuple[int, str, str]:
        """
        Run a command.

        @param arguments: what follows C{aesm}.
        @return: exit status, standard output, standard error.
        """
        output, errors = StringIO(), StringIO()
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", errors)
        try:
            status = main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        return status, output.getvalue(), errors.getvalue()

    def good(self, *arguments: str) -> str:
        """
        Run a command that does what it should.

        @param arguments: what follows C{aesm}.
        @return: what it prints.
        """
        status, output, errors = self.execute(*arguments)
        self.assertEqual((status, errors), (0, ""))
        return output

    def bad(self, *arguments: str) -> str:
        """
        Run a command that fails: with status 1, and one sentence.

        @param arguments: what follows C{aesm}.
        @return: the sentence.
        """
        status, output, errors = self.execute(*arguments)
        self.assertEqual((status, output), (1, ""))
        self.assertRegex(errors, r"\Aaesm: [^\n]+\n\Z")
        return errors


class UsageTests(CommandTestCase):
    """The command explains itself."""

    def test_help(self) -> None:
        """C{--help} lists the commands, and each command its options."""
        commands = [str(name) for name, *_ in Options.subCommands]
        self.assertIn("connect", commands)
        for command in commands:
            self.assertIn(f"    {command} ", self.good("--help"))
            usage = self.good(command, "--help")
            self.assertTrue(usage.startswith(f"Usage: aesm {command} "), usage)

    def test_version(self) -> None:
        """C{--version} is that of aesm, everywhere, and says in which form it runs."""
        version = f"aesm {__version__} ({FORM})\n"
        self.assertEqual(self.good("--version"), version)
        self.assertEqual(self.good("known", "--version"), version)

    def test_wrong(self) -> None:
        """What cannot be parsed is one sentence, and names the help that helps."""
        self.assertIn("`aesm --help`", self.bad())
        self.assertIn("nosuch", self.bad("nosuch"))
        self.assertIn("--nosuch", self.bad("--nosuch"))
        self.assertIn("`aesm known --help`", self.bad("known", "argument"))
        self.assertIn("--nosuch", self.bad("connect", "tcp:h:1", "--nosuch"))

    def test_ownArguments(self) -> None:
        """Without arguments in code they are those of the process."""
        self.patch(sys, "argv", ["aesm", "--version"])
        self.patch(sys, "stdout", StringIO())
        self.assertRaises(SystemExit, main)
