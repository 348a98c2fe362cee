"""
Who takes part in the target C{server}: a stranger who may hold a key, honest clients,
and what the server does with what comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm import Answer, ClientService, Connection, Packet, Pinned, PrivateKey, Request
from aesm.core.channel.channel import Channel
from aesm.core.channel.events import Event, Opened, PeerIdentified
from aesm.core.channel.roles import ClientChannel
from aesm.core.channel.states import State
from aesm.core.messages.framereader import FrameReader
from aesm.core.messages.frames import (
    EncodedRequest,
    EncodedResponse,
    Messages,
    Welcome,
    markedOf,
)
from aesm.core.messages.hello import Hello
from aesm.core.messages.requests import decodeRequest, decodeResponse
from aesm.errors import AESMError
from aesm.interfaces import IClientObserver, IMessageHandler
from aesm.testing import MemoryNetwork
from aesm.testing.transport import MemoryTransport
from fuzz.answerer import Answerer, Broken
from fuzz.ledger import Ledger, numberOf
from fuzz.script import RepeatableSettings
from tests.support.helpers import SERVER_KEY, XX
from tests.support.spooled import Mortal, closeFile

__all__ = [
    "CLIENTS",
    "MESSAGES",
    "STRANGER",
    "Client",
    "Handler",
    "Stranger",
    "withdraw",
]

CLIENTS = (PrivateKey(b"\x11" * 32), PrivateKey(b"\x12" * 32))  # the honest ones
STRANGER = PrivateKey(b"\x13" * 32)
MESSAGES = {  # settings of the message layer, at both sides
    "maxMessage": 2000,
    "heartbeat": 10.0,
    "sendBuffer": 5000,
    "receiveBuffer": 3000,
}

_TALKS = 17  # a coroutine ends after a packet whose number this divides


class Stranger(Protocol):
    """
    A peer that says what it is told to: anything at all before the handshake, and in
    the channel that its key opens.

    @ivar welcome: what the server said of itself, or None.
    @ivar received: how many messages came.
    """

    transport: MemoryTransport

    def __init__(self, isSecret: Callable[[str | bytes], bool]) -> None:
        """@param isSecret: tells whether a message is for somebody else."""
        self._isSecret = isSecret
        self._channel: Channel | None = None
        self._hello = b""
        self._senseless = False
        self._reader = FrameReader(1 << 16)
        self.welcome: Hello | None = None
        self.received = 0

    def shake(self, hello: bytes) -> None:
        """Begin a handshake."""
        self._hello = hello
        # The rest of a message whose beginning it has not makes no sense to it.
        self._senseless = b'"partial"' in hello
        settings = RepeatableSettings(STRANGER.raw, suites=(XX,))
        self._channel = ClientChannel(settings)
        self._flush()

    def say(self, stream: bytes) -> None:
        """Send bytes through the channel; before there is one, as they are."""
        channel = self._channel
        if channel is None:
            self.transport.write(stream)
        elif channel.state in (State.OPEN, State.PEER_ENDED):
            channel.send(stream)
            self._flush()

    def end(self) -> None:
        """End the stream in order."""
        channel = self._channel
        if channel is not None and channel.state in (State.OPEN, State.PEER_ENDED):
            channel.endOfStream()
            self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Take what the server says."""
        if self._channel is not None:
            self._act(self._channel.receive(data))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The server has had enough."""

    def _act(self, events: list[Event]) -> None:
        """Act on what the channel reports: the frames have to be in order."""
        channel = self._channel
        assert channel is not None
        for event in events:
            match event:
                case PeerIdentified():
                    self._act(channel.accept(self._hello))
                case Opened():
                    self._flush()
                case bytes():
                    for frame in self._reader.receive(event):
                        self._look(frame)
                    reason = self._reader.error
                    assert reason is None or self._senseless, reason
        self._flush()

    def _look(self, frame: object) -> None:
        """Look at a frame of the server's."""
        match frame:
            case Welcome(payload):
                self.welcome = Hello.decode(payload)
                self.received = 0
            case Messages():
                self.received += len(frame.data)
                for each in markedOf(frame):
                    assert not self._isSecret(_dataOf(each)), (
                        "others' messages are read"
                    )

    def _flush(self) -> None:
        """Write what the channel has to say."""
        assert self._channel is not None
        self.transport.write(self._channel.takeOutput())


