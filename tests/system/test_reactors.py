"""
Whichever reactor a program installs, a server and a client in it understand each
other; and with asyncio's, whichever loop that runs on.

A process has one reactor, so that each has its own here.
"""

from __future__ import annotations

import select
from importlib.util import find_spec

from twisted.trial.unittest import SkipTest

from tests.support.engines import sharedServer
from tests.system.test_commands import ProcessTestCase

# Installs the reactor that it is told, and exchanges messages with itself; then once
# more with an engine, if it is told one.
EXCHANGE = """
import sys
from importlib import import_module
import_module(f"twisted.internet.{sys.argv[1]}").install()

from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import react
from aesm import Pinned, connect, listen
from aesm.plugins import HandlerMaker

echo = HandlerMaker("echo", "", "aesm.handlers.Echo")
LARGE = bytes(range(256)) * (3 << 12)  # more than sockets hold

async def main(reactor):
    for engine in (None, *sys.argv[2:]):
        await exchange(reactor, engine)
    print("done with", type(reactor).__name__)

async def exchange(reactor, engine):
    server = await listen(reactor, "tcp:0:interface=127.0.0.1", handler=echo,
                          maxMessage=len(LARGE), cluster=engine)
    options = {"trust": Pinned(server.publicKey), "maxMessage": len(LARGE)}
    endpoint = f"tcp:127.0.0.1:{server.address[1]}"
    clients = await gatherResults(
        [connect(reactor, endpoint, **options) for _ in range(3)])
    for client in clients:
        messages = ["one", b"two", LARGE, ""]
        sent = gatherResults([client.sendData(message) for message in messages])
        for message in messages:
            assert (await client.retrieved.get()).data == message
        await sent
    await clients[0].close("bye")
    stopped = server.stop()
    for client, code in zip(clients, (1000, 1001, 1001)):
        closed = await client.closed()
        assert closed.code == code, closed
    await stopped
    left = [call for call in reactor.getDelayedCalls() if "aesm" in str(call)]
    assert not left, left
    assert engine or "txredisapi" not in sys.modules

react(lambda reactor: ensureDeferred(main(reactor)))
"""

# Runs Twisted on the loop of the module that it is told, and talks to itself from a
# task of that loop's, where what is awaited are futures.
LOOP = """
import asyncio, sys
from importlib import import_module
loop = import_module(sys.argv[1]).new_event_loop()
from twisted.internet import asyncioreactor
asyncioreactor.install(loop)

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from aesm import ConnectionClosed, Pinned, connect, listen

async def answer(server):  # a coroutine of Twisted's, which awaits Deferreds
    (connection,) = server.connections.values()
    async for packet in connection.retrieved:
        await connection.sendData(packet.data.upper())

async def main(reactor):  # one of asyncio's, which awaits futures
    server = await listen(reactor, "tcp:0:interface=127.0.0.1").asFuture(loop)
    client = await connect(reactor, f"tcp:127.0.0.1:{server.address[1]}",
                           trust=Pinned(server.publicKey)).asFuture(loop)
    answering = Deferred.fromCoroutine(answer(server)).asFuture(loop)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for word in ("one", "two", "three"):
            group.create_task(send(client, word))
    answers = [(await client.retrieved.get().asFuture(loop)).data for _ in range(3)]
    assert answers == ["ONE", "TWO", "THREE"], answers
    waiting = client.retrieved.get().asFuture(loop)
    waiting.cancel()  # takes nothing
    await asyncio.wait([waiting])
    last = client.sendData("four").asFuture(loop)
    assert (await client.retrieved.get().asFuture(loop)).data == "FOUR"
    await last
    await client.close().asFuture(loop)
    await answering
    try:
        await client.sendData("late").asFuture(loop)
    except ConnectionClosed as error:
        assert error.code == 1000
    else:
        raise AssertionError("sent after the end")
    await server.stop().asFuture(loop)
    assert loop is asyncio.get_running_loop()
    print("done with", type(loop).__module__)

async def send(client, word):
    await client.sendData(word).asFuture(loop)

react(lambda reactor: Deferred.fromFuture(loop.create_task(main(reactor))))
"""


class ReactorTestCase(ProcessTestCase):
    """Programs that say what they are done with."""

    def assertDone(self, program: str, done: str, *arguments: str) -> None:
        """
        Run a program, and check that it ends well and says nothing more.

        @param program: its text.
        @param done: what it is done with, as a regular expression.
        @param arguments: what it is told.
        """
        process = self.start("-c", program, *arguments)
        status = process.wait()
        self.assertEqual((status, process.errors), (0, ""), process.said())
        self.assertRegex(process.output, rf"\Adone with {done}\n\Z")


class ReactorTests(ReactorTestCase):
    """
    Messages are exchanged under each reactor of Twisted's for this platform, with
    sessions in an engine, too, if there is any.
    """

    def assertExchanges(self, reactor: str, name: str) -> None:
        """Check that it works under a reactor."""
        try:
            engine = [f"redis+unix://{sharedServer().path}"]
        except SkipTest:
            engine = []
        self.assertDone(EXCHANGE, name, reactor, *engine)

    def test_select(self) -> None:
        """The one that runs everywhere."""
        self.assertExchanges("selectreactor", "SelectReactor")

    def test_asyncio(self) -> None:
        """The one that shares its loop with asyncio."""
        self.assertExchanges("asyncioreactor", "AsyncioSelectorReactor")

    if hasattr(select, "poll"):

        def test_poll(self) -> None:
            """The one with poll(2)."""
            self.assertExchanges("pollreactor", "PollReactor")

    if hasattr(select, "epoll"):

        def test_epoll(self) -> None:
            """The one with epoll(7), Linux's default."""
            self.assertExchanges("epollreactor", "EPollReactor")


class LoopTests(ReactorTestCase):
    """A program of asyncio's awaits our Deferreds as futures."""

    def test_asyncio(self) -> None:
        """On the standard library's loop."""
        self.assertDone(LOOP, r"asyncio\..*", "asyncio")

    if find_spec("uvloop") is not None:  # pragma: no branch

        def test_uvloop(self) -> None:
            """On uvloop's."""
            self.assertDone(LOOP, "uvloop", "uvloop")
