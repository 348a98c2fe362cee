"""
The C{aesm} command::

    aesm connect tcp:127.0.0.1:8765     # lines go out, messages come in
    aesm keygen                         # make this user's key
    aesm serve                          # a server, as twistd -n aesm
    aesm --help

Whatever goes wrong is one sentence on standard error, and exit status 1.
"""

from __future__ import annotations

import base64
import math
import shlex
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.application.app import ReactorSelectionMixin
from twisted.logger import globalLogBeginner
from twisted.python import usage

from aesm.commands.bench import bench
from aesm.commands.client import ClientCommand, utf8
from aesm.commands.cluster import ClusterOptions
from aesm.commands.command import Command, CommandOptions
from aesm.commands.connect import runLineClient
from aesm.commands.control import NotDone
from aesm.commands.files import ReceiveOptions, SendOptions
from aesm.commands.formats import JSON, PLAIN
from aesm.commands.log import LogOptions
from aesm.commands.main import (
    OutputLost,
    openStandardFiles,
    writeError,
    writeLine,
)
from aesm.commands.operate import (
    AuthorizeOptions,
    DrainOptions,
    KickOptions,
    ReloadOptions,
    RevokeOptions,
    StatusOptions,
)
from aesm.commands.options import dumpNoCore
from aesm.commands.serve import runServer
from aesm.commands.serverlog import FORMATS, LEVELS, logObserver
from aesm.commands.tap import NotUsable, ServerOptions, makeService
from aesm.errors import KeyFileError
from aesm.server.factory import KEY_FILE
from aesm.text import escape
from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import PSK, PrivateKey
from aesm.trust.picture import picture
from aesm.trust.servers import KnownServers

__all__ = ["Options", "main"]

FOR_EVER = -1.0  # seconds


class ConnectOptions(ClientCommand):
    """C{aesm connect}."""

    longdesc = (
        "Sends each line of standard input as one message, text if it is UTF-8 and "
        "bytes if not, and writes each message received as one line, with the local "
        "time at which it was sent; control characters in it are shown as escapes. "
        "At the end of the input it waits until the server has everything, and ends "
        "with status 0; status 1 says that something was not sent, or that the "
        "connection ended before the input did.  With --wait it goes on receiving "
        "then, for as long as it says; with --receive it reads no input, and ends "
        "with the connection or a signal.  With --json, lines in both "
        'directions are objects: {"data": "TEXT"} or {"base64": "BYTES"}, those '
        'received with a "time" in Unix seconds.  ENDPOINT is a Twisted client '
        "endpoint, such as tcp:127.0.0.1:8765 or unix:/run/aesm.sock."
    )
    optParameters = [
        ["wait", None, "0", "Seconds to receive after the end of the input; -1: ever."],
    ]
    optFlags = [
        ["json", None, "Read and write JSON, one object a line."],
        ["receive", None, "Leave the input alone: print what comes until a signal."],
    ]

    def postOptions(self) -> None:
        """
        Check the options.

        @raise usage.UsageError: one cannot be, or they contradict each other.
        """
        super().postOptions()
        try:
            self.wait = float(self["wait"])
        except ValueError:
            self.wait = math.nan
        if self.wait != FOR_EVER and not 0 <= self.wait < math.inf:
            raise usage.UsageError("--wait: give seconds, or -1 for no end")
        if self["receive"] and self.wait:
            raise usage.UsageError("--receive and --wait: give one of them")

    def runClient(
        self, reactor: Any, options: dict[str, Any]
    ) -> Coroutine[Any, Any, int]:
        """Exchange lines until one side ends."""
        form = JSON if self["json"] else PLAIN
        return runLineClient(
            reactor,
            self.endpoint,
            form,
            receiveOnly=bool(self["receive"]),
            wait=self.wait,
            **options,
        )


