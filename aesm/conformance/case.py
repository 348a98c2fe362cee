"""
What a check has to work with: connections to the implementation under test, whichever
side that is, and how it says what it has found::

    @check("R-6.4")
    async def unknownType(case):
        \"\"\"A frame of a type that is not known is answered with CLOSE 1002.\"\"\"
        peer = await case.open()
        peer.send(99, b"")
        await peer.says(1002)

A check that raises nothing has passed, and its docstring is what was seen.  L{Unmet}
fails it, and L{NotApplicable} says why there is nothing to see.
"""

from __future__ import annotations

import re
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from aesm.conformance.hello import encoded, parsed
from aesm.conformance.peer import Peer
from aesm.conformance.wire import (
    Answer,
    Channel,
    Dial,
    Ended,
    Frame,
    Kind,
    Silent,
    Unmet,
    Wire,
)
from aesm.errors import AESMError
from aesm.noise import KeyPair

LONGEST = 45.0  # seconds that a check waits for a peer's time-outs, before patience
SERVER, CLIENT = "server", "client"
FIRST, LAST = -1, 1  # when a check begins
BOTH = (SERVER, CLIENT)

SUITES = (  # docs/protocol.md, section 2; those first that cost least
    "Noise_XX_25519_AESGCM_SHA256",
    "Noise_XX_25519_ChaChaPoly_SHA256",
    "Noise_XXhfs_25519+MLKEM768_AESGCM_SHA256",
    "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256",
)

_C = TypeVar("_C", bound="Run")


# What does a check.
Run: TypeAlias = "Callable[[Case], Coroutine[Deferred[Any], Any, None]]"


class NotApplicable(Exception):
    """There is nothing to be seen here; the text says why."""


@dataclass(frozen=True)
class Check:
    """
    One check.

    @ivar name: its name, with that of its group before it.
    @ivar requirement: the requirement in docs/protocol.md.
    @ivar says: one sentence, true if the check passes.
    @ivar roles: of whom it is, L{SERVER}, L{CLIENT} or both.
    @ivar must: whether the requirement says MUST.
    @ivar begins: L{FIRST} if it waits for a peer's time-outs, L{LAST} if it leaves a
        peer with much to do, else 0.
    @ivar run: does it.
    """

    name: str
    requirement: str
    says: str
    roles: tuple[str, ...]
    must: bool
    begins: int
    run: Run = field(repr=False)


CHECKS: dict[str, Check] = {}


def check(
    requirement: str, *roles: str, must: bool = True, begins: int = 0
) -> Callable[[_C], _C]:
    """
    Make a check of a coroutine function: its name is how that is spelt there, its
    docstring what it says; the rest as L{Check}.
    """

    def register(run: _C) -> _C:
        group = run.__module__.rpartition(".")[2]
        words = re.sub("([A-Z]|[0-9]+)", r"-\1", run.__name__).lower()
        says = " ".join((run.__doc__ or "").split())
        name = f"{group}.{words}"
        add(name, requirement, says, run, *roles, must=must, begins=begins)
        return run

    return register


def breach(
    name: str,
    requirement: str,
    what: str,
    do: Callable[[Peer], object],
    *codes: int,
    roles: tuple[str, ...] = BOTH,
    needs: str = "",
    hello: dict[str, Any] | None = None,
) -> None:
    """
    Make a check that a breach of the rules is answered with a CLOSE.

    @param what: names it, as the check's sentence begins.
    @param do: commits it.
    @param needs: what the peer must have said that it takes, C{"requests"}.
    @param hello: what we say of ourselves.
    """

    async def run(case: Case) -> None:
        peer = await case.open(hello)
        if needs and not peer.said.get(needs):
            raise NotApplicable(f"it does not say {needs!r}")
        # What is in flight is no answer to what comes now.
        await peer.barrier()
        do(peer)
        await peer.says(*codes)
        if peer.messages:
            raise Unmet("it took what was sent as a message, too")

    says = f"{what} is answered with CLOSE {' or '.join(map(str, codes))}."
    add(name, requirement, says, run, *roles)


def add(
    name: str,
    requirement: str,
    says: str,
    run: Run,
    *roles: str,
    must: bool = True,
    begins: int = 0,
) -> None:
    """List a check, of what L{Check} says."""
    if name in CHECKS or not says:
        raise ValueError(f"{name} is there already, or says nothing")
    CHECKS[name] = Check(name, requirement, says, roles or BOTH, must, begins, run)


def sends(
    kind: int, body: bytes = b"", size: int | None = None
) -> Callable[[Peer], object]:
    """Make a breach of one frame, which counts as nothing, or of its header."""
    return lambda peer: peer.channel.write(peer.channel.encode(kind, body, size))


