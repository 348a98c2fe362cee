"""
Whether anybody notices that a server is replaced: clients that send and receive all the
time, while one process takes over from another, again and again::

    python -m benchmarks.restart                            # a thousand, ten times
    python -m benchmarks.restart --clients 100 --times 3
    python -m benchmarks.restart --handler relay --rate 0.02  # all move at once

For each time there is a line: how long clients were without a server, from the moment
at which one is told (1001) or cut to that at which it is in again; how many messages
were acknowledged and came back; and what must be 0: messages that were lost or came
twice, failures that a sender was told of, sessions lost, attempts to connect that
failed.  With C{--kill} one of both processes is killed when the first clients have
moved.  With C{--plain} the server is stopped in order and then started again, as
without C{--upgrade}.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

__all__ = ["BAD", "report", "running"]

WAIT = 300.0  # seconds for anything
PER_HOST = 100  # clients of one address of ours: a server has limits for each
BAD = ("lost", "twice", "told", "sessionsLost", "refused")


class Servers:
    """
    One server after another, with one spool.

    @ivar port: where they listen.
    """

    def __init__(self, directory: Path, handler: str) -> None:
        """@param directory: for spool, key and logs."""
        self._directory = directory
        self._handler = handler
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._running: subprocess.Popen[bytes] | None = None
        self._log = (directory / "log").open("ab")

    def start(self, kill: str = "") -> None:
        """
        Start a server, or the one that takes over from the one that runs.

        @param kill: C{"old"} or C{"new"}, which of both is killed halfway.
        """
        command = [sys.executable, "-m", "twisted", "--log-format=text"]
        command += ["aesm", "--upgrade"]
        command += ["--listen", f"tcp:{self.port}:interface=127.0.0.1"]
        command += ["--handler", self._handler, "--spool", "spool"]
        former, path = self._running, self._directory / "log"
        behind = path.stat().st_size
        self._running = subprocess.Popen(
            command,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "AESM_HOME": str(self._directory)},
        )
        if former is not None and kill:
            while b" back by " not in path.read_bytes()[behind:]:
                time.sleep(0.001)
            if kill == "new":
                former, self._running = self._running, former
            former.kill()
            former.wait()
        elif former is not None:
            status = former.wait(WAIT)
            if status != 0:
                raise RuntimeError(f"the former server ended with {status}")
        self._await()

    def stop(self) -> None:
        """Stop the server."""
        running, self._running = self._running, None
        if running is not None:
            running.send_signal(signal.SIGTERM)
            running.wait(WAIT)

    def _await(self) -> None:
        """Wait until another one could take over."""
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            assert self._running is not None
            if self._running.poll() is not None:
                raise RuntimeError(f"no server; see {self._directory / 'log'}")
            with socket.socket(socket.AF_UNIX) as asking:
                try:
                    # Its path may be longer than that of a socket can be.
                    asking.connect(os.path.relpath(self._directory / "spool.handover"))
                except OSError:
                    time.sleep(0.01)
                else:
                    return
        raise RuntimeError("no server in time")


class Crowd:
    """Clients in a process of their own."""

    def __init__(self, port: int, clients: int, rate: float, handler: str) -> None:
        """Start them, and wait until all are in."""
        words = [str(port), str(clients), str(rate), handler]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.restart", "--crowd", *words],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def back(self) -> dict[str, Any]:
        """Wait until all are in, and tell what was noticed since the last time."""
        return self._ask("back")

    def end(self) -> dict[str, Any]:
        """Wait until all that was sent is there, and tell what was noticed in all."""
        found = self._ask("end")
        self._process.wait(WAIT)
        return found

    def kill(self) -> None:
        """End them."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, what: str) -> dict[str, Any]:
        """Ask the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def _line(self) -> str:
        """Wait for a line of the process."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the clients have ended")
        return line


@contextmanager
def running(clients: int, rate: float, handler: str) -> Iterator[tuple[Servers, Crowd]]:
    """Have a server and its clients, until the block ends."""
    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(Path(directory), handler)
        try:
            servers.start()
            crowd = Crowd(servers.port, clients, rate, handler)
            try:
                yield servers, crowd
            finally:
                crowd.kill()
        finally:
            servers.stop()


def report(found: dict[str, Any], seconds: float) -> str:
    """Lay out what clients have noticed of one time."""
    gaps = sorted(found["gaps"]) or [0.0]
    parts = [
        f"{name} {1000 * gaps[min(len(gaps) - 1, int(part * len(gaps)))]:.0f}"
        for name, part in (("median", 0.5), ("99 %", 0.99), ("longest", 1.0))
    ]
    bad = ", ".join(f"{name} {found[name]}" for name in BAD)
    return (
        f"{len(found['gaps'])} gaps, ms: {', '.join(parts)}; {seconds:.1f} s in all; "
        f"{found['acknowledged']} acknowledged; {bad}"
    )


# The clients' process


