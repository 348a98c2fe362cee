"""
Programs that use the blocking face, each run as a process of its own by
L{tests.blocking.test_network}::

    python network_programs.py NAME [ARGUMENT...]

Each prints what it found out; what it could not is an error.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from twisted.python.threadable import isInIOThread
from zope.interface import implementer

from aesm import (
    AESMError,
    ClientNetwork,
    Connection,
    ConnectionClosed,
    HandshakeTimeout,
    IMessageHandler,
    MessageHandler,
    MessageTooBig,
    NameOrKeyMismatch,
    Packet,
    PrivateKey,
    Request,
    RequestFailed,
    RequestTimeout,
    SendBufferFull,
    ServerNetwork,
    stateDirectory,
)
from aesm.blocking.reactorthread import streamLock

LONG = 600.0  # seconds; more than any machine needs
HOST = "127.0.0.1"


def textOf(number: int) -> str:
    """
    Make a message: short and long ones, of more than ASCII.

    @param number: its position.
    @return: it begins with the position; 300 or, now and then, 100,000 characters.
    """
    size = 100_000 if number % 10 == 9 else 300
    return (f"{number} " + "añ∂😀é" * 20_000)[:size]


def until(condition: Callable[[], Any]) -> Any:
    """
    Poll, as only those need to who look and do not take.

    @param condition: asked again and again.
    @return: what it says in the end, which is not false.
    """
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.001)
    raise TimeoutError(f"not within {LONG} seconds: {condition}")


def take(network: ClientNetwork) -> str | bytes | None:
    """Wait for a packet."""
    return network.get(LONG).data


@contextmanager
def raises(*kinds: type[BaseException]) -> Iterator[list[BaseException]]:
    """
    Make sure that a block raises.

    @param kinds: what, and nothing more special.
    @return: a list that has the error afterwards.
    """
    caught: list[BaseException] = []
    try:
        yield caught
    except kinds as error:
        assert type(error) in kinds, repr(error)
        caught.append(error)
    else:
        raise AssertionError(f"nothing was raised, but {kinds} expected")


def cluster(path: str) -> None:
    """
    Have two nodes with one engine.

    @param path: its socket.
    """
    with ServerNetwork(HOST, 0) as alone, raises(RuntimeError):
        print(alone.cluster)
    bob, options = PrivateKey.generate(), {"cluster": f"redis+unix://{path}"}
    with (
        ServerNetwork(HOST, 0, node="one", **options) as one,
        ServerNetwork(HOST, 0, node="two", **options) as two,
        ClientNetwork(*two.address, key=bob) as client,
    ):
        assert one.cluster.sendTo("to Bob", bob.publicKey).result(LONG) == 1
        assert one.cluster.sendAll(bytearray(b"to all")).result(LONG) == 1
        assert {take(client), take(client)} == {"to Bob", b"to all"}
        for rows in (one.cluster.byPeer(bob.publicKey), two.cluster.connections()):
            (row,) = rows.result(LONG)
            assert (row.peer, row.node[:4]) == (bob.publicKey, "two-"), row
        with raises(TimeoutError):
            one.cluster.getDataOrdinal(0)
        client.sendData("work").result(LONG)
        peer, packet = one.cluster.getDataOrdinal(LONG)
        assert (peer, packet.data) == (bob.publicKey, "work")
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(one.cluster.getDataOrdinal)
            one.stop()
            with raises(ConnectionClosed):
                waiting.result(LONG)
    print("one server")


def sender(port: str, number: str, count: str) -> None:
    """Send numbered messages, some of them as fast as it goes, and close in order."""
    with ClientNetwork(HOST, int(port)) as client:
        client.sendData(f"client {number}").result(LONG)
        for position in range(int(count)):
            client.sendData(textOf(position))


def manyClients(clients: str, count: str) -> None:
    """
    Take all packets of many clients that are processes, in a loop that never
    waits.
    """
    with ServerNetwork(HOST, 0) as server:
        command = [sys.executable, __file__, "sender", str(server.address[1])]
        processes = [
            subprocess.Popen([*command, str(number), count])
            for number in range(int(clients))
        ]
        came: dict[Any, list[Any]] = {}
        events: list[Any] = []
        deadline = time.monotonic() + LONG
        left = 0
        while left < int(clients) or server.connections.arrivals:
            assert time.monotonic() < deadline, (left, len(came))
            entry = server.connections.activity()
            if entry is not None:
                events.append(entry)
                left += not entry[1]
            address, packet = server.connections.getDataOrdinal()
            if address is not None:
                came.setdefault(address, []).append(packet.data)
        assert all(process.wait(LONG) == 0 for process in processes)
        until(lambda: not server.connections)
    expected = [textOf(position) for position in range(int(count))]
    names = sorted(int(packets[0].split()[1]) for packets in came.values())
    assert names == list(range(int(clients))), names
    assert all(packets[1:] == expected for packets in came.values())
    for accepted in True, False:
        addresses = [address for address, event, _ in events if event == accepted]
        assert sorted(addresses) == sorted(came), (accepted, addresses)
    print("all once and in order")


def handlers() -> None:
    """Have a coroutine at a server, and an object at a client."""

    async def talk(connection: Connection) -> None:
        """Answer until told to leave."""
        async for packet in connection.retrieved:
            if packet.data == "bye":
                return
            await connection.sendData(f"{isInIOThread()} {packet.data!r}")

    came: list[Any] = []

    class Taking(MessageHandler):
        """Takes what comes."""

        def packetReceived(self, connection: Connection, packet: Packet) -> None:
            """Take it."""
            came.append((isInIOThread(), packet.data))

    with (
        ServerNetwork(HOST, 0, handler=talk) as server,
        ClientNetwork(HOST, server.address[1], handler=Taking()) as client,
    ):
        client.sendData("hello").result(LONG)
        assert until(lambda: came) == [(True, "True 'hello'")], came
        client.sendData("bye").result(LONG)
        until(lambda: not server.connections)
    print("echoed")


def orderOfArrival() -> None:
    """Take the packets of several clients in the order of arrival, from either end."""
    with ServerNetwork(HOST, 0) as server:
        clients = [ClientNetwork(HOST, server.address[1]) for _ in range(3)]
        for number in range(30):
            clients[number * 7 % 3].sendData(str(number)).result(LONG)
        newest = server.connections.getDataOrdinal(oldToNew=False)[1].data
        rest = [server.connections.getDataOrdinal()[1].data for _ in range(29)]
        assert newest == "29" and rest == [str(number) for number in range(29)]
        nothing: Any = server.connections.getDataOrdinal()
        assert nothing == (None, (0.0, None))
        for client in clients:
            client.close()
    print("in order")


def faces() -> None:
    """Use everything that the two faces have."""
    with ServerNetwork(host="localhost", port=0) as server:
        host, port = server.address
        assert host == HOST and port
        key = PrivateKey.load(stateDirectory() / "server.key")
        assert server.publicKey == key.publicKey
        with ClientNetwork(host="localhost", port=port) as client:
            future = client.sendData("text")
            assert isinstance(future, Future) and future.result(LONG) is None
            address, accepted, when = until(server.connections.activity)
            assert accepted is True and abs(time.time() - when) < LONG
            assert server.connections.activity() is None
            stream: Any = server.connections[address]["data"]
            assert len(stream) == 1 and stream[0].data == "text"
            assert stream.getData().data == "text" and stream.getData() is None
            asyncio.run(server.sendTo("to one", address))
            assert asyncio.run(server.sendAll(b"to all")) == 1
            assert asyncio.run(server.sendAll("x", to=[("127.0.0.1", 1)])) == 0
            assert asyncio.run(server.sendAll("x", exclude=server.connections)) == 0
            assert [packet.data for packet in client.retrieved] == ["to one", b"to all"]
            assert client.retrieved[-1].data == b"to all"
            assert len(client.retrieved) == 2
            assert take(client) == "to one" and take(client) == b"to all"
            assert client.retrieved.getData() is None
            wrongData(server, client)
            data = bytearray(b"before")
            future = client.sendData(data)
            data[:] = b"behind"
            future.result(LONG)
            assert stream.getData().data == b"before"
            client.sendData(memoryview(b"unread")).result(LONG)
        assert until(server.connections.activity)[:2] == (address, False)
        assert list(server.connections) == [address], "a packet is unread"
        with raises(ConnectionClosed):
            client.sendData("too late").result(LONG)
        assert server.connections.getDataOrdinal()[1].data == b"unread"
        until(lambda: len(server.connections) == 0)
    server.stop()
    server.close()
    print("all there")


def requests() -> None:
    """Ask and answer, from any thread, both ways."""
    with ServerNetwork(host=HOST, port=0) as server:
        port = server.address[1]
        with ClientNetwork(host=HOST, port=port) as client:
            answer, refused, slow = (client.request(each) for each in ("a", b"b", "c"))
            late = client.request("d", timeout=0.001)
            taken: list[Any] = []
            while len(taken) < 4:
                _, packet = server.connections.getDataOrdinal()
                if isinstance(packet, Request):
                    taken.append(packet)
            assert taken[0].answer("A").result(LONG) is None
            taken[1].refuse("no", 7)
            assert answer.result(LONG) == "A"
            with raises(RequestFailed) as errors:
                refused.result(LONG)
            (error,) = errors
            assert isinstance(error, RequestFailed) and error.code == 7
            with raises(RequestTimeout, TimeoutError):
                late.result(LONG)
            slow.cancel()
            until(lambda: taken[2].isWithdrawn and taken[3].isWithdrawn)
            address = next(iter(server.connections))
            asked = server.request("who?", address)
            packet = until(client.retrieved.getData)
            packet.answer("I").result(LONG)
            assert asked.result(LONG) == "I"
            with raises(ConnectionClosed):
                server.request("nobody", ("203.0.113.1", 1)).result(LONG)
            nothing: Any = None
            with raises(TypeError):
                client.request(nothing)
            with raises(UnicodeEncodeError):
                client.request("\ud800").result(LONG)
    print("asked and answered")


def wrongData(server: ServerNetwork, client: ClientNetwork) -> None:
    """
    Send what cannot be sent.

    @param server: has one connection.
    @param client: is connected.
    """
    wrong: Any
    for wrong in (None, 3, ["text"]):
        with raises(TypeError):
            client.sendData(wrong)
        with raises(TypeError):
            asyncio.run(server.sendAll(wrong))
    with raises(UnicodeEncodeError):
        client.sendData("\ud800")
    with raises(MessageTooBig):
        client.sendData(bytes(2 << 20)).result(LONG)
    with raises(ConnectionClosed):
        asyncio.run(server.sendTo("nobody", ("203.0.113.1", 1)))


def wrongPlaces() -> None:
    """Begin where it cannot be done: each error says what it is by its class."""
    wrong: Any
    for wrong in ((None, 1), (b"::1", 1), (HOST, "1")):
        for face in (ServerNetwork, ClientNetwork):
            with raises(TypeError):
                face(*wrong)
    for wrong in ((HOST, -1), (HOST, 65536), ("\xfc" * 100, 1), ("a..b", 1)):
        for face in (ServerNetwork, ClientNetwork):
            with raises(ValueError):
                face(*wrong)
    with raises(TypeError):
        ServerNetwork(HOST, 0, bogus=True)
    with ServerNetwork(HOST, 0) as server:
        port = server.address[1]
        with raises(OSError):
            ServerNetwork(HOST, port)
        with raises(TypeError):
            ClientNetwork(HOST, port, bogus=True)
        with raises(NameOrKeyMismatch) as caught:
            ClientNetwork(HOST, port, name="other")
        assert "name=" in str(caught[0])
    with raises(ConnectionRefusedError) as caught:
        ClientNetwork(HOST, port)
    assert f"{HOST}:{port}" in str(caught[0]), caught
    with socket.create_server((HOST, 0)) as silent, raises(HandshakeTimeout):
        ClientNetwork(*silent.getsockname(), handshakeTimeout=0.1)
    print("each by its class")


def ipv6() -> None:
    """Use IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        print("no IPv6 here")
        return
    with (
        ServerNetwork("::1", 0) as server,
        ClientNetwork("::1", server.address[1]) as client,
    ):
        assert server.address[0] == "::1"
        client.sendData("six").result(LONG)
    print("by IPv6")


