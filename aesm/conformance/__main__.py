"""
Whether an implementation of AESM/1 does what docs/protocol.md says: a server, which is
to echo::

    python -m aesm.conformance tcp:host=127.0.0.1:port=8765

or a client, which is to connect again and again, and to echo::

    python -m aesm.conformance --listen tcp:0:interface=127.0.0.1
    python -m aesm.conformance --listen tcp:0:interface=127.0.0.1 -- \\
        python -m aesm.conformance.echo {host} {port} {key}

docs/conformance.md has more.  The exit status is 0 if all that must be so is so, 1 if
not, and 2 if there is nobody to talk with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import react
from twisted.python import usage
from twisted.python.failure import Failure

from aesm.commands.command import Command
from aesm.conformance.case import CLIENT, SERVER, Check, Subject
from aesm.conformance.runner import (
    FAIL,
    NOT_APPLICABLE,
    PASS,
    WARN,
    Outcome,
    chosen,
    probe,
    run,
    summary,
)
from aesm.conformance.wire import Unmet
from aesm.errors import AESMError
from aesm.noise import KeyPair
from aesm.secure.hosts import clientEndpoint
from aesm.trust.keys import PSK, PrivateKey, PublicKey

OK, BROKEN, UNUSABLE = 0, 1, 2  # exit statuses
UNTIL_KILLED = 5.0  # seconds for a client to end when it is told to
AGAIN = 0.1  # seconds until a client that has ended is started again
ROW = "{:<4}  {:<6}  {:<34}  {}"


class Options(Command):
    """What can be typed."""

    synopsis = (
        "python -m aesm.conformance [options] ENDPOINT\n"
        "       python -m aesm.conformance [options] --listen ENDPOINT "
        "[-- COMMAND {host} {port} {key}]"
    )
    optFlags = [
        ["json", None, "Print one JSON object for each check, and one for all."],
        ["list", None, "Print the checks, and do nothing."],
    ]
    optParameters = [
        ["listen", None, None, "Test a client: listen on this Twisted endpoint."],
        ["server-key", None, None, "The public key that the server must prove."],
        ["identity", None, None, "File of our key. [default: new ones]"],
        ["psk", None, None, "File of a pre-shared key."],
        ["name", None, "aesm", "Name of the application."],
        ["patience", None, 1.0, "What all times are multiplied by.", float],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["only"] = []
        self.arguments: tuple[str, ...] = ()
        self.key: bytes | None = None
        self.identity: KeyPair | None = None
        self.psk: bytes | None = None

    def opt_only(self, glob: str) -> None:
        """Do those checks only whose name is so; may be given several times."""
        self["only"].append(glob)

    def parseArgs(self, *arguments: str) -> None:
        """Take an endpoint, or a command."""
        self.arguments = arguments

    def postOptions(self) -> None:
        """Read what the options name."""
        if not self["list"] and self["listen"] is None and len(self.arguments) != 1:
            raise usage.UsageError("name the server's endpoint, or --listen")
        if not self["patience"] > 0:
            raise usage.UsageError("--patience must be above 0")
        try:
            if self["server-key"] is not None:
                self.key = PublicKey.fromText(self["server-key"]).raw
            if self["identity"] is not None:
                self.identity = KeyPair.fromBytes(PrivateKey.load(self["identity"]).raw)
            if self["psk"] is not None:
                self.psk = PSK.load(self["psk"])
        except (AESMError, ValueError) as error:
            raise usage.UsageError(str(error)) from None

    @property
    def role(self) -> str:
        """Whom to test."""
        return SERVER if self["listen"] is None else CLIENT


class Program(ProcessProtocol):
    """A client under test: started again whenever it has ended, until it is stopped."""

    def __init__(self, reactor: Any, command: Sequence[str]) -> None:
        """@param command: program and arguments."""
        self._reactor = reactor
        self._command = list(command)
        self._stopped: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None  # to start it again, or kill it

    def start(self) -> None:
        """Start it."""
        # What it prints is for whoever looks on; our own output is a table.
        fds = {0: "w", 1: 2, 2: 2}
        self._reactor.spawnProcess(
            self, self._command[0], self._command, env=os.environ, childFDs=fds
        )

    def processEnded(self, reason: Failure) -> None:
        """It has ended."""
        self._cancel()
        if self._stopped is not None:
            self._stopped.callback(None)
        else:
            self._timer = self._reactor.callLater(AGAIN, self.start)

    def _cancel(self) -> None:
        """Do nothing later."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def stop(self) -> Deferred[None]:
        """Stop it, politely, and after a while not; fires when it has ended."""
        if self._stopped is None:
            self._stopped = Deferred()
            self._cancel()
            if self.transport is None or self.transport.pid is None:
                self._stopped.callback(None)
            else:
                self.transport.signalProcess("TERM")
                self._timer = self._reactor.callLater(
                    UNTIL_KILLED, self.transport.signalProcess, "KILL"
                )
        return self._stopped


