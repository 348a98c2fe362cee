"""
Sending and taking as asyncio does it, over a connection in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from twisted.internet.defer import CancelledError

from aesm.aio.loop import theReactor
from aesm.aio.peer import Peer, Request
from aesm.aio.server import Connection
from aesm.core.messages.frames import MESSAGE_OVERHEAD
from aesm.errors import (
    ConnectionClosed,
    MessageTooBig,
    RequestFailed,
    SendBufferFull,
    Truncated,
)
from aesm.messages import requests as messages
from aesm.messages.requests import RequestTimeout
from aesm.testing import ConnectedPair, connectedPair
from tests.support.aio import LoopTestCase, turns


async def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Begin something, and come to where it waits."""
    task = asyncio.create_task(work)
    await turns()
    return task


class PeerCase(LoopTestCase):
    """A pair in memory, whose client asyncio has."""

    async def peer(self, **options: Any) -> tuple[Peer, ConnectedPair]:
        """
        Make a pair.

        @param options: of both ends.
        """
        pair = connectedPair(**options)
        return Connection(await theReactor(), pair.client), pair


class TakingTests(PeerCase):
    """Packets are taken one by one, by who waits."""

    def test_get(self) -> None:
        """What is there is taken at once, and what is not when it comes."""

        async def main() -> None:
            """Take both."""
            peer, pair = await self.peer()
            pair.accepted.sendData("one")
            pair.deliver()
            packet = await peer.get()
            self.assertEqual(packet.data, "one")
            self.assertEqual(tuple(packet), (packet.time, "one"))
            taking = await begin(peer.get())
            self.assertFalse(taking.done())
            pair.accepted.sendData(b"two")
            pair.deliver()
            self.assertEqual((await taking).data, b"two")

        self.runLoop(main())

    def test_inOrder(self) -> None:
        """Those who wait get packets in the order in which they came."""

        async def main() -> None:
            """Let three wait, and have two packets come, and then one."""
            peer, pair = await self.peer()
            taking = [await begin(peer.get()) for _ in range(3)]
            pair.accepted.sendData("0")
            pair.accepted.sendData("1")
            pair.deliver()
            await turns()
            self.assertEqual([task.done() for task in taking], [True, True, False])
            pair.accepted.sendData("2")
            pair.deliver()
            self.assertEqual([(await task).data for task in taking], ["0", "1", "2"])

        self.runLoop(main())

    def test_cancelled(self) -> None:
        """
        Who is cancelled has taken nothing, also when a packet came in the same turn,
        before or after; others who wait get it.
        """

        async def main(before: bool, others: bool) -> None:
            """Cancel one."""
            peer, pair = await self.peer()
            taking = await begin(peer.get())
            other = await begin(peer.get()) if others else None
            pair.accepted.sendData("kept")
            if before:
                pair.deliver()
            taking.cancel()
            if not before:
                pair.deliver()
            with self.assertRaises(asyncio.CancelledError):
                await taking
            self.assertEqual((await (other or peer.get())).data, "kept")

        for before in (True, False):
            for others in (True, False):
                self.runLoop(main(before, others))

    def test_timeout(self) -> None:
        """C{asyncio.timeout} and C{wait_for} end the waiting, and take nothing."""

        async def main() -> None:
            """Wait in vain, twice."""
            peer, pair = await self.peer()
            with self.assertRaises(TimeoutError):
                async with asyncio.timeout(0):
                    await peer.get()
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(peer.get(), 0)
            pair.accepted.sendData("late")
            pair.deliver()
            self.assertEqual((await asyncio.wait_for(peer.get(), 60)).data, "late")

        self.runLoop(main())

    def test_iterating(self) -> None:
        """C{async for} takes all that comes, and ends with an orderly end."""

        async def main() -> None:
            """Send, and close."""
            peer, pair = await self.peer()
            taken = []

            async def take() -> None:
                """Take all."""
                async for packet in peer:
                    taken.append(packet.data)

            taking = await begin(take())
            for word in ("a", "b"):
                pair.accepted.sendData(word)
            pair.deliver()
            await turns()
            self.assertEqual(taken, ["a", "b"])
            pair.accepted.sendData("c")
            pair.accepted.close("bye")
            pair.deliver()
            await taking
            self.assertEqual(taken, ["a", "b", "c"])
            reason = await peer.closed()
            assert isinstance(reason, ConnectionClosed)
            self.assertEqual((reason.code, reason.reason), (1000, "bye"))
            with self.assertRaises(ConnectionClosed):
                await peer.get()

        self.runLoop(main())

    def test_cut(self) -> None:
        """Any other end is raised, by C{async for} as well, once all is taken."""

        async def main() -> None:
            """Cut the connection."""
            peer, pair = await self.peer()
            closed = await begin(peer.closed())
            pair.accepted.sendData("before")
            pair.deliver()
            pair.network.links[0].cut()
            pair.deliver()
            self.assertEqual((await anext(peer)).data, "before")
            with self.assertRaises(Truncated):
                await anext(peer)
            self.assertIsInstance(await closed, Truncated)

        self.runLoop(main())


