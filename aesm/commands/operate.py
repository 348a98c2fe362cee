"""
What an operator does to a server that runs, through its control socket::

    aesm status --watch
    aesm kick alice --reason "too loud"

One request each, by a socket that waits: there is no reactor in these commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.python import usage

from aesm.commands.command import Command, parameter
from aesm.commands.control import CONTROL_FILE, NotDone, ask
from aesm.commands.output import writeLine
from aesm.commands.watch import showOnce, watch
from aesm.trust.files import expanded, stateDirectory

LISTED = 100  # connections, unless there is less room, or more are asked for


class _Operation(Command):
    """A subcommand that asks a server."""

    wrongUsage = 2
    optParameters = [
        parameter(
            "control",
            "The server's control socket, as it was started with. [default: "
            f"{CONTROL_FILE} in the state directory]",
        ),
    ]

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Ask the server; fields that are None are not sent."""
        given = {name: value for name, value in fields.items() if value is not None}
        answer = ask(self._path(), {"command": command, **given})
        if answer.get("ok") is not True:
            raise NotDone(str(answer.get("error", "the server's answer says nothing")))
        return answer

    def _path(self) -> Path:
        """Say where the control socket is."""
        given = self["control"]
        return stateDirectory() / CONTROL_FILE if given is None else expanded(given)


class StatusOptions(_Operation):
    """C{aesm status}."""

    synopsis = "[NAME|KEY|ADDRESS] [options]"
    longdesc = (
        "Shows who is connected to the server of this machine, and how much waits for "
        "whom: first those whose oldest message has waited longest for its "
        f"acknowledgement, and as many as the terminal has lines, or {LISTED}. With "
        "--json it is one object."
    )
    optFlags = [
        ["json", None, "Write JSON, one object a line."],
        ["all", None, "Show all connections, however many there are."],
        ["watch", None, "Show it again every two seconds, until Ctrl-C."],
    ]

    def parseArgs(self, who: str | None = None) -> None:
        """Take whom to show, by name, key or address; all, if nobody is named."""
        self.who = who

    def run(self) -> int:
        """Show what goes on."""
        show = watch if self["watch"] else showOnce
        return show(self._status, bool(self["json"]))

    def _status(self, most: int | None) -> dict[str, Any]:
        """Ask what goes on, for as many connections as there is room for."""
        # All of thousands takes the server a second of its time.
        wanted = None if self.who or self["all"] else LISTED if most is None else most
        return self.ask("status", who=self.who, most=wanted)


class KickOptions(_Operation):
    """C{aesm kick}."""

    synopsis = "NAME|KEY|ADDRESS [options]"
    longdesc = (
        "Ends the connections of a client, and its sessions. It may come back: "
        "`aesm revoke` keeps it out."
    )
    optParameters = [parameter("reason", "Words for the client and the log.", "")]

    def parseArgs(self, who: str) -> None:  # type: ignore[override]
        """Take whom."""
        self.who = who

    def run(self) -> int:
        """End connections."""
        answer = self.ask("kick", who=self.who, reason=self["reason"])
        writeLine(f"ended connections: {answer['connections']}")
        return 0


class AuthorizeOptions(_Operation):
    """C{aesm authorize}."""

    synopsis = "KEY NAME [options]"
    longdesc = (
        "Adds a client to the server's list of authorized keys, which counts at once. "
        "`aesm pubkey`, at the client, prints its KEY."
    )

    def parseArgs(self, key: str, name: str) -> None:  # type: ignore[override]
        """Take key and name."""
        self.key, self.name = key, name

    def run(self) -> int:
        """Add a client."""
        self.ask("authorize", key=self.key, name=self.name)
        writeLine(f"let in: {self.name}")
        return 0


class RevokeOptions(_Operation):
    """C{aesm revoke}."""

    synopsis = "NAME|KEY|ADDRESS [options]"
    longdesc = (
        "Takes the key of a client out of the server's list of authorized keys, all of "
        "them if a name has several, and ends their connections and sessions."
    )

    def parseArgs(self, who: str) -> None:  # type: ignore[override]
        """Take whom."""
        self.who = who

    def run(self) -> int:
        """Take a client out."""
        answer = self.ask("revoke", who=self.who)
        writeLine(
            f"keys taken out: {answer['keys']}; ended connections: "
            f"{answer['connections']}"
        )
        return 0


class ReloadOptions(_Operation):
    """C{aesm reload}."""

    longdesc = (
        "Has the server read its list of authorized keys again and open its activity "
        "log anew, as SIGHUP does; its log says what it has found."
    )

    def run(self) -> int:
        """Have it read again."""
        self.ask("reload")
        return 0


class DrainOptions(_Operation):
    """C{aesm drain}."""

    longdesc = (
        "Ends the server: it lets nobody in any more and tells all who are there to "
        "leave. They come back, to the next server or another one at this address, "
        "each at a moment of its own."
    )
    optParameters = [
        parameter("over", "Seconds within which they come back. [default: 30]")
    ]

    def postOptions(self) -> None:
        """Check that it is a number."""
        try:
            self.over = None if self["over"] is None else float(self["over"])
        except ValueError:
            raise usage.UsageError("--over: give seconds") from None

    def run(self) -> int:
        """End the server."""
        answer = self.ask("drain", over=self.over)
        writeLine(f"told to leave: {answer['connections']}")
        return 0
