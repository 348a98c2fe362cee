"""
The C{aesm} command::

    aesm connect tcp:127.0.0.1:8765     # lines go out, messages come in
    aesm keygen                         # make this user's key
    aesm serve                          # a server, as twistd -n aesm
    aesm --help

Whatever goes wrong is one sentence on standard error, and exit status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import cast

from twisted.python import usage

from aesm.commands.command import Command, CommandOptions, NotUsable
from aesm.commands.control import NotDone
from aesm.commands.coredumps import dumpNoCore
from aesm.commands.output import OutputLost, openStandardFiles, writeError
from aesm.errors import KeyFileError

# A command, its class and what it does.  The class is loaded with the command, so that
# C{aesm status} need not wait for what C{aesm serve} needs.
_COMMANDS = (
    ("connect", "connect.ConnectOptions", "Send lines, and print what comes."),
    ("send", "files.SendOptions", "Send files, to `aesm receive`."),
    ("receive", "files.ReceiveOptions", "Receive files, from `aesm send`."),
    ("chat", "chat.ChatOptions", "Chat, on a server with --handler chat."),
    ("serve", "serve.ServeOptions", "Run a server, as `twistd -n aesm` does."),
    ("keygen", "keys.KeygenOptions", "Make a private key."),
    ("pubkey", "keys.PubkeyOptions", "Print the public key of a private key."),
    ("psk", "keys.PSKOptions", "Make a pre-shared key."),
    ("known", "keys.KnownOptions", "List or forget known servers."),
    ("log", "log.LogOptions", "Ask what a server's activity log says."),
    ("status", "operate.StatusOptions", "Show what goes on in a server."),
    ("kick", "operate.KickOptions", "End a client's connections and sessions."),
    ("authorize", "operate.AuthorizeOptions", "Let a client in."),
    ("revoke", "operate.RevokeOptions", "Let a client in no more."),
    ("reload", "operate.ReloadOptions", "Have a server read its files again."),
    ("drain", "operate.DrainOptions", "End a server, clients first."),
    ("cluster", "cluster.ClusterOptions", "Show or drain the nodes of a cluster."),
    ("bench", "bench.BenchOptions", "Measure what aesm does on this machine."),
)


def _load(home: str) -> Command:
    """Make a subcommand from its module and class, and load what it needs."""
    module, name = home.split(".")
    made = getattr(import_module(f"aesm.commands.{module}"), name)()
    return cast(Command, made)


class Options(CommandOptions):
    """C{aesm} itself."""

    synopsis = "Usage: aesm"
    longdesc = (
        "Encrypted messages between two programs.  See `aesm COMMAND --help`.  If a "
        "command crashes no core is dumped, unless the environment has "
        "AESM_CORE_DUMPS=1."
    )
    subCommands = [
        [name, None, partial(_load, home), does] for name, home, does in _COMMANDS
    ]

    def postOptions(self) -> None:
        """Insist on a command."""
        if self.subCommand is None:
            raise usage.UsageError("name a command")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, by the process's arguments unless others are given."""
    openStandardFiles()
    dumpNoCore()
    options = Options()
    try:
        options.parseOptions(sys.argv[1:] if arguments is None else list(arguments))
        return cast(Command, options.subOptions).run()
    except (KeyFileError, NotDone, NotUsable, OutputLost) as error:
        writeError(str(error))
    except usage.UsageError as error:
        command = f"aesm {options.subCommand}" if options.subCommand else "aesm"
        said = str(error).rstrip(".").replace("\n", " ")  # Twisted's have two lines
        writeError(f"{said} (see `{command} --help`)")
        wrong = getattr(options, "subOptions", options)
        return cast(CommandOptions, wrong).wrongUsage
    return 1