def printRows(rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Print rows of the table."""
    for row in rows:
        print(ROW.format(*row), flush=True)


def printList(checks: Iterable[Check]) -> None:
    """Print checks, each with what it says."""
    printRows(
        ("MUST" if check.must else "", check.requirement, check.name, check.says)
        for check in checks
    )


def printOutcome(outcome: Outcome, asJSON: bool) -> None:
    """Print how a check went."""
    if asJSON:
        print(json.dumps(asdict(outcome)), flush=True)
    else:
        row = outcome.verdict, outcome.requirement, outcome.name, outcome.seen
        printRows([row])


async def examine(reactor: Any, options: Options) -> int:
    """Run the checks, print how they went, and return the exit status."""
    listens, endpoint, port = options["listen"], None, None
    try:
        if listens is None:
            endpoint = clientEndpoint(reactor, options.arguments[0])
        else:
            listener = serverFromString(reactor, listens)
    except (TypeError, ValueError) as error:
        print(f"no endpoint: {error}", file=sys.stderr)
        return UNUSABLE
    subject = Subject(
        reactor,
        endpoint,
        key=options.key,
        identity=options.identity,
        psk=options.psk,
        name=options["name"],
        patience=options["patience"],
    )
    program: Program | None = None
    if listens is not None:
        port = await listener.listen(subject.factory)
        program = begin(reactor, subject, port, options.arguments)
    outcomes: list[Outcome] = []
    try:
        await probe(subject)
        async for outcome in run(subject, chosen(options.role, options["only"])):
            outcomes.append(outcome)
            printOutcome(outcome, options["json"])
    except Unmet as error:
        if outcomes:
            raise
        print(f"nobody to talk with: {error}", file=sys.stderr)
        return UNUSABLE
    finally:
        if program is not None:
            await program.stop()
        if port is not None:
            await port.stopListening()
    counts = summary(outcomes)
    if options["json"]:
        print(json.dumps(counts))
    else:
        print(
            f"{len(outcomes)} checks: {counts[PASS]} passed, {counts[FAIL]} failed, "
            f"{counts[WARN]} warnings, {counts[NOT_APPLICABLE]} not applicable"
        )
    return BROKEN if counts[FAIL] else OK


def begin(
    reactor: Any, subject: Subject, port: IListeningPort, command: Sequence[str]
) -> Program | None:
    """Start the client that is to be tested, or say where it is to connect."""
    host = port.getHost()
    key = str(PublicKey(subject.ours.public))
    words = {"key": key, "host": getattr(host, "host", ""), "port": ""}
    words["endpoint"] = f"unix:{getattr(host, 'name', b'').decode()}"
    if hasattr(host, "port"):
        words["port"] = str(host.port)
        words["endpoint"] = f"tcp:{words['host']}:{host.port}"
    if not command:
        print(f"listening: {words['endpoint']}, key {key}", file=sys.stderr, flush=True)
        return None
    program = Program(reactor, [filled(argument, words) for argument in command])
    program.start()
    reactor.addSystemEventTrigger("before", "shutdown", program.stop)  # Ctrl-C
    return program


def filled(argument: str, words: Mapping[str, str]) -> str:
    """Fill in what is named in braces; other braces stay."""
    for name, word in words.items():
        argument = argument.replace(f"{{{name}}}", word)
    return argument


def main(arguments: Sequence[str]) -> None:
    """Do what the command line says, and exit."""
    options = Options()
    try:
        options.parseOptions(list(arguments))
    except usage.UsageError as error:
        print(f"{error}; see --help", file=sys.stderr)
        sys.exit(UNUSABLE)
    if options["list"]:
        printList(chosen(options.role, options["only"]))
        return

    async def status(reactor: Any) -> None:
        sys.exit(await examine(reactor, options))

    react(lambda reactor: Deferred.fromCoroutine(status(reactor)))


if __name__ == "__main__":
    main(sys.argv[1:])