def flipped(data: bytes, position: int) -> bytes:
    """Flip a bit of one byte."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


class _Factory(Factory):
    """Makes wires."""

    noisy = False

    def __init__(self, make: Callable[[], Wire]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """Make one."""
        return self._make()


class Subject:
    """
    The implementation under test.

    @ivar role: what it is, L{SERVER} or L{CLIENT}.
    @ivar key: its static public key, where it is known or was seen.
    @ivar identity: our key pair where it must be the same all the time.
    @ivar suite: which we offer.
    @ivar keeps: whether it keeps the sessions of clients that are cut, which a server
        should.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint | None = None,
        *,
        key: bytes | None = None,
        identity: KeyPair | None = None,
        psk: bytes | None = None,
        name: str = "aesm",
        patience: float = 1.0,
    ) -> None:
        """@param patience: what times are multiplied by."""
        self.clock, self.endpoint = clock, endpoint
        self.role = CLIENT if endpoint is None else SERVER
        self.key, self.identity, self.psk, self.name = key, identity, psk, name
        self.patience = patience
        self.suites = tuple(self.withPSK(suite) for suite in SUITES)
        self.suite = self.suites[0]
        self.keeps = True
        self.ours = identity or KeyPair.generate()
        self.factory = _Factory(self._incoming)
        self._arrived: deque[Wire] = deque()
        self._wanted: Deferred[None] | None = None

    def withPSK(self, suite: str, psk: bool | None = None) -> str:
        """
        Name a suite as it is with a pre-shared key or without; None for what we have.
        """
        if psk is None:
            psk = self.psk is not None
        if not psk:
            return suite
        return suite.replace("XXhfs_", "XXhfs+psk0_").replace("XX_", "XXpsk0_")

    def makeWire(self) -> Wire:
        """Make the protocol of a connection."""
        return Wire(self.clock, self.patience)

    def _incoming(self) -> Wire:
        """A client has come."""
        wire = self.makeWire()
        self._arrived.append(wire)
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted.callback(None)
        return wire

    async def arrival(self, seconds: float) -> Wire:
        """Wait for the client; C{Silent} if it does not come."""
        seconds *= self.patience
        until = self.clock.seconds() + seconds
        while True:
            while self._arrived:
                wire = self._arrived.popleft()
                if not wire.ended:
                    return wire
            left = until - self.clock.seconds()
            if left <= 0:
                raise Silent(f"the client did not come for {seconds:g} s")
            wanted = self._wanted = Deferred()
            timer = self.clock.callLater(left, wanted.callback, None)
            try:
                await wanted
            finally:
                self._wanted = None
                if timer.active():
                    timer.cancel()