def tenThreads() -> None:
    """Send and take in ten threads at once, at both ends; then stop while all wait."""
    server = ServerNetwork(HOST, 0)
    client = ClientNetwork(HOST, server.address[1], sendBuffer=1 << 16)
    address = until(lambda: list(server.connections))[0]
    count = 100

    def work(number: int) -> tuple[list[Any], list[Any]]:
        """
        Send and take.

        @return: what the server and the client had.
        """
        atServer, atClient = [], []
        for position in range(count):
            client.sendData(f"{number} {position}")
            asyncio.run(server.sendTo(f"{number} {position}", address))
            atServer.append(server.connections.getDataOrdinal()[1].data)
            atClient.append(client.retrieved.getData())
        return atServer, atClient

    def wait(number: int) -> str:
        """
        Wait for what will not come.

        @param number: which thread; an even one sends, an odd one stops.
        @return: how it ended.
        """
        if number % 2:
            client.stop()
            server.stop()
            return "stopped"
        try:
            while True:
                client.sendData(bytes(1000))
                asyncio.run(server.sendTo(bytes(1000), address))
        except ConnectionClosed:
            return "closed"

    with ThreadPoolExecutor(10) as threads:
        results = list(threads.map(work, range(10), timeout=LONG))
        atServer = [data for result in results for data in result[0] if data]
        atClient = [packet.data for result in results for packet in result[1] if packet]
        until(lambda: len(atServer) + _drain(server, atServer) >= 10 * count)
        until(lambda: len(atClient) + _drainClient(client, atClient) >= 10 * count)
        everything = {f"{a} {b}" for a in range(10) for b in range(count)}
        assert len(atServer) == len(atClient) == len(everything)
        assert set(atServer) == set(atClient) == everything
        ends = list(threads.map(wait, range(10), timeout=LONG))
    assert ends == ["closed", "stopped"] * 5, ends
    print("nothing lost, nobody hangs")


