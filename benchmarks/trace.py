"""
How far a message goes through the code: for some operations over real TCP, how many
files of C{aesm} are visited, and how often the next Python function that is called
stands in another file than the one before (a jump)::

    python -m benchmarks.trace
    python -m benchmarks.trace --show resume     # function by function
    python -m benchmarks.trace ../older .        # two source trees, side by side

These are figures for whoever has to follow the code, as its speed is one for users;
both fall if an idea stands in one place.  Only public names of C{aesm} are used, so
that trees of any age can be compared: each is traced in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple, cast

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.task import deferLater, react
from twisted.protocols.portforward import ProxyFactory, ProxyServer
from zope.interface import implementer

import aesm
from aesm import (
    AnyServer,
    ClientService,
    IMessageHandler,
    PrivateKey,
    Server,
    connect,
    listen,
)

OPERATIONS = {  # name: what is traced
    "send": "sendData until the bytes are written to the socket",
    "handle": "bytes read until the handler is called",
    "acknowledge": "bytes read until the acknowledgement is written",
    "connect": "connect, the client's side",
    "resume": "ClientService after a cut until its session goes on, the client's side",
    "sendAll": "sendAll to three until the third has been written to",
    "durable": "sendData with a spool until it is acknowledged, the client's side",
}

PACKAGE = str(Path(aesm.__file__).parent) + os.sep
ANY_PORT = "tcp:0:interface=127.0.0.1"
MARKS = ("send", "recv")  # methods of sockets that are noted
# Twisted calls this whenever it tells the time; nobody has to follow that.
CLOCK = os.path.join(PACKAGE, "secure", "clock.py")
QUIET = 0.1  # seconds in which all that a former operation left to do is done
RETRY = 0.05  # seconds until a client that was cut off connects again
LIMIT = 30.0  # seconds for everything that is waited for


class Step(NamedTuple):
    """
    One call.

    @ivar file: of the function, below the package; C{""} for a mark.
    @ivar function: its name, or the mark: C{"send"} and C{"recv"} of a socket, or
        C{"handler"}.
    """

    file: str
    function: str


_steps: list[Step] = []


def _note(frame: FrameType, event: str, argument: Any) -> None:
    """Record a call, for C{sys.setprofile}."""
    if event == "call":
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and path != CLOCK:
            _steps.append(Step(path[len(PACKAGE) :], frame.f_code.co_name))
    elif (
        event == "c_call"
        and argument.__name__ in MARKS
        and isinstance(argument.__self__, socket.socket)
    ):
        _steps.append(Step("", argument.__name__))


@contextmanager
def _recording() -> Iterator[list[Step]]:
    """
    Record the calls of the block, those of what the event loop does meanwhile too.
    """
    _steps.clear()
    sys.setprofile(_note)
    try:
        yield _steps
    finally:
        sys.setprofile(None)


def between(steps: list[Step], *marks: str) -> list[Step]:
    """
    Cut out what was called between the last two of some marks, which come in this
    order; from the beginning, if there is one mark.
    """
    start = end = 0
    for mark in marks:
        start, end = end, steps.index(Step("", mark), end) + 1
    return steps[start : end - 1]


def figures(steps: list[Step]) -> tuple[int, int]:
    """
    Count.

    @return: files visited, and jumps between them.
    """
    files = [step.file for step in steps if step.file]
    return len(set(files)), sum(one != other for one, other in pairwise(files))


@implementer(IMessageHandler)
class _Handler:
    """Marks that it was called."""

    def connectionAccepted(self, connection: aesm.Connection) -> None:
        """Somebody came."""

    def packetReceived(self, connection: aesm.Connection, packet: aesm.Packet) -> None:
        """Something came."""
        _steps.append(Step("", "handler"))

    def connectionLost(
        self, connection: aesm.Connection, reason: aesm.AESMError
    ) -> None:
        """Somebody is gone."""


class _Cable(ProxyFactory):
    """Forwards connections, until it is cut."""

    noisy = False
    _last: Any = None  # the protocol on the side of the client

    def buildProtocol(self, addr: IAddress | None) -> ProxyServer | None:
        """Forward one more."""
        self._last = super().buildProtocol(addr)
        return cast(ProxyServer, self._last)

    def cut(self) -> None:
        """Cut the last connection off, on both sides."""
        self._last.transport.abortConnection()
        self._last.peer.transport.abortConnection()


def _serve(reactor: Any) -> Deferred[Server]:
    """Start a server with a key and a handler of its own."""
    return listen(reactor, ANY_PORT, handler=_Handler(), key=PrivateKey.generate())


def _stranger() -> dict[str, Any]:
    """Make the options of a client that nobody has seen, and that touches no file."""
    return {"key": PrivateKey.generate(), "trust": AnyServer()}


def _pause(reactor: IReactorTime) -> Deferred[None]:
    """Let what is left to do be done."""
    return deferLater(reactor, QUIET, lambda: None)


async def _traceMessages(reactor: Any, traces: dict[str, list[Step]]) -> None:
    """Trace a message, and one for three, with both sides in this process."""
    server = await _serve(reactor)
    where = f"tcp:127.0.0.1:{server.address[1]}"
    clients = [await connect(reactor, where, **_stranger()) for _ in range(3)]
    await clients[0].sendData("the first also measures the clocks")
    await _pause(reactor)
    with _recording() as steps:
        await clients[0].sendData("hello")
    traces["send"] = between(steps, "send")
    traces["handle"] = between(steps, "send", "recv", "handler")
    begun = steps.index(Step("", "recv"), steps.index(Step("", "send")))
    traces["acknowledge"] = between(steps[begun + 1 :], "send")
    await _pause(reactor)
    with _recording() as steps:
        await server.sendAll("hello, all")
    ends = [number for number, step in enumerate(steps) if step == Step("", "send")]
    traces["sendAll"] = steps[: ends[2]]
    await server.stop()


async def _until(reactor: Any, true: Callable[[], bool]) -> None:
    """
    Wait for a condition, which is looked at unrecorded.

    @raise TimeoutError: it does not become true.
    """
    for _ in range(int(LIMIT / RETRY)):
        former = sys.getprofile()
        sys.setprofile(None)
        done = true()
        sys.setprofile(former)
        if done:
            return
        await deferLater(reactor, RETRY / 5, lambda: None)
    raise TimeoutError("what is traced did not happen")


async def _traceClients(
    reactor: Any, traces: dict[str, list[Step]], port: int, spool: str
) -> None:
    """Trace clients alone, of a server in another process."""
    where = f"tcp:127.0.0.1:{port}"
    (await connect(reactor, where, **_stranger())).abort()  # loads what is loaded late
    await _pause(reactor)
    options = _stranger()
    with _recording() as steps:
        client = await connect(reactor, where, **options)
    traces["connect"] = list(steps)
    client.abort()

    cable = _Cable("127.0.0.1", port)
    listening = reactor.listenTCP(0, cable, interface="127.0.0.1")
    where = f"tcp:127.0.0.1:{listening.getHost().port}"
    service = _service(reactor, where)
    connection = await service.whenConnected()
    await service.sendData("hello")
    await _pause(reactor)
    with _recording() as steps:
        cable.cut()
        await _until(reactor, lambda: not connection.isOpen)
        await _until(reactor, lambda: connection.isOpen)
    traces["resume"] = list(steps)
    await service.stopService()

    service = _service(reactor, where, spool=spool)
    await service.whenConnected()
    await service.sendData("hello")
    await _pause(reactor)
    with _recording() as steps:
        await service.sendData("hello again")
    traces["durable"] = list(steps)
    await service.stopService()


def _service(reactor: Any, where: str, **options: Any) -> ClientService:
    """Start a client that comes back at once."""
    service = ClientService(
        where,
        reactor=reactor,
        retryPolicy=lambda attempt: RETRY,
        **_stranger(),
        **options,
    )
    service.startService()
    return service


async def _trace(reactor: Any) -> None:
    """Trace everything, and print it as JSON."""
    traces: dict[str, list[Step]] = {}
    await _traceMessages(reactor, traces)
    with (
        tempfile.TemporaryDirectory() as folder,
        _python("serve", Path(PACKAGE).parent) as server,
    ):
        try:
            port = int(cast(IO[str], server.stdout).readline())
            spool = os.path.join(folder, "spool")
            await _traceClients(reactor, traces, port, spool)
        finally:
            server.terminate()
    print(json.dumps(traces))


async def _serveAlone(reactor: Any) -> None:
    """Serve, and print the port, until this process is ended."""
    print((await _serve(reactor)).address[1], flush=True)
    await Deferred()


def _python(task: str, tree: Path) -> subprocess.Popen[str]:
    """Run this file on a source tree."""
    command = [sys.executable, "-P", __file__, "--task", task]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def traceTree(tree: Path) -> dict[str, list[Step]]:
    """
    Trace a source tree.

    @param tree: the folder that holds the folder C{aesm}.
    @return: for each of L{OPERATIONS} the calls, in order.
    @raise RuntimeError: that failed; standard error has said why.
    """
    with _python("trace", tree) as process:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{tree} could not be traced")
    found = cast(dict[str, list[list[str]]], json.loads(output))
    return {name: [Step(*step) for step in steps] for name, steps in found.items()}


def table(traces: dict[str, dict[str, list[Step]]]) -> str:
    """
    Lay the figures out.

    @param traces: for each tree, by its name, what L{traceTree} found.
    @return: lines; for each operation and tree the files and the jumps.
    """
    width = max(map(len, OPERATIONS.values()))
    lines = [" " * width + "".join(f"  {name[-16:]:>16}" for name in traces)]
    for operation, words in OPERATIONS.items():
        counts = [figures(found[operation]) for found in traces.values()]
        columns = [f"  {files:8}, {jumps:6}" for files, jumps in counts]
        lines.append(f"{words:{width}}" + "".join(columns))
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, trace, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace")
    parser.add_argument("trees", nargs="*", type=Path, default=[Path(PACKAGE).parent])
    parser.add_argument("--show", choices=OPERATIONS, help="list its calls instead")
    parser.add_argument("--task", choices=["serve", "trace"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task is not None:
        task: Callable[[Any], Awaitable[None]] = (
            _trace if options.task == "trace" else _serveAlone
        )
        react(lambda reactor: ensureDeferred(cast(Any, task(reactor))))
    traces = {str(tree): traceTree(tree) for tree in options.trees}
    if options.show is None:
        print(table(traces))
        return
    for found in traces.values():
        for file, function in found[options.show]:
            print(f"{file or '(socket, handler)':32} {function}")


if __name__ == "__main__":
    main()
