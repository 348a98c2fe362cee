"""
What the subcommands of C{aesm} that talk to somebody have in common.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any

from twisted.python import usage

from aesm.commands.command import Command, parameter
from aesm.commands.main import CoroutineRunner, observing
from aesm.commands.options import NAME_OPTION, ownKey
from aesm.interfaces import ITrustPolicy
from aesm.trust.keys import PublicKey
from aesm.trust.servers import AnyServer, Pinned


class ClientCommand(Command):
    """
    A subcommand that connects to a server.

    @ivar endpoint: the server's.
    @ivar pins: the public keys that it may have; none for what is known.
    """

    synopsis = "ENDPOINT [options]"
    optParameters = [
        NAME_OPTION,
        parameter("key", "File of our key, as keygen makes it."),
        parameter("psk", "File of the pre-shared key that the server has too."),
    ]
    optFlags = [
        ["any-server", None, "Do not check who the server is: for tests only."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.pins: list[PublicKey] = []
        self.endpoint = ""

    def opt_pin(self, key: str) -> None:
        """Accept a server with this public key only; may be given several times."""
        try:
            self.pins.append(PublicKey.fromText(key.strip()))
        except ValueError as error:
            raise usage.UsageError(f"--pin: {error}") from None

    def parseArgs(self, endpoint: str) -> None:  # type: ignore[override]
        """Take the endpoint."""
        self.endpoint = endpoint

    def postOptions(self) -> None:
        """Check the options."""
        if self.pins and self["any-server"]:
            raise usage.UsageError("--pin and --any-server: give one of them")
        self["name"] = utf8("name", self["name"])

    def clientOptions(self) -> dict[str, Any]:
        """Make what L{connect<aesm.client.connect.connect>} takes."""
        trust: ITrustPolicy | None = AnyServer() if self["any-server"] else None
        return {
            "name": self["name"],
            "key": ownKey(self["key"]),
            "psk": self["psk"],
            "trust": Pinned(*self.pins) if self.pins else trust,
        }

    def run(self) -> int:
        """Run the client in a reactor of its own, and return the exit status."""
        from twisted.internet import reactor

        with observing():
            options = self.clientOptions()
        runner = CoroutineRunner(reactor)
        return runner.run(lambda: self.runClient(reactor, options))

    def runClient(
        self, reactor: Any, options: dict[str, Any]
    ) -> Coroutine[Any, Any, int]:
        """Make the coroutine that is the client, and gives the exit status."""
        raise NotImplementedError


def utf8(option: str, text: str) -> str:
    """Read an option's text as UTF-8, whatever the locale is."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        raise usage.UsageError(f"--{option}: give text in UTF-8") from None