class ChatOptions(ClientCommand):
    """C{aesm chat}."""

    longdesc = (
        "Takes part in the chat of a server that runs with --handler chat; /help "
        "lists its commands, /quit or Ctrl-D leaves.  At a terminal there are colours, "
        "and names are completed, if prompt_toolkit is installed (aesm[tools]).  "
        "Else each line of standard input is sent, each line of standard output was "
        "received, and the end of the input leaves, once the server has everything, "
        "with status 0.  The connection is made again when it is lost."
    )
    optParameters = [["nick", None, None, "The name to ask for."]]
    optFlags = [
        ["window", None, "Open a window."],
        ["dark", None, "A dark one, where the desktop does not say so by itself."],
    ]

    def postOptions(self) -> None:
        """Check the options."""
        super().postOptions()
        if self["nick"] is None:
            raise usage.UsageError("give a name: --nick NAME")
        if self["dark"] and not self["window"]:
            raise usage.UsageError("--dark is for --window")
        self["nick"] = utf8("nick", self["nick"])

    def run(self) -> int:
        """Chat until the user leaves, with the reactor that this needs."""
        # Much of it loads slowly.
        from aesm.commands.chat import chooseFace

        self.face = chooseFace(bool(self["window"]), bool(self["dark"]))
        return super().run()

    def runClient(
        self, reactor: Any, options: dict[str, Any]
    ) -> Coroutine[Any, Any, int]:
        """Chat until the user leaves."""
        from aesm.commands.chat import runChat

        return runChat(reactor, self.face, self.endpoint, self["nick"], **options)


class ServeOptions(Command, ServerOptions, ReactorSelectionMixin):
    """C{aesm serve}."""

    wrongUsage = 2  # so that it is not started again and again
    optParameters = [
        ["log-level", None, "info", f"What to log at least: {', '.join(LEVELS)}."],
        [
            "log-format",
            None,
            "text",
            "How to log, on standard error; text: lines for people, json: an object "
            "a line.",
        ],
    ]

    def postOptions(self) -> None:
        """
        Check the options, and make of them what the service needs.

        @raise usage.UsageError: one is wrong; says which, and what would be right.
        """
        for option, values in (("log-level", LEVELS), ("log-format", FORMATS)):
            if self[option] not in values:
                raise usage.UsageError(
                    f"--{option} must be one of {', '.join(values)}, "
                    f"not {self[option]!r}"
                )
        super().postOptions()

    def run(self) -> int:
        """
        Run the server until it is stopped.

        @return: the exit status.
        """
        from twisted.internet import reactor

        service = makeService(self)
        observer = logObserver(self["log-level"], self["log-format"])
        globalLogBeginner.beginLoggingTo([observer])
        return runServer(reactor, service)


class KeygenOptions(Command):
    """C{aesm keygen}."""

    synopsis = "[FILE] [--next]"
    optFlags = [
        ["next", None, "Make the key that a server will have after FILE's: FILE.next."]
    ]
    longdesc = (
        "Makes a private key in a new file that only you can read, and prints its "
        "public key.  Without FILE it makes the key that `aesm connect` uses (with "
        "--next, the next one of `twistd aesm`), in the "
        "state directory ($AESM_HOME, else $XDG_STATE_HOME/aesm, else "
        "~/.local/state/aesm)."
    )

    def parseArgs(self, file: str | None = None) -> None:
        """
        Take the file.

        @param file: its path; None for this user's key, or with C{--next} for
            the server's.
        """
        self.file = file

    def run(self) -> int:
        """Make a key."""
        path = _keyFile(self.file)
        if self["next"]:
            present = stateDirectory() / KEY_FILE if self.file is None else path
            path = present.with_name(f"{present.name}.next")
        key = PrivateKey.generate()
        key.save(path)
        writeLine(str(key.publicKey))
        writeError(f"made a new private key in {path}")
        if self["next"]:
            writeError(
                "a server announces this key to its clients from its next start on; "
                "when they have met it, stop the server, `mv "
                f"{shlex.quote(str(path))} {shlex.quote(str(present))}`, and start it"
            )
        return 0


class PubkeyOptions(Command):
    """C{aesm pubkey}."""

    synopsis = "[FILE] [--picture]"
    optFlags = [["picture", None, "Draw it as well, as `aesm send` does."]]
    longdesc = (
        "Prints the public key of the private key in FILE; without FILE, of the one "
        "that `aesm connect` uses."
    )

    def parseArgs(self, file: str | None = None) -> None:
        """
        Take the file.

        @param file: its path; None for this user's key.
        """
        self.file = _keyFile(file)

    def run(self) -> int:
        """Print a public key."""
        publicKey = PrivateKey.load(self.file).publicKey
        writeLine(str(publicKey))
        if self["picture"]:
            for line in picture(publicKey, "aesm"):
                writeLine(line)
        return 0