def _drain(server: ServerNetwork, into: list[Any]) -> int:
    """Take what is there."""
    while (taken := server.connections.getDataOrdinal())[0] is not None:
        into.append(taken[1].data)
    return 0


def _drainClient(client: ClientNetwork, into: list[Any]) -> int:
    """Take what is there."""
    while (packet := client.retrieved.getData()) is not None:
        into.append(packet.data)
    return 0


def waiting() -> None:
    """Wait for packets and for activity, in every way; nobody polls."""
    with (
        ServerNetwork(HOST, 0) as server,
        ClientNetwork(HOST, server.address[1]) as client,
        ThreadPoolExecutor(10) as threads,
    ):
        address, accepted, _ = server.waitForActivity(LONG)
        assert accepted
        for wait in client.get, server.get, server.waitForActivity:
            with raises(TimeoutError):
                wait(timeout=0)
        answering = threads.submit(_answer, server)
        for number in range(100):
            client.sendData(str(number))
            assert client.get(LONG).data == f"you said '{number}'"
        client.sendData("enough")
        assert answering.result(LONG) == {address}
        _share(threads, server, client)
        _interrupted(client)
        asyncio.run(server.sendAll("after that"))
        assert client.get(LONG).data == "after that"

        loops = [threads.submit(list, each.packets()) for each in (client, server)]
        ends: list[Future[Any]] = [
            threads.submit(each.get) for each in (client, server)
        ]
        client.stop()
        assert loops[0].result(LONG) == []
        assert isinstance(ends[0].exception(LONG), ConnectionClosed)
        assert server.waitForActivity(LONG).event == "lost"
        ends.append(threads.submit(server.waitForActivity))
        server.stop()
        assert loops[1].result(LONG) == []
        for end in ends[1:]:
            assert isinstance(end.exception(LONG), ConnectionClosed)
    print("nobody polls")


