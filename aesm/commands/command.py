"""
What the subcommands of C{aesm} have in common.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence

from twisted.python import usage

from aesm._version import FORM, __version__
from aesm.commands.output import writeLine


class NotUsable(usage.UsageError):
    """An option is right, but what it names cannot be used, as things are."""


def parameter(name: str, says: str, default: object = None) -> list[object]:
    """Make one of the C{optParameters} of C{usage.Options}."""
    return [name, None, default, says]


class CommandOptions(usage.Options):
    """
    What all options have in common.

    @cvar wrongUsage: the exit status if they are wrong.
    """

    wrongUsage = 1

    def opt_version(self) -> None:
        """Print the version, and whether it is compiled, and exit."""
        writeLine(f"aesm {__version__} ({FORM})")
        sys.exit(0)

    def opt_help(self) -> None:
        """Display this help and exit."""
        writeLine(str(self))
        sys.exit(0)


class Command(CommandOptions):
    """A subcommand: its options, which may also stand behind its arguments."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse, with the options first, as C{usage.Options} needs them."""
        # gnu_getopt, unlike getopt, goes on behind the first argument.
        try:
            given, arguments = getopt.gnu_getopt(
                list(options or ()), self.shortOpt, self.longOpt
            )
        except getopt.error as error:
            raise usage.UsageError(str(error)) from None
        ordered = [
            f"{name}={value}" if f"{name[2:]}=" in self.longOpt else name
            for name, value in given
        ]
        super().parseOptions([*ordered, "--", *arguments])

    def run(self) -> int:
        """Do it, and return the exit status."""
        raise NotImplementedError
