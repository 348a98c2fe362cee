"""
What a client and a server's connection have in common for asyncio::

    await peer.send("hello")            # the peer has it
    packet = await peer.get()
    async for packet in peer:
        ...

A coroutine takes a packet when it is about to go on with it, and not before: one that
is cancelled has taken nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from twisted.internet.defer import Deferred

from aesm.aio.loop import LoopReactor, futureOf, result, settle
from aesm.client.stream import SessionStream
from aesm.core.messages.batch import Message
from aesm.core.messages.frames import newTuple
from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    SendBufferFull,
    closedError,
)
from aesm.messages import requests
from aesm.messages.stream import ORDERLY_CODES, DataStream, Packet

# Waiting
#
# Both events only say that it is time to look again.  All who wait do so, in the order
# in which they came, and who finds nothing clears the event and waits on: so nobody has
# to pass on what was meant for one that was cancelled.


class Request(Packet):
    """A packet that is to be answered, with C{time} and C{data} as any other."""

    _request: requests.Request
    _reactor: LoopReactor

    @classmethod
    def of(cls, request: requests.Request, reactor: LoopReactor) -> Request:
        """Make one of Twisted's."""
        self = newTuple(cls, request)
        self._request, self._reactor = request, reactor
        return self

    @property
    def isWithdrawn(self) -> bool:
        """
        Whether who asked does not wait any more; it is to be answered all the same.
        """
        return self._request.isWithdrawn

    async def answer(self, data: Message) -> None:
        """
        Answer it, and wait until who asked has the answer; who is cancelled has
        answered.

        @param data: C{str} or bytes, which is what the other side gets.
        @raise AESMError: as L{Peer.send}.
        @raise RuntimeError: it was answered or refused before, or this is another loop.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        self._reactor.check()
        await futureOf(self._request.answer(data))

    async def refuse(self, reason: str = "", code: int = CloseCode.NOT_ALLOWED) -> None:
        """
        Refuse it: who asked gets L{RequestFailed<aesm.errors.RequestFailed>}.

        @param reason: words for the other side, at most 1,024 bytes in UTF-8.
        @param code: a number for its program, 0 to 65535.
        @raise AESMError: as L{Peer.send}.
        @raise RuntimeError: it was answered or refused before, or this is another loop.
        @raise TypeError: the code is no number, or the reason no text.
        @raise ValueError: the code is no such number.
        """
        self._reactor.check()
        await futureOf(self._request.refuse(reason, code))


class Peer:
    """Whom messages are exchanged with."""

    def __init__(
        self,
        reactor: LoopReactor,
        stream: DataStream | SessionStream,
        sendData: Callable[[Message], Deferred[None]],
        request: Callable[[Message, float | None], Deferred[str | bytes]],
    ) -> None:
        """C{_news} is to be set when C{stream} has more, or ends."""
        self._reactor = reactor
        self._stream = stream
        self._sendData = sendData
        self._request = request
        self._news = asyncio.Event()  # there is something to take, or the end
        self._unsettled = 0  # sends of which it is not known what becomes
        self._settled = asyncio.Event()
        self._turn = asyncio.Lock()  # to wait for room
        self._crowd = 0  # who has it, and who waits for it

    async def send(self, data: Message) -> None:
        """
        Send a message, and wait until the peer has it: in its application's inbox, or
        its handler is done with it.  While C{sendBuffer} is full, this waits for room
        first; those that are sent meanwhile keep their order.

        Who is cancelled after it was accepted stops waiting, and the message leaves
        all the same.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @raise ConnectionClosed: the peer may not have the message.
        @raise MessageTooBig: it is larger than the peer takes; nothing was sent.
        @raise SendBufferFull: so is it than C{sendBuffer}, or others leave no room;
            nothing was sent.
        @raise RuntimeError: this is another loop than that in which it was opened.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        self._reactor.check()
        if not self._crowd:
            sent = self._submit(data)
            if not _isFull(sent):
                await sent
                return
        if isinstance(data, bytearray | memoryview):
            data = bytes(data)  # which its owner cannot change meanwhile
        self._crowd += 1
        try:
            async with self._turn:
                sent = self._submit(data)
                while _isFull(sent) and self._unsettled:
                    self._settled.clear()
                    await self._settled.wait()
                    sent = self._submit(data)
        finally:
            self._crowd -= 1
        await sent

    async def request(self, data: Message, timeout: float | None = None) -> str | bytes:
        """
        Send a message that the other side is to answer, and wait for the answer.  Who
        is cancelled withdraws it.

        @param data: C{str} for text, bytes for binary.
        @param timeout: seconds; None for any time.
        @return: the answer, C{str} or bytes as it was given.
        @raise RequestFailed: the other side refuses.
        @raise RequestTimeout: there was no answer in time; a C{TimeoutError}.
        @raise ConnectionClosed: whether it was acted on is not known.
        @raise MessageTooBig: it is larger than the peer takes; nothing was sent.
        @raise SendBufferFull: too much is unacknowledged; nothing was sent.
        @raise RuntimeError: this is another loop than that in which it was opened.
        @raise TypeError: C{data} is neither text nor bytes.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        self._reactor.check()
        return await result(self._request(data, timeout))

    async def get(self) -> Packet:
        """
        Take the oldest packet, once there is one.

        @return: C{(time, data)}: when it was sent, in Unix seconds by the peer's clock,
            and C{str} or bytes; a L{Request} if it is to be answered.
        @raise ConnectionClosed: all is taken, and nothing more will come; says why.
        @raise RuntimeError: this is another loop than that in which it was opened.
        """
        self._reactor.check()
        while (packet := self._stream.getData()) is None:
            if self._stream.reason is not None:
                raise closedError(self._stream.reason)
            self._news.clear()
            await self._news.wait()
        if isinstance(packet, requests.Request):
            return Request.of(packet, self._reactor)
        return packet

    def __aiter__(self) -> Self:
        """Take packets until it is closed in order; any other end is raised."""
        return self

    async def __anext__(self) -> Packet:
        """Take the next packet."""
        try:
            return await self.get()
        except ConnectionClosed as reason:
            if reason.code in ORDERLY_CODES:
                raise StopAsyncIteration from None
            raise

    async def closed(self) -> AESMError:
        """
        Wait for the end.

        @return: why: a L{ConnectionClosed} (C{code} 1000 if it was closed in order),
            or what broke it.
        """
        self._reactor.check()
        while self._stream.reason is None:
            self._news.clear()
            await self._news.wait()
        return self._stream.reason

    def _submit(self, data: Message) -> asyncio.Future[None]:
        """Send; done once the peer has it, and at once if it was not accepted."""
        sent = self._sendData(data)
        self._unsettled += 1
        future: asyncio.Future[None] = self._reactor.loop.create_future()
        sent.addBoth(self._cbSent, future)
        return future

    def _cbSent(self, outcome: object, future: asyncio.Future[None]) -> None:
        """It is known what has become of a message, and there may be room again."""
        self._unsettled -= 1
        self._settled.set()
        settle(outcome, future)


def _isFull(sent: asyncio.Future[None]) -> bool:
    """Tell whether a message was not accepted for want of room."""
    return (
        sent.done()
        and not sent.cancelled()
        and isinstance(sent.exception(), SendBufferFull)
    )