def _answer(server: ServerNetwork) -> set[Any]:
    """
    Answer packets until there are enough.

    @return: whose they were.
    """
    addresses = set()
    for address, packet in server.packets():
        addresses.add(address)
        if packet.data == "enough":
            break
        asyncio.run(server.sendTo(f"you said {packet.data!r}", address))
    return addresses


def _share(
    threads: ThreadPoolExecutor, server: ServerNetwork, client: ClientNetwork
) -> None:
    """Have threads take the packets of both sides: each once."""
    for number in range(1000):
        client.sendData(str(number))
    asyncio.run(server.sendAll("first"))

    def takeAll(share: int) -> list[Any]:
        """Take a share."""
        return [server.get(LONG)[1].data for _ in range(share)]

    taken = list(threads.map(takeAll, [200] * 5, timeout=LONG))
    assert sorted(int(data) for each in taken for data in each) == list(range(1000))
    assert client.get(LONG).data == "first"


def _interrupted(client: ClientNetwork) -> None:
    """Wait in the main thread, until Ctrl-C."""
    interrupted = threading.Event()

    def interrupt(number: int, frame: object) -> None:
        """Do as Python does, once."""
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def press() -> None:
        """Press Ctrl-C, until that is noticed."""
        while not interrupted.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    pressing = threading.Thread(target=press)
    with raises(KeyboardInterrupt):
        pressing.start()
        client.get()
    pressing.join(LONG)


def hundredTimes() -> None:
    """Begin and end a hundred times: no thread and no file descriptor is left over."""

    def use() -> tuple[int, int]:
        """
        Use both once.

        @return: how many threads and open files there are then.
        """
        with ServerNetwork(HOST, 0) as server:
            client = ClientNetwork(HOST, server.address[1])
            client.sendData("x").result(LONG)
            client.stop()
            with raises(NameOrKeyMismatch):
                ClientNetwork(HOST, server.address[1], name="other")
        return threading.active_count(), len(os.listdir("/dev/fd"))

    before = use()
    for _ in range(99):
        after = use()
    assert after == before, (before, after)
    assert all(
        thread.daemon or thread is threading.main_thread()
        for thread in threading.enumerate()
    )
    print("nothing left over")