class PSKOptions(Command):
    """C{aesm psk}."""

    synopsis = "[FILE]"
    longdesc = (
        "Makes a pre-shared key in a new file that only you can read, to be copied "
        "to all members of a group.  Without FILE it prints the key, which is a "
        "secret."
    )

    def parseArgs(self, file: str | None = None) -> None:
        """
        Take the file.

        @param file: its path; None to print the key.
        """
        self.file = file

    def run(self) -> int:
        """Make a pre-shared key."""
        psk = PSK.generate()
        if self.file is None:
            writeLine(base64.b64encode(psk).decode("ascii"))
        else:
            psk.save(self.file)
            writeError(f"made a new pre-shared key in {self.file}")
        return 0


class KnownOptions(Command):
    """C{aesm known}."""

    synopsis = "[--forget HOST:PORT]"
    longdesc = "Lists the servers that are known, and the key that each must have."
    optParameters = [
        ["forget", None, None, "Forget the keys of this server instead."],
    ]

    def run(self) -> int:
        """List known servers, or forget one."""
        known = KnownServers()
        location = self["forget"]
        if location is None:
            for entry, publicKey in known.entries():
                writeLine(f"{escape(entry)} {publicKey}")
        elif not known.forget(location):
            writeError(
                f"{known.path} has no {location}; `aesm known` lists what it has"
            )
            return 1
        return 0


class BenchOptions(Command):
    """C{aesm bench}."""

    longdesc = (
        "Measures what aesm does on this machine, between two processes over loopback: "
        "medians of three rounds, with mutual authentication, hybrid handshakes and "
        "acknowledgements.  It takes some seconds."
    )

    def run(self) -> int:
        """Measure."""
        return bench()


class Options(CommandOptions):
    """C{aesm} itself."""

    synopsis = "Usage: aesm"
    longdesc = (
        "Encrypted messages between two programs.  See `aesm COMMAND --help`.  If a "
        "command crashes no core is dumped, unless the environment has "
        "AESM_CORE_DUMPS=1."
    )
    subCommands = [
        ["connect", None, ConnectOptions, "Send lines, and print what comes."],
        ["send", None, SendOptions, "Send files, to `aesm receive`."],
        ["receive", None, ReceiveOptions, "Receive files, from `aesm send`."],
        ["chat", None, ChatOptions, "Chat, on a server with --handler chat."],
        ["serve", None, ServeOptions, "Run a server, as `twistd -n aesm` does."],
        ["keygen", None, KeygenOptions, "Make a private key."],
        ["pubkey", None, PubkeyOptions, "Print the public key of a private key."],
        ["psk", None, PSKOptions, "Make a pre-shared key."],
        ["known", None, KnownOptions, "List or forget known servers."],
        ["log", None, LogOptions, "Ask what a server's activity log says."],
        ["status", None, StatusOptions, "Show what goes on in a server."],
        ["kick", None, KickOptions, "End a client's connections and sessions."],
        ["authorize", None, AuthorizeOptions, "Let a client in."],
        ["revoke", None, RevokeOptions, "Let a client in no more."],
        ["reload", None, ReloadOptions, "Have a server read its files again."],
        ["drain", None, DrainOptions, "End a server, clients first."],
        ["cluster", None, ClusterOptions, "Show or drain the nodes of a cluster."],
        ["bench", None, BenchOptions, "Measure what aesm does on this machine."],
    ]

    def postOptions(self) -> None:
        """Insist on a command."""
        if self.subCommand is None:
            raise usage.UsageError("name a command")


def _keyFile(file: str | None) -> Path:
    """
    Say where a private key is.

    @param file: what the user says; None for the key of C{aesm connect}.
    """
    return stateDirectory() / "client.key" if file is None else expanded(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    @param arguments: what follows C{aesm}; None for the process's own.
    """
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