@implementer(IClientObserver)
class Client:
    """
    An honest client: a service, over several lives.

    @ivar key: its key.
    @ivar up: what it sends.
    @ivar down: what it is sent.
    @ivar service: the present life, or None.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        key: PrivateKey,
        spool: Path | None,
        numbers: Iterator[int],
        **options: Any,
    ) -> None:
        """
        @param spool: where its sessions outlive it; None for nowhere.
        @param numbers: for what it answers.
        @param options: as L{ClientService}.
        """
        self.key = key
        self.up, self.down = Ledger(), Ledger()
        self.service: ClientService | None = None
        self.answerer = Answerer(self._say)
        self._process = Mortal(network.clock)
        self._network = network
        self._numbers = numbers
        self._spool = spool
        self._asking: Deferred[Any] | None = None  # waits for a packet
        self._answers: list[Deferred[Any]] = []  # to its requests
        self._options = {
            "key": key,
            "trust": Pinned(PrivateKey(SERVER_KEY).publicKey),
            "suites": (XX,),
            "spool": spool,
            **MESSAGES,
            **options,
        }

    def start(self) -> None:
        """Begin a life."""
        process = self._process = Mortal(self._network.clock)
        self.answerer = Answerer(self._say)
        endpoint, options = self._network.endpoint(), self._options
        if self._spool is None:  # one of each kind
            self.service = ClientService(
                endpoint, reactor=process, observer=self, **options
            )
            self.service.leaves = False
        else:
            policy = backoffPolicy(maxDelay=15.0, jitter=lambda: 0.0)
            self.service = ClientService(
                endpoint, reactor=process, retryPolicy=policy, **options
            )
        self.service.startService()

    # IClientObserver

    def onConnected(self, connection: Connection) -> None:
        """There is a connection."""

    def onWaiting(self, delay: float, reason: BaseException) -> None:
        """There is none."""
        assert delay <= 3600, delay

    def onStopped(self, reason: Exception) -> None:
        """There will be none."""

    # What it does

    def send(self, number: int, data: str | bytes) -> None:
        """Send a message."""
        if self.service is not None:
            self.up.send(number, data, self.service.sendData(data))

    def take(self, most: int) -> bool:
        """
        Take what came.

        @return: whether there was anything.
        """
        taken = 0
        if self.service is not None:
            while taken < most and (packet := self.service.retrieved.getData()):
                self._took(packet)
                taken += 1
        return taken > 0

    def _took(self, packet: Packet) -> None:
        """Do something with a packet."""
        self.down.take(None, packet, self.up)
        if isinstance(packet, Request):
            self.answerer.take(packet)

    def _say(self, request: Request, more: int) -> str:
        """Make an answer, or a refusal."""
        number = next(self._numbers)
        data = f"{number}:{more * 'x'}"
        assert request.data is not None
        self.up.answer(number, data, numberOf(request.data))
        return data

    def request(self, number: int, data: str | bytes, timeout: float | None) -> None:
        """Send a request."""
        if self.service is not None:
            answer = self.service.request(data, timeout)
            self._answers.append(answer)
            self.up.ask(number, data, answer, self.down)

    def withdraw(self, number: int) -> None:
        """Do not wait for an answer any more."""
        withdraw(self._answers, number)

    def ask(self, how: int) -> None:
        """
        Wait for what comes, or wait no longer; or wait for a connection, or for room.

        @param how: which of these.
        """
        service = self.service
        if service is None:
            return
        former, waiting = service.former, Deferred[Any]()
        match how % 5:
            case 0 if self._asking is None:
                self._asking = waiting = service.retrieved.get()
                waiting.addBoth(self._cbAsked, service)
            case 1 if self._asking is not None:
                self._asking.cancel()
            case 2:
                waiting = service.whenConnected(how % 3 or None)
            case 3 if former is not None:
                waiting = former.drain()
            case 4 if former is not None:
                waiting = former.close("asked to")
        waiting.addErrback(_trouble)

    def _cbAsked(self, result: Any, service: ClientService) -> Any:
        """Something came, or nothing will."""
        self._asking = None
        if isinstance(result, Packet) and service is self.service:
            self._took(result)
            return None
        return result

    def stop(self) -> Deferred[None] | None:
        """
        End in order.

        @return: fires once it has; None if it does not run.
        """
        service, self.service = self.service, None
        if service is None:
            return None
        return service.stopService().addBoth(self._cbEnded)

    def _cbEnded(self, result: Any) -> Any:
        """Its process is over."""
        self._over()
        return result

    def kill(self) -> None:
        """Be killed."""
        service, self.service = self.service, None
        if service is None:
            return
        process = self._process
        process.kill()
        if service._journal is not None:
            closeFile(service._journal)
        for link in list(self._network.links):
            factory = getattr(link.client.protocol, "factory", None)
            if getattr(factory, "clock", None) is process:
                link.client.lost = True
                link.server.lose(ConnectionResetError())
                self._network.links.remove(link)
        self._over()

    def _over(self) -> None:
        """Take note of the end of a life."""
        self._asking = None
        self._answers.clear()
        self.answerer.held.clear()
        self.up.senderEnded()
        self.down.receiverEnded(durable=self._spool is not None)

    def settle(self) -> None:
        """All is quiet, and written down."""
        self.down.settle()


@implementer(IMessageHandler)
class Handler:
    """
    What a server does with what comes: it takes note, answers some, and takes its time
    over others, or the server's.

    @ivar held: what it has not finished.
    """

    def __init__(
        self,
        got: Callable[[Connection, Packet], None],
        answer: Callable[[Connection, int | None], None],
        answerer: Answerer,
        back: Callable[[Connection], Deferred[Any]],
        leaves: Callable[[Connection], None],
        slow: bool,
        work: Callable[[], None],
    ) -> None:
        """
        @param got: called with what came.
        @param answer: called for what asks for an answer, with its number if it is to
            be answered once.
        @param answerer: answers requests.
        @param back: asks who has asked.
        @param leaves: called when a coroutine ends by itself.
        @param slow: whether it takes its time.
        @param work: called in each turn that it has.
        """
        self._got = got
        self._answer = answer
        self._answerer = answerer
        self._back = back
        self._leaves = leaves
        self._slow = slow
        self._work = work
        self.held: list[Deferred[None]] = []

    def connectionAccepted(self, connection: Connection) -> None:
        """Know that somebody is there."""

    def packetReceived(
        self, connection: Connection, packet: Packet
    ) -> Deferred[None] | None:
        """Take what came."""
        self._work()
        self._got(connection, packet)
        if packet.data is None or isinstance(packet, Answer):
            return None
        number = numberOf(packet.data)
        atOnce = not self._slow or number % 2 == 1
        if number % 3 == 0:  # what is not finished is handed over again after a kill
            self._answer(connection, number if atOnce else None)
        if atOnce:
            return None
        done: Deferred[None] = Deferred()
        self.held.append(done)
        return done

    def requestReceived(self, connection: Connection, packet: Request) -> Any:
        """Answer a request."""
        self._work()
        self._got(connection, packet)
        return self._answerer.receive(packet, lambda: self._back(connection))

    async def talk(self, connection: Connection) -> None:
        """Do the same as a coroutine, which returns or fails after some packets."""
        async for packet in connection.retrieved:
            number = self._takes(connection, packet)
            if self._slow and number % 2 == 0:
                done: Deferred[None] = Deferred()
                self.held.append(done)
                await done
            if number % _TALKS == 0:
                self._leaves(connection)
                if number % 2:
                    raise Broken
                return

    def _takes(self, connection: Connection, packet: Packet) -> int:
        """
        Take a packet in a coroutine.

        @return: its number.
        """
        self._got(connection, packet)
        if isinstance(packet, Request):
            self._answerer.take(packet)
            return 1
        if packet.data is None or isinstance(packet, Answer):
            return 1
        number = numberOf(packet.data)
        if number % 3 == 0:
            self._answer(connection, None)
        return number

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Know that somebody is gone."""

    def finish(self) -> bool:
        """
        Be done with the oldest.

        @return: whether there was one.
        """
        if not self.held:
            return False
        done = self.held.pop(0)
        if not done.called:  # a stop has an end
            done.callback(None)
        return True


def withdraw(answers: list[Deferred[Any]], number: int) -> None:
    """Cancel one of several requests, of those that are not answered."""
    answers[:] = [each for each in answers if not each.called]
    if answers:
        answers.pop(number % len(answers)).cancel()


def _dataOf(body: str | bytes) -> str | bytes:
    """Tell what a message says, whatever it is."""
    if isinstance(body, EncodedRequest):
        return decodeRequest(body)
    return decodeResponse(body).data if isinstance(body, EncodedResponse) else body


def _trouble(failure: Failure) -> None:
    """Something does not come about, as may be."""
    failure.trap(AESMError, CancelledError, ConnectError)