class Case:
    """
    One run of one check.

    @ivar subject: what is tested.
    @ivar key: the key pair that we use.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        isServer = subject.role == SERVER
        self.key = subject.ours
        if isServer and subject.identity is None:
            self.key = KeyPair.generate()
        self._wires: list[Wire] = []
        self._peers: list[Peer] = []

    # Connections

    async def wire(self) -> Wire:
        """Have another connection, of which nothing is said yet."""
        subject = self.subject
        if subject.endpoint is None:
            wire = await subject.arrival(LONGEST)
        else:
            wire = subject.makeWire()
            made = subject.endpoint.connect(_Factory(lambda: wire))
            try:
                await made
            except (ConnectError, OSError, AESMError) as error:
                raise Unmet(f"it cannot be reached: {error}") from None
        self._wires.append(wire)
        return wire

    def dial(
        self, wire: Wire, suite: str = "", key: KeyPair | None = None, **more: Any
    ) -> Dial:
        """Begin a handshake as the client."""
        subject = self.subject
        options = {"name": subject.name, "psk": subject.psk} | more
        return Dial(wire, suite or subject.suite, key or self.key, **options)

    async def greet(
        self,
        hello: bytes,
        key: KeyPair | None = None,
        early: Callable[[Channel], bytes] | None = None,
    ) -> Channel:
        """Complete the handshake as the client; C{early} makes what follows at once."""
        dial = self.dial(await self.wire(), key=key)
        dial.wire.write(dial.offer + dial.one)
        await dial.second()
        self._checkKey(dial.noise.rs)
        three = dial.third(hello)
        channel = dial.channel()
        stream = b"" if early is None else early(channel)
        sealed = [
            channel.seal(stream[at : at + 65519]) for at in range(0, len(stream), 65519)
        ]
        dial.wire.write(three + b"".join(sealed))
        return channel

    def _checkKey(self, public: bytes | None) -> None:
        """See to it that the key is the one that it has."""
        subject = self.subject
        if subject.key is None:
            subject.key = public
        elif subject.key != public:
            raise Unmet("its static key is not the one that it should have")

    async def answer(self, ephemeral: KeyPair | None = None) -> Answer:
        """Begin a handshake as the server, up to message 1."""
        subject = self.subject
        answer = Answer(await self.wire(), self.key, subject.name, subject.psk)
        answer.ephemeral = ephemeral
        await answer.offer()
        await answer.first()
        return answer

    async def admit(self) -> tuple[Channel, dict[str, Any]]:
        """Complete the handshake as the server; gives the client's hello, too."""
        answer = await self.answer()
        answer.wire.write(answer.two())
        payload = await answer.third()
        self._checkKey(answer.noise.rs)
        return answer.channel(), parsed(payload, "hello")

    async def open(
        self,
        hello: dict[str, Any] | None = None,
        key: KeyPair | None = None,
        admitted: tuple[Channel, dict[str, Any]] | None = None,
    ) -> Peer:
        """
        Have a connection on which messages can be exchanged, in a session of its own
        unless C{hello} says otherwise.

        @param admitted: what C{admit} gave; None to do that.
        """
        hello = {"agent": "aesm-conformance"} | (hello or {})
        if self.subject.role == SERVER:
            channel = await self.greet(encoded(hello), key)
            peer = Peer(channel, await welcomed(channel), hello)
        else:
            channel, said = admitted or await self.admit()
            peer = await self.welcome(channel, said, hello)
        self._peers.append(peer)
        return peer

    async def welcome(
        self, channel: Channel, said: dict[str, Any], hello: dict[str, Any]
    ) -> Peer:
        """Send a WELCOME, which takes no early messages."""
        await channel.skip(said.get("early", 0))
        hello = {"session": secrets.token_hex(16)} | hello
        channel.write(channel.encode(Kind.WELCOME, encoded(hello)))
        return Peer(channel, said, hello)

    async def resume(self, former: Peer, **hello: Any) -> Peer:
        """
        Go on with a session over another connection; what the peer has not received is
        for the check to send again, from C{log[sent:]} on.
        """
        said = former.hello | {"received": former.got} | hello
        if self.subject.role == SERVER:
            session = former.said["session"]
            peer = await self.open(said | {"session": session})
            if peer.said.get("session") != session:
                if not self.subject.keeps:
                    raise NotApplicable("it keeps no sessions of those who are cut")
                raise Unmet("its WELCOME has another session")
        else:
            session = former.hello["session"]
            channel, theirs = await self.admit()
            if theirs.get("session") != session:
                raise Unmet("its hello does not name the session")
            peer = await self.welcome(channel, theirs, said)
            self._peers.append(peer)
        received = peer.said.get("received", 0)
        if not former.acknowledged <= received <= former.sent:
            raise Unmet(
                f"it has received {received} messages, of {former.sent} sent and "
                f"{former.acknowledged} acknowledged"
            )
        peer.resumeFrom(former, received)
        return peer

    # Time

    @property
    def now(self) -> float:
        """The time, seconds by the clock."""
        return self.subject.clock.seconds()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self.subject.clock, seconds * self.subject.patience)

    def bound(self, seconds: float, what: str) -> None:
        """See to it that nobody waits for ever, nor too long for us."""
        longest = LONGEST * self.subject.patience
        if seconds > longest:
            raise NotApplicable(
                f"{what} takes {seconds:g} s, more than {longest:g}: set a shorter "
                "heartbeat there, or more --patience"
            )

    # The end

    async def finish(self) -> None:
        """Close what is open; of a client in order, for whoever comes next."""
        if self.subject.role == CLIENT:
            for peer in self._peers:
                await self._leave(peer)
            # What it has not sent back yet it may send in another session.
            if any(peer.sent > peer.got for peer in self._peers):
                with suppress(Unmet):
                    peer = await self.open()
                    await peer.barrier()
                    await self._leave(peer)
        for wire in self._wires:
            wire.cut()

    async def _leave(self, peer: Peer) -> None:
        """Leave a client without a session."""
        with suppress(Unmet):
            if not peer.wire.ended:
                await peer.leave()
        peer.wire.cut()


async def welcomed(channel: Channel) -> dict[str, Any]:
    """Read a WELCOME."""
    frame: Frame | None = await channel.frame()
    if frame is None:
        raise Ended("it ended its stream instead of a WELCOME")
    if frame.kind == Kind.CLOSE:
        raise Unmet(f"it said {frame} instead of a WELCOME: {frame.body[2:]!r}")
    if frame.kind != Kind.WELCOME:
        raise Unmet(f"its first frame is {frame}")
    return parsed(frame.body, "WELCOME")