def _crowd(port: int, clients: int, rate: float, handler: str) -> None:
    """Be the clients, and answer who asks at standard input."""
    from twisted.internet import reactor as installed
    from twisted.internet.stdio import StandardIO
    from twisted.internet.task import LoopingCall
    from twisted.protocols.basic import LineReceiver
    from zope.interface import implementer

    from aesm import (
        AnyServer,
        ClientService,
        IClientObserver,
        PrivateKey,
        SessionLost,
    )
    from aesm.messages.protocol import AESMProtocol
    from aesm.secure.openfiles import raiseFileLimit

    reactor: Any = installed
    raiseFileLimit()
    # That its connection will end a client knows before anybody is told.
    told: dict[Any, float] = {}
    leave = AESMProtocol._leave

    def leaving(protocol: Any, *arguments: Any) -> None:
        told.setdefault(protocol.connection, reactor.seconds())
        leave(protocol, *arguments)

    cast(Any, AESMProtocol)._leave = leaving  # which a compiled class does not allow
    counts: Counter[str] = Counter()
    gaps: list[float] = []

    @implementer(IClientObserver)
    class Client(ClientService):
        """One of them, which observes itself."""

        number = 0
        wasIn = False
        sent = taken = 0
        since = 0.0

        def __init__(self, endpoint: str, **options: Any) -> None:
            """@param options: as of L{ClientService}."""
            super().__init__(endpoint, observer=self, **options)

        def onConnected(self, connection: Any) -> None:
            """It is in."""
            if self.since:
                gaps.append(reactor.seconds() - self.since)
            self.wasIn, self.since = True, 0.0

        def onWaiting(self, delay: float, reason: BaseException) -> None:
            """It is not in any more, or could not get in."""
            if self.wasIn:
                self.since = told.pop(self.former, reactor.seconds())
            elif self.since:
                counts["refused"] += 1
            self.wasIn = False

        def onStopped(self, reason: Exception) -> None:
            """It will not be in again."""

        def sessionLost(self, connection: Any, reason: SessionLost) -> None:
            """Its session is lost."""
            counts["sessionsLost"] += 1
            super().sessionLost(connection, reason)

        def send(self) -> None:
            """Send the next message."""
            sent = self.sendData(f"{self.number} {self.sent}")
            self.sent += 1
            sent.addCallbacks(self._cbSent, self._ebSent)

        def take(self) -> None:
            """Look at what has come."""
            while (packet := self.retrieved.getData()) is not None:
                sender, number = map(int, str(packet.data).split())
                expected = here.get((self.number, sender), 0)
                counts["came"] += 1
                if number < expected:
                    counts["twice"] += 1
                elif number > expected:
                    counts["lost"] += number - expected
                here[self.number, sender] = max(expected, number + 1)

        def _cbSent(self, nothing: object) -> None:
            counts["acknowledged"] += 1

        def _ebSent(self, failure: Any) -> None:
            counts["told"] += 1
            print(failure.getErrorMessage(), file=sys.stderr)

    here: dict[tuple[int, int], int] = {}  # the next number, by who takes and who sends
    services = []
    for number in range(clients):
        local = f"127.0.1.{1 + number // PER_HOST}"
        service = Client(
            f"tcp:127.0.0.1:{port}:bindAddress={local}",
            key=PrivateKey.generate(),
            trust=AnyServer(),
        )
        service.number = number
        services.append(service)

    others = clients - 1 if handler == "relay" else 1

    def take() -> None:
        for service in services:
            service.take()

    def found() -> dict[str, Any]:
        named = {name: counts[name] for name in (*BAD, "acknowledged", "came")}
        return {"gaps": list(gaps), **named}

    def say(what: object) -> None:
        print(json.dumps(what), flush=True)

    def whenIn(then: Any) -> None:
        if all(service.wasIn for service in services):
            then()
        else:
            reactor.callLater(0.05, whenIn, then)

    def back() -> None:
        say(found())
        gaps.clear()

    def end() -> None:
        sending.stop()
        ended(reactor.seconds() + WAIT)

    def ended(until: float) -> None:
        take()
        sent = sum(service.sent for service in services)
        there = counts["acknowledged"] + counts["told"] >= sent
        missing = sent * others - counts["came"] + counts["twice"]
        if (there and missing <= counts["lost"]) or reactor.seconds() > until:
            counts["lost"] = max(missing, 0)
            say(found())
            reactor.stop()
        else:
            reactor.callLater(0.05, ended, until)

    class Asked(LineReceiver):
        """What the other process wants to know."""

        delimiter = b"\n"

        def lineReceived(self, line: bytes) -> None:
            whenIn({b"back": back, b"end": end}[line])

        def connectionLost(self, reason: object = None) -> None:
            if reactor.running:
                reactor.stop()

    turn = [0.0]

    def send(count: int) -> None:
        # Each in its turn, evenly.
        turn[0] += count * rate * clients * sending.interval
        while turn[0] >= 1:
            turn[0] -= 1
            services[send.next].send()  # type: ignore[attr-defined]
            send.next = (send.next + 1) % clients  # type: ignore[attr-defined]

    send.next = 0  # type: ignore[attr-defined]
    sending: Any = LoopingCall.withCount(send)

    def begin() -> None:
        sending.start(0.01, now=False)
        LoopingCall(take).start(0.1)
        say({})

    for index, service in enumerate(services):
        reactor.callLater(index * 0.004, service.startService)
    whenIn(begin)
    StandardIO(Asked())
    reactor.run()


def main() -> int:
    """Run it from the command line."""
    if sys.argv[1:2] == ["--crowd"]:
        port, clients, rate, handler = sys.argv[2:]
        _crowd(int(port), int(clients), float(rate), handler)
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument(
        "--rate", type=float, default=1.0, help="messages of each client, a second"
    )
    parser.add_argument("--handler", choices=("echo", "relay"), default="echo")
    parser.add_argument("--kill", choices=("old", "new"), default="")
    parser.add_argument("--plain", action="store_true", help="without --upgrade")
    options = parser.parse_args()
    with running(options.clients, options.rate, options.handler) as (servers, crowd):
        print(f"{options.clients} clients are in", flush=True)
        for _ in range(options.times):
            begun = time.monotonic()
            if options.plain:
                servers.stop()
            servers.start(options.kill)
            found = crowd.back()
            print(report(found, time.monotonic() - begun), flush=True)
        found = crowd.end()
    print(f"in all: {found['acknowledged']} acknowledged, {found['came']} came back")
    bad = {name: found[name] for name in BAD if found[name]}
    print(f"not as it should be: {bad}" if bad else "nobody was told of anything")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