def fullBuffer() -> None:
    """
    Send more than the buffer holds to a server whose application takes nothing:
    sending waits, for so long as it is told to, and goes on when there is room.
    """
    options = {"sendBuffer": 100_000, "receiveBuffer": 1_000}
    with (
        ServerNetwork(HOST, 0, **options) as server,
        ClientNetwork(HOST, server.address[1], **options) as client,
    ):
        with raises(SendBufferFull):
            client.sendData(bytes(200_000)).result(LONG)  # it can never fit
        with raises(SendBufferFull) as caught:
            for _ in range(20):
                client.sendData(bytes(10_000), timeout=0.1)
        assert "100000" in str(caught[0])
        waiting = threading.Thread(target=client.sendData, args=("room",))
        waiting.start()
        last = until(lambda: server.connections.getDataOrdinal()[1].data)
        while last != "room":
            last = until(lambda: server.connections.getDataOrdinal()[1].data)
        waiting.join(LONG)
        address = next(iter(server.connections))
        asyncio.run(server.sendTo(bytes(1_000), address))
        with raises(TimeoutError):
            asyncio.run(server.sendTo(b"", address, timeout=0.01))
        with raises(TimeoutError):
            asyncio.run(server.sendAll(b"", timeout=0.01))
        cancelled = client.sendData("nobody asks")
        cancelled.cancel()
        until(lambda: server.connections.getDataOrdinal()[1].data == "nobody asks")
    print("waited")


def busyLoop() -> None:
    """Poll without a pause in one thread; messages flow all the same."""
    with (
        ServerNetwork(HOST, 0) as server,
        ClientNetwork(HOST, server.address[1]) as client,
    ):
        done = threading.Event()

        def send() -> None:
            """Send one message after the other, each when the former is there."""
            for position in range(500):
                client.sendData(str(position)).result(LONG)
            done.set()

        begun = time.monotonic()
        thread = threading.Thread(target=send)
        thread.start()
        taken = 0
        while not done.is_set() or server.connections.arrivals:
            server.connections.activity()
            address, _ = server.connections.getDataOrdinal()
            taken += address is not None
            with suppress(IndexError):
                client.retrieved[0]
        thread.join(LONG)
        assert taken == 500, taken
        assert time.monotonic() - begun < LONG
    print("flowing")


def otherLoops() -> None:
    """Send in asyncio programs that have loops of their own, in several threads."""
    with (
        ServerNetwork(HOST, 0) as server,
        ClientNetwork(HOST, server.address[1]) as client,
    ):
        until(lambda: len(server.connections))

        async def send(number: int) -> int:
            """
            Send many at once.

            @return: how many had them.
            """
            counts = await asyncio.gather(
                *(server.sendAll(f"{number}-{item}") for item in range(20))
            )
            await asyncio.wrap_future(client.sendData("and back"))
            return sum(counts)

        def run(number: int) -> int:
            """
            Run a loop.

            @return: how many had the messages.
            """
            return asyncio.run(send(number))

        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(run, range(4), timeout=LONG)) == [20] * 4
        assert len({take(client) for _ in range(80)}) == 80

        async def giveUp() -> None:
            """Send, and stop waiting."""
            for _ in range(100):  # now and then the client is faster
                task = asyncio.create_task(server.sendAll("given up"))
                await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    return
            raise AssertionError("never cancelled")

        asyncio.run(giveUp())
        assert take(client) == "given up"
    print("in any loop")


@implementer(IMessageHandler)
class Asking:
    """Finds out, in the reactor's thread, what may be done there."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.server: ServerNetwork | None = None
        self.client: ClientNetwork | None = None
        self.found: Future[str] = Future()

    def connectionAccepted(self, connection: Connection) -> None:
        """Nothing to do."""

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Try what waits, and what does not."""
        if packet.data != "ask":
            return
        assert self.server is not None and self.client is not None
        server, client = self.server, self.client
        try:
            for wrong in (
                lambda: ServerNetwork(HOST, 0),
                lambda: ClientNetwork(HOST, server.address[1]),
                server.stop,
                client.close,
                lambda: asyncio.run(server.sendAll("x")),
                lambda: client.sendData(bytes(100_000), timeout=1.0),
                client.get,
                lambda: next(server.packets()),
                server.waitForActivity,
            ):
                client.sendData("does not wait")
                with raises(RuntimeError) as caught:
                    wrong()
                assert "reactor's thread" in str(caught[0])
            assert client.retrieved.getData() is None
            self.found.set_result(f"{len(server.connections)} connection")
        except BaseException as error:
            self.found.set_exception(error)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Nothing to do."""


def insideReactor() -> None:
    """Wait in the reactor's thread: that is refused at once."""
    handler = Asking()
    with (
        ServerNetwork(HOST, 0, handler=handler) as server,
        ClientNetwork(HOST, server.address[1], sendBuffer=10_000) as client,
    ):
        handler.server, handler.client = server, client
        client.sendData("ask")
        assert handler.found.result(LONG) == "1 connection"
    print("refused")