class SendingTests(PeerCase):
    """Messages are sent in order, and waited for."""

    def test_send(self) -> None:
        """It returns once the peer has the message."""

        async def main() -> None:
            """Send texts and bytes."""
            peer, pair = await self.peer()
            for data in ("text", b"bytes", bytearray(b"more"), memoryview(b"last")):
                sending = await begin(peer.send(data))
                self.assertFalse(sending.done())
                pair.deliver()
                await sending
                packet = pair.accepted.retrieved.getData()
                self.assertEqual(packet and packet.data, data)

        self.runLoop(main())

    def test_gathered(self) -> None:
        """A thousand at once arrive in order, as one burst."""

        async def main() -> None:
            """Gather them."""
            peer, pair = await self.peer()
            sending = asyncio.gather(*[peer.send(str(n)) for n in range(1000)])
            await turns()
            pair.deliver()
            await sending
            came = [packet.data for packet in pair.accepted.retrieved]
            self.assertEqual(came, [str(number) for number in range(1000)])

        self.runLoop(main())

    def test_cancelled(self) -> None:
        """Cancelling stops the waiting and not the message; nothing is reported."""

        async def main() -> None:
            """Cancel one, and let the connection end before the other is cancelled."""
            peer, pair = await self.peer()
            sending = await begin(peer.send("sent all the same"))
            sending.cancel()
            await turns()
            self.assertTrue(sending.cancelled())
            pair.deliver()
            packet = pair.accepted.retrieved.getData()
            self.assertEqual(packet and packet.data, "sent all the same")
            sending = await begin(peer.send("unsure"))
            pair.client.abort()
            sending.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await sending

        self.runLoop(main())

    def test_refused(self) -> None:
        """What cannot be sent is raised, by the classes of everywhere."""

        async def main() -> None:
            """Try."""
            peer, pair = await self.peer(maxMessage=1000)
            with self.assertRaises(MessageTooBig):
                await peer.send(bytes(1001))
            with self.assertRaises(TypeError):
                await peer.send(1)  # type: ignore[arg-type]
            with self.assertRaises(ValueError):
                await peer.send("\ud800")
            sending = await begin(peer.send("unsure"))
            pair.network.links[0].cut()
            pair.deliver()
            with self.assertRaises(Truncated):
                await sending
            with self.assertRaises(ConnectionClosed):
                await peer.send("late")

        self.runLoop(main())

    def test_room(self) -> None:
        """
        While C{sendBuffer} is full, senders wait for room, and go on in order as there
        is some; one message more than fits waits, and one that is cancelled meanwhile
        was not sent.
        """

        async def main() -> None:
            """Have room for two."""
            peer, pair = await self.peer(
                client={"sendBuffer": 2 * (10 + MESSAGE_OVERHEAD)}
            )
            sending = [await begin(peer.send(bytes([n] * 10))) for n in range(7)]
            came = []
            sending[4].cancel()
            for count in (2, 4, 6):
                await turns(20)
                pair.deliver()
                while packet := pair.accepted.retrieved.getData():
                    assert isinstance(packet.data, bytes)
                    came.append(packet.data[0])
                self.assertEqual(len(came), count)
            await asyncio.gather(*sending, return_exceptions=True)
            self.assertEqual(came, [0, 1, 2, 3, 5, 6])

        self.runLoop(main())

    def test_neverRoom(self) -> None:
        """What is larger than C{sendBuffer} is refused, after all before it."""

        async def main() -> None:
            """Have room for less than one."""
            peer, pair = await self.peer(client={"sendBuffer": 1000})
            first = await begin(peer.send(bytes(900)))
            large = await begin(peer.send(bytes(1000)))
            self.assertFalse(large.done())
            pair.deliver()
            await first
            with self.assertRaises(SendBufferFull):
                await large

        self.runLoop(main())

    def test_changed(self) -> None:
        """What its owner changes while it waits for room arrives as it was."""

        async def main() -> None:
            """Wait for room."""
            peer, pair = await self.peer(client={"sendBuffer": 1000})
            first = await begin(peer.send(bytes(900)))
            data = bytearray(b"x" * 500)
            second = await begin(peer.send(data))
            data[:] = bytes(500)
            pair.deliver()
            await turns()
            pair.deliver()
            await asyncio.gather(first, second)
            self.assertEqual(pair.accepted.retrieved[1].data, b"x" * 500)

        self.runLoop(main())

    def test_otherLoop(self) -> None:
        """In another loop than its own it refuses to be used."""
        kept: list[Peer] = []

        async def first() -> None:
            """Make it."""
            kept.append((await self.peer())[0])

        async def second() -> None:
            """Use it."""
            for work in (kept[0].send("x"), kept[0].get(), kept[0].closed()):
                with self.assertRaises(RuntimeError):
                    await work

        self.runLoop(first())
        self.runLoop(second())

    def test_otherLoopAnswers(self) -> None:
        """So does a request that came there."""
        kept: list[tuple[Any, ConnectedPair]] = []

        async def first() -> None:
            """Be asked."""
            peer, pair = await self.peer()
            pair.accepted.request("?")
            pair.deliver()
            kept.append((await peer.get(), pair))

        async def second() -> None:
            """Answer."""
            ((request, pair),) = kept
            for work in (request.answer("x"), request.refuse("no")):
                with self.assertRaises(RuntimeError):
                    work.send(None)
            self.assertEqual(pair.client.nextNumber, 0)

        self.runLoop(first())
        self.runLoop(second())


