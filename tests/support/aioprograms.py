"""
Programs of asyncio's that use L{aesm.aio}, each run as a process of its own by
L{tests.aio.test_programs}::

    python aioprograms.py LOOP NAME [ARGUMENT...]

where LOOP is C{asyncio} or C{uvloop}.  Each prints what it found out; what it could not
is an error, and so is whatever asyncio or Python have to report.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

from twisted.internet import tcp

from aesm import ClientNetwork, ConnectionClosed, ServerNetwork, aio
from aesm.blocking.standardlog import standardLog

LONG = 600.0  # seconds; more than any machine needs
LISTEN = "tcp:0:interface=127.0.0.1"


async def echo(connection: aio.Connection) -> None:
    """Send back what comes."""
    async for packet in connection:
        assert packet.data is not None
        await connection.send(packet.data)


def endpointOf(server: aio.Server) -> str:
    """Say where to connect to, however long that takes."""
    return f"tcp:127.0.0.1:{server.address[1]}:timeout={LONG:.0f}"


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a new loop of the kind that was asked for."""
    factory: Callable[[], asyncio.AbstractEventLoop]
    factory = import_module(sys.argv[1]).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def _talk() -> None:
    """Exchange messages, cancel and time out, in a few ways."""
    async with (
        asyncio.timeout(LONG),
        aio.serve(echo, LISTEN) as server,
        aio.connect(endpointOf(server)) as client,
    ):
        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(client.send(str(number)))
        for number in range(1000):
            packet = await client.get()
            assert packet.data == str(number), packet
        for wait in (0, 0.001):
            try:
                async with asyncio.timeout(wait):
                    await client.get()
            except TimeoutError:
                continue
            raise AssertionError("there was nothing to get")
        waiting = asyncio.create_task(client.get())
        await asyncio.sleep(0)
        waiting.cancel()
        await client.send("kept")
        assert (await client.get()).data == "kept"
        large = os.urandom(1 << 20)
        await client.send(large)
        assert (await client.get()).data == large


def talk() -> None:
    """Exchange messages, in several loops one after another."""
    for _ in range(3):
        run(_talk())
    print("exchanged")


async def _many(count: int) -> None:
    """Connect many clients at once, each of which is answered."""
    options: Any = {"handshakeTimeout": LONG, "handshakesPerHost": 1e6}
    options["maxConnectionsPerHost"] = count
    async with aio.serve(echo, LISTEN, maxConnections=count, **options) as server:

        async def one(number: int) -> None:
            """Be one of them."""
            async with aio.connect(endpointOf(server), handshakeTimeout=LONG) as client:
                await client.send(str(number))
                assert (await client.get()).data == str(number)
                arrived.append(number)
                if len(arrived) == count:
                    full.set()
                await full.wait()

        arrived: list[int] = []
        full = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
        while server.connections:
            await asyncio.sleep(0)


def many(count: str) -> None:
    """Have many clients in one process, which has as few files open afterwards."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run(_many(2))  # what is loaded with the first
    before = len(os.listdir("/dev/fd"))
    run(_many(int(count)))
    after = len(os.listdir("/dev/fd"))
    assert after <= before, (before, after)
    print("all answered")


def threads() -> None:
    """Run loops in several threads at once, beside the blocking face."""
    with (
        ServerNetwork("127.0.0.1", 0) as network,
        ClientNetwork("127.0.0.1", network.address[1]) as client,
        ThreadPoolExecutor(4) as pool,
    ):

        async def ask() -> None:
            """Talk to the blocking server, too."""
            await _talk()
            async with aio.connect(f"127.0.0.1:{network.address[1]}") as other:
                await other.send("from a loop")

        for done in [pool.submit(run, ask()) for _ in range(4)]:
            done.result(LONG)
        client.sendData("from no loop").result(LONG)
        came = []
        while (found := network.connections.getDataOrdinal())[0] is not None:
            came.append(found[1].data)
        assert sorted(map(str, came)) == ["from a loop"] * 4 + ["from no loop"], came
    print("each its own")


def one() -> None:
    """Have a client in a loop, which has no connection open afterwards."""
    gc.disable()  # it would close what is garbage

    async def ask() -> None:
        """Send one message."""
        async with aio.connect(f"127.0.0.1:{network.address[1]}") as client:
            await client.send("from a loop")

    with ServerNetwork("127.0.0.1", 0) as network:
        run(ask())
        network.get(LONG)
        objects = gc.get_objects()
        left = [each for each in objects if isinstance(each, tcp.Client)]
        assert not any(each.connected for each in left), left
    print("none left")


async def _serve() -> None:
    """Serve until Ctrl-C, and say what comes."""

    async def talk(connection: aio.Connection) -> None:
        """Take all."""
        await connection.send("hello")
        try:
            async for packet in connection:
                print(packet.data, flush=True)
            print("left with", connection.address[0], flush=True)
        except ConnectionClosed as reason:
            print("cut off", reason.code, flush=True)

    async with aio.serve(talk, LISTEN) as server:
        print(endpointOf(server), flush=True)
        await asyncio.Event().wait()


def serve() -> None:
    """Serve until Ctrl-C."""
    try:
        run(_serve())
    except KeyboardInterrupt:
        print("interrupted")


async def _client(endpoint: str) -> None:
    """Wait for what never comes."""
    async with aio.connect(endpoint) as client:
        await client.get()
        print("connected", flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.get())
            group.create_task(client.closed())


def client(endpoint: str) -> None:
    """Be a client until Ctrl-C."""
    try:
        run(_client(endpoint))
    except KeyboardInterrupt:
        print("interrupted")


async def _forgetful(endpoint: str) -> None:
    """Leave without closing, and without waiting."""
    client = await aio.connect(endpoint)
    await client.get()
    sending = [asyncio.create_task(client.send(word)) for word in ("one", "two")]
    await asyncio.sleep(0)
    del sending


def forgetful(endpoint: str) -> None:
    """Forget to close: what was sent arrives, and the server is told."""
    run(_forgetful(endpoint))
    print("ended")


def fork() -> None:
    """Fork: the child cannot use what is its parent's, and may open its own."""

    async def main() -> None:
        """Fork in the middle."""
        async with (
            aio.serve(echo, LISTEN) as server,
            aio.connect(endpointOf(server)) as client,
        ):
            await client.send("before")
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads
            child = os.fork()
            if not child:
                await _inChild(client, server)
            waiting = asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode((await waiting)[1]) == 7
            await client.send("after")
            got = [(await client.get()).data for _ in range(2)]
            assert got == ["before", "after"], got

    run(main())
    print("parent unharmed")


async def _inChild(client: aio.Client, server: aio.Server) -> None:
    """Try what a forked child should not do, and what it may; that is logged, too."""
    status = 7
    for work in (client.send("x"), client.get(), server.sendAll("x")):
        try:
            await work
        except RuntimeError:
            continue
        status = 1
    await client.close()
    await server.close()
    heard: SimpleQueue[object] = SimpleQueue()
    logging.getLogger("aesm").addHandler(QueueHandler(heard))
    logging.getLogger("aesm").setLevel(logging.INFO)
    thread = threading.Thread(target=run, args=(_talk(),))  # of its own
    thread.start()
    thread.join(LONG)
    standardLog.flush()
    if thread.is_alive() or heard.empty():
        status = 1
    os._exit(status)


if __name__ == "__main__":
    # Standard error is to be empty, also where a client says that it is cut off.
    logging.getLogger("aesm").addHandler(logging.NullHandler())
    globals()[sys.argv[2]](*sys.argv[3:])