def ownReactor() -> None:
    """
    Run the reactor in the main thread; other threads use the blocking face, until
    the reactor stops while they wait.
    """
    from twisted.internet import reactor

    engine: Any = reactor
    ends: list[str] = []

    def work() -> None:
        """Use both, then have the reactor stop."""
        server = ServerNetwork(HOST, 0, receiveBuffer=1)
        client = ClientNetwork(HOST, server.address[1], sendBuffer=100_000)
        client.sendData("to").result(LONG)
        asyncio.run(server.sendAll("fro"))
        assert take(client) == "fro"
        never = [client.sendData(bytes(40_000)) for _ in range(2)]
        threads = [
            threading.Thread(target=wait, args=[function])
            for function in (
                lambda: client.sendData(bytes(40_000)).result(LONG),
                lambda: never[1].result(LONG),
            )
        ]
        for thread in threads:
            thread.start()
        engine.callFromThread(engine.stop)
        for thread in threads:
            thread.join(LONG)
        client.stop()
        server.stop()
        with raises(ConnectionClosed):
            client.sendData("x").result(LONG)
        with raises(RuntimeError) as caught:
            ServerNetwork(HOST, 0)
        assert "stopped" in str(caught[0])
        ends.append("done")

    def wait(function: Callable[[], object]) -> None:
        """Wait for what will not come."""
        with raises(ConnectionClosed):
            function()
        ends.append("failed")

    thread = threading.Thread(target=work)
    engine.callWhenRunning(thread.start)
    engine.run()
    thread.join(LONG)
    assert ends == ["failed", "failed", "done"], ends
    print("failed, not forgotten")


def daemonReactor(port: str) -> None:
    """Run the reactor in a daemon thread of the program's own, and end."""
    from twisted.internet import reactor

    engine: Any = reactor
    running = threading.Event()
    engine.callWhenRunning(running.set)
    threading.Thread(
        target=engine.run, kwargs={"installSignalHandlers": False}, daemon=True
    ).start()
    running.wait(LONG)
    client = ClientNetwork(HOST, int(port))
    client.sendData("the last word")
    print("end", flush=True)


def stoppedReactor() -> None:
    """Begin after the program's reactor has stopped."""
    from twisted.internet import reactor

    engine: Any = reactor
    engine.callWhenRunning(engine.stop)
    engine.run()
    wrong: list[BaseException] = []

    def begin() -> None:
        """Begin."""
        for _ in range(2):
            with raises(RuntimeError) as caught:
                ServerNetwork(HOST, 0)
            wrong.extend(caught)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join(LONG)
    assert ["cannot run it again" in str(error) for error in wrong] == [True, True]
    print("told so")


def leave(port: str, how: str) -> None:
    """Send, and end without a word of farewell."""
    client = ClientNetwork(HOST, int(port))
    client.sendData("the last word")
    print("ready", flush=True)
    if how == "raise":
        raise LookupError("an error of the program")
    if how == "interrupt":
        client.sendData("and one more").result(LONG)
        threading.Event().wait(LONG)
    if how == "exit":
        sys.exit(3)