class RequestTests(PeerCase):
    """Messages that are answered."""

    def test_answered(self) -> None:
        """The answer is what the coroutine gives; many are under way at a time."""

        async def main() -> None:
            """Ask twice, and answer the other way round."""
            peer, pair = await self.peer()
            asking = [await begin(peer.request(data)) for data in ("one", b"two")]
            pair.deliver()
            came = [pair.accepted.retrieved.getData() for _ in asking]
            for request in reversed(came):
                assert isinstance(request, messages.Request) and request.data
                request.answer(request.data * 2)
            pair.deliver()
            self.assertEqual([await task for task in asking], ["oneone", b"twotwo"])

        self.runLoop(main())

    def test_answering(self) -> None:
        """One that comes is a packet that can be answered, or refused, by awaiting."""

        async def main() -> None:
            """Answer one, and refuse the next."""
            peer, pair = await self.peer()
            asked = [pair.accepted.request(data) for data in ("a", "b")]
            pair.deliver()
            first, second = await peer.get(), await anext(peer)
            assert isinstance(first, Request) and isinstance(second, Request)
            self.assertEqual((first.data, first[1], first.time), ("a", "a", first[0]))
            answering = await begin(first.answer("A"))
            self.assertFalse(answering.done())
            refusing = await begin(second.refuse("no", 1234))
            pair.deliver()
            await asyncio.gather(answering, refusing)
            self.assertEqual(self.successResultOf(asked[0]), "A")
            failure = self.failureResultOf(asked[1], RequestFailed)
            error = cast(RequestFailed, failure.value)
            self.assertEqual((error.code, error.reason), (1234, "no"))
            with self.assertRaises(RuntimeError):
                await first.answer("again")

        self.runLoop(main())

    def test_failures(self) -> None:
        """It fails as elsewhere, and a time-out is asyncio's as well."""

        async def main() -> None:
            """Be refused, time out, and lose the connection."""
            peer, pair = await self.peer()
            asking = await begin(peer.request("x"))
            pair.deliver()
            request = pair.accepted.retrieved.getData()
            assert isinstance(request, messages.Request)
            request.refuse("no", 4242)
            pair.deliver()
            with self.assertRaises(RequestFailed):
                await asking
            asking = await begin(peer.request("x", timeout=5))
            pair.advance(5)
            with self.assertRaises(TimeoutError) as caught:
                await asking
            self.assertIsInstance(caught.exception, RequestTimeout)
            asking = await begin(peer.request("x"))
            pair.client.abort()
            pair.deliver()
            with self.assertRaises(ConnectionClosed):
                await asking

        self.runLoop(main())

    def test_cancelled(self) -> None:
        """Cancelling, and C{asyncio.timeout}, withdraw it."""

        async def main() -> None:
            """Withdraw it both ways."""
            peer, pair = await self.peer()
            asking = await begin(peer.request("x"))
            pair.deliver()
            asking.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await asking
            with self.assertRaises(TimeoutError):
                async with asyncio.timeout(0):
                    await peer.request("y")
            pair.deliver()
            for _ in range(2):
                request = pair.accepted.retrieved.getData()
                assert isinstance(request, messages.Request)
                self.assertTrue(request.isWithdrawn)
            asked = pair.accepted.request("z")
            pair.deliver()
            waiting = await peer.get()
            assert isinstance(waiting, Request)
            self.assertFalse(waiting.isWithdrawn)
            asked.cancel()
            self.failureResultOf(asked, CancelledError)
            pair.deliver()
            self.assertTrue(waiting.isWithdrawn)

        self.runLoop(main())