def leaving() -> None:
    """
    See how programs end that do not say so: all that they sent is there, and
    their connections are closed in order.
    """
    with ServerNetwork(HOST, 0) as server:
        for how, code, words in (
            ("return", 0, ""),
            ("exit", 3, ""),
            ("raise", 1, "LookupError: an error of the program"),
            ("interrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ):
            program = _start("leave", str(server.address[1]), how)
            _checkLeaving(server, program, how == "interrupt")
            _, errors = program.communicate(timeout=LONG)
            assert program.returncode == code, (how, program.returncode, errors)
            assert errors.strip().splitlines()[-1:] == ([words] if words else [])
        program = _start("daemonReactor", str(server.address[1]))
        _checkLeaving(server, program, False)
        assert program.communicate(timeout=LONG) == ("end\n", "")
    print("all in order")


def _start(*arguments: str) -> subprocess.Popen[str]:
    """
    Start one of these programs.

    @param arguments: its name, and what follows.
    """
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _checkLeaving(
    server: ServerNetwork, program: subprocess.Popen[str], interrupt: bool
) -> None:
    """
    Check what a server sees of a program that ends.

    @param interrupt: whether to interrupt it.
    """
    assert until(server.connections.activity)[1] is True
    assert until(lambda: server.connections.getDataOrdinal()[1].data) == (
        "the last word"
    )
    if interrupt:
        until(lambda: server.connections.getDataOrdinal()[1].data)
        program.send_signal(signal.SIGINT)
    lost = until(server.connections.activity)
    assert lost[1] is False and "code 1000" in lost.reason, lost


def deafPeer() -> None:
    """See how programs end whose peer does not answer any more: in a bounded time."""
    for how in "stop", "return":
        server = _start("serve")
        assert server.stdout is not None
        program = _start("deaf", server.stdout.readline().strip(), how)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        server.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert program.communicate("go on\n", timeout=LONG) == ("", "")
        assert program.returncode == 0
        assert time.monotonic() - begun < LONG / 2
        server.kill()
        server.communicate()
    print("in time")


def deaf(port: str, how: str) -> None:
    """End after the server has fallen silent."""
    client = ClientNetwork(HOST, int(port))
    client.sendData("x").result(LONG)
    print("ready", flush=True)
    sys.stdin.readline()
    client.sendData("nobody reads this")
    if how == "stop":
        client.stop()


def goesOn(port: str, count: str) -> None:
    """
    Exchange messages with a server that sends all back, over connections that are cut
    by who reads what is printed; nothing of that is seen here.
    """
    with ClientNetwork(HOST, int(port), retryPolicy=lambda failures: 0.01) as client:
        futures = []
        for position in range(int(count)):
            futures.append(client.sendData(textOf(position)))
            if position % 10 == 5:
                print("cut", flush=True)
                sys.stdin.readline()
        for position, future in enumerate(futures):
            future.result(LONG)
            assert take(client) == textOf(position), position
        assert client.retrieved.getData() is None
    print("all once and in order")


def sessionLost() -> None:
    """
    Outlive a server: what never left, and what comes after, goes to the next one; what
    came from it can still be taken.
    """
    options: Any = {"receiveBuffer": 1}
    server = ServerNetwork(HOST, 0, **options)
    port = server.address[1]
    with ClientNetwork(HOST, port, retryPolicy=lambda failures: 0.01) as client:
        client.sendData("known").result(LONG)
        asyncio.run(server.sendAll("unread"))
        behind = client.sendData("behind the window")
        server.stop()
        waiting = client.sendData("typed meanwhile")
        assert not waiting.done()
        with ServerNetwork(HOST, port) as server:
            for future in behind, waiting:
                future.result(LONG)
            client.sendData("new").result(LONG)
            asyncio.run(server.sendAll("from the next"))
            assert client.retrieved[0].data == "unread"
            assert client.retrieved[-1].data == "from the next"
            assert take(client) == "unread" and take(client) == "from the next"
            for expected in "behind the window", "typed meanwhile", "new":
                assert server.connections.getDataOrdinal()[1].data == expected
    print("told")


def stopWhileCut() -> None:
    """Stop, and end the program, while there is no server any more."""
    server = ServerNetwork(HOST, 0)
    client, other = [ClientNetwork(HOST, server.address[1]) for _ in range(2)]
    for each in client, other:
        each.sendData("x").result(LONG)
    server.stop()
    unsure = client.sendData("unsure")
    begun = time.monotonic()
    client.stop()
    assert time.monotonic() - begun < LONG / 2
    with raises(ConnectionClosed):
        unsure.result(LONG)
    assert client.retrieved.getData() is None
    other.sendData("nobody reads this")
    print("stopped")


@implementer(IMessageHandler)
class Refusing:
    """Lets a client in, and out again when it asks for it."""

    def connectionAccepted(self, connection: Connection) -> None:
        """Greet."""
        connection.sendData("hello")

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Send away."""
        connection.closeWith(1008, "not any more")

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Nothing to do."""


def refusedLater() -> None:
    """Be sent away by the server: that is the end, and who looks is told why."""
    with (
        ServerNetwork(HOST, 0, handler=Refusing()) as server,
        ClientNetwork(HOST, server.address[1], sendBuffer=10_000) as client,
    ):
        until(lambda: len(client.retrieved))
        client.sendData("out").exception(LONG)

        def refused() -> bool:
            """
            Send.

            @return: whether that is told.
            """
            error = client.sendData(bytes(4000)).exception(LONG)
            assert isinstance(error, ConnectionClosed)
            return "does not let our public key in" in str(error)

        until(refused)
        until(lambda: not server.connections)
        assert take(client) == "hello"
        for look in (
            lambda: client.retrieved.getData(),
            lambda: client.retrieved[0],
            lambda: len(client.retrieved),
            lambda: client.get(LONG),
            lambda: list(client.packets()),
        ):
            with raises(ConnectionClosed) as caught:
                look()
            assert "does not let our public key in" in str(caught[0])
        client.stop()
        with raises(ConnectionClosed):
            client.sendData("x").result(LONG)
    print("told")


def serve() -> None:
    """Serve until somebody ends the process."""
    server = ServerNetwork(HOST, 0)
    print(server.address[1], flush=True)
    threading.Event().wait(LONG)


def fork() -> None:
    """Fork: the child can neither use the parent's connections nor hurt them."""
    with (
        ServerNetwork(HOST, 0) as server,
        ClientNetwork(HOST, server.address[1]) as client,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads
            child = os.fork()
        if not child:
            with raises(RuntimeError) as caught:
                client.sendData("x")
            assert "forked" in str(caught[0])
            for look in (lambda: client.retrieved, lambda: server.connections):
                with raises(RuntimeError):
                    look()
            with raises(RuntimeError):
                ServerNetwork(HOST, 0)
            sys.exit(7)  # through the with statement and what is done at exit
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        client.sendData("still here").result(LONG)
    print("parent unharmed")


def _work(port: int) -> None:
    """Send, and return without a word."""
    client = ClientNetwork(HOST, port)
    for number in range(50):
        client.sendData(str(number))


def workers() -> None:
    """Have children of multiprocessing send, and return."""
    server = _start("reporting")
    assert server.stdin is not None and server.stdout is not None
    port = int(server.stdout.readline())
    for way in "fork", "forkserver", "spawn":
        context: Any = multiprocessing.get_context(way)
        worker = context.Process(target=_work, args=(port,))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
        assert server.stdout.readline() == "50 accepted code 1000\n", way
    server.communicate()
    print("all arrived")


def reporting() -> None:
    """Say of three clients how many messages came, and how they closed."""
    with ServerNetwork(HOST, 0) as server:
        print(server.address[1], flush=True)
        for _ in range(3):
            first, last = until(server.connections.activity), None
            last = until(server.connections.activity)
            number = 0
            while server.connections.getDataOrdinal()[0] is not None:
                number += 1
            code = "code 1000" if "code 1000" in last.reason else last.reason
            print(number, first.event, code, flush=True)


def signals() -> None:
    """
    Send and take from a signal handler that interrupts sending and taking, and stop
    from it.
    """
    with ServerNetwork(HOST, 0) as server:
        client = ClientNetwork(HOST, server.address[1])
        calls = 0

        def handle(number: int, frame: object) -> None:
            """Send and take; at last stop."""
            nonlocal calls
            calls += 1
            client.sendData("handled")
            server.connections.getDataOrdinal()
            if calls >= 200:  # one may interrupt the one before it here
                signal.setitimer(signal.ITIMER_REAL, 0)
                client.stop()

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while calls < 200:
            client.sendData("sent")
            server.connections.activity()
            for _ in range(3):
                server.connections.getDataOrdinal()
        client = ClientNetwork(HOST, server.address[1])
        with streamLock:  # as whoever is interrupted while taking a packet has it
            client.sendData("last")
            for wait in (client.get, server.get, server.waitForActivity):
                with suppress(RuntimeError):
                    wait(timeout=LONG)
                    raise AssertionError(f"{wait} has waited")
            client.stop()
        client.stop()
        while server.get()[1].data != "last":
            pass
    print("not stuck")


def original(port: str) -> None:
    """
    Run the two programs of the original module's README; the server's is this
    one, with what it says beside it taken down.
    """
    told: list[Any] = []
    address: Any = None
    socket: Any = ServerNetwork(host="127.0.0.1", port=int(port))
    client = _start("originalClient", port)
    deadline = time.monotonic() + LONG
    while True:
        assert time.monotonic() < deadline, told
        told.append(socket.connections.activity())
        told.append(socket.connections.getDataOrdinal(oldToNew=True))
        if told[-2] is not None:
            address, accepted, _ = told[-2]
            if not accepted:
                break
        with suppress(KeyError, IndexError):
            told.append(socket.connections[address]["data"].getData())
            told.append(socket.connections[address]["data"][0])
            told.append(len(socket.connections[address]["data"]))
        with suppress(ConnectionClosed):
            asyncio.run(socket.sendTo("text", address))
            asyncio.run(socket.sendAll("text"))
    socket.stop()
    assert client.communicate(timeout=LONG) == ("text\n", ""), "the client's output"
    events = [
        entry[1] for entry in told if isinstance(entry, tuple) and len(entry) == 3
    ]
    assert events == [True, False], events
    assert "'text'" in repr(told)
    print("both run")


def originalClient(port: str) -> None:
    """The other one."""
    socket = ClientNetwork(host="127.0.0.1", port=int(port))
    socket.sendData("text")
    packet = None
    while packet is None:
        with suppress(IndexError):
            socket.retrieved[0]
        packet = socket.retrieved.getData()
    print(packet[1])


if __name__ == "__main__":
    # Their standard error is to be empty, also where they do what aesm warns of.
    logging.getLogger("aesm").addHandler(logging.NullHandler())
    globals()[sys.argv[1]](*sys.argv[2:])
