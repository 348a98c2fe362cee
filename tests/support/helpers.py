"""
What several tests share: bytes cut into pieces, and two sides of the core joined
without a transport between them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

from hypothesis import strategies as st
from twisted.internet.task import Clock

from aesm.core.channel.channel import Channel
from aesm.core.channel.events import Event, Failed, PeerIdentified
from aesm.core.channel.roles import ClientChannel, ServerChannel
from aesm.core.channel.settings import SUITES, ChannelSettings, defaultSuites, withPSK
from aesm.messages.stream import DataStream, costOf

CLIENT_KEY = b"\x11" * 32
SERVER_KEY = b"\x22" * 32
PSK = b"\x55" * 32

XX = SUITES[2]  # quick, and the same on every installation
HERE = defaultSuites()  # what this installation can do
ALL_HERE = HERE + tuple(map(withPSK, HERE))

# For L{pieces}: sizes that fall before, into and behind most things.
chunkSizes = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any)


def remains(kind: type, identity: int) -> bool:
    """
    Tell whether an object is still there, without a weak reference to it: compiled
    classes have none.

    @param kind: its class.
    @param identity: its C{id}.
    """
    gc.collect()
    return any(type(e) is kind and id(e) == identity for e in gc.get_objects())


def bring(stream: DataStream, time: float, data: Sequence[str | bytes]) -> None:
    """
    Add packets to a stream, as a connection does.

    @param stream: where to.
    @param time: when they were sent.
    @param data: the messages.
    """
    stream.extend(time, data, sum(map(costOf, data)))


def pieces(data: bytes, sizes: Iterable[int] = (1,)) -> list[bytes]:
    """
    Cut bytes up.

    @param data: the bytes.
    @param sizes: how long the pieces are, over and over; not all of them 0.
    @return: the pieces in order, the last as long as it happens to be.
    """
    parts: list[bytes] = []
    turns = cycle(sizes)
    position = 0
    while position < len(data):
        size = next(turns)
        parts.append(data[position : position + size])
        position += size
    return parts


def outline(events: Sequence[object]) -> list[object]:
    """
    Make events comparable: an error becomes its type and its text.

    @param events: of any kind.
    @return: as many.
    """
    return [
        (type(event), type(event.error), str(event.error))
        if hasattr(event, "error")
        else event
        for event in events
    ]


def channelSettings(
    staticKey: bytes, suite: str = XX, **options: Any
) -> ChannelSettings:
    """
    Make settings with one suite, and the pre-shared key if it needs one.

    @param staticKey: our own key, 32 bytes.
    @param suite: the suite.
    @param options: more of L{ChannelSettings}, or instead.
    """
    if "psk" in suite:
        options.setdefault("psk", PSK)
    return ChannelSettings(staticKey, suites=(suite,), **options)


def makeChannels(
    suite: str = XX, **options: Any
) -> tuple[ClientChannel, ServerChannel]:
    """
    Make two channels that suit each other.

    @param suite: the suite of both.
    @param options: more of L{ChannelSettings}, for both.
    """
    return (
        ClientChannel(channelSettings(CLIENT_KEY, suite, **options)),
        ServerChannel(channelSettings(SERVER_KEY, suite, **options)),
    )


def feed(channel: Channel, chunks: Iterable[bytes], hello: bytes = b"") -> list[Event]:
    """
    Let a channel take bytes, and let its peer in when it asks.

    @param channel: who takes them.
    @param chunks: the bytes.
    @param hello: the payload of a client's message 3.
    @return: what they caused.
    """
    events: list[Event] = []
    for chunk in chunks:
        for event in channel.receive(chunk):
            events.append(event)
            if isinstance(event, PeerIdentified):
                payload = hello if isinstance(channel, ClientChannel) else b""
                events += channel.accept(payload)
    return events


def converse(
    client: Channel, server: Channel, sizes: Iterable[int] | None = None
) -> tuple[list[Event], list[Event]]:
    """
    Carry bytes both ways until neither side has more to say.

    @param client: one side.
    @param server: the other.
    @param sizes: how to cut them up; None to leave them whole.
    @return: what happened at the client, and at the server.
    """
    atClient: list[Event] = []
    atServer: list[Event] = []
    while True:
        toServer, toClient = client.takeOutput(), server.takeOutput()
        if not toServer and not toClient:
            return atClient, atServer
        for data, channel, events in (
            (toServer, server, atServer),
            (toClient, client, atClient),
        ):
            events += feed(channel, [data] if sizes is None else pieces(data, sizes))


def openChannels(
    suite: str = XX, **options: Any
) -> tuple[ClientChannel, ServerChannel]:
    """
    Make two channels that are open.

    @param suite: the suite of both.
    @param options: more of L{ChannelSettings}, for both.
    """
    client, server = makeChannels(suite, **options)
    converse(client, server)
    return client, server


def failure(events: Sequence[Event]) -> Exception:
    """
    Get the error that a channel's last event tells of.

    @param events: of which the last must be L{Failed}, and no other.
    """
    *others, last = events
    assert isinstance(last, Failed), events
    assert not any(isinstance(event, Failed) for event in others), events
    return last.error


def oneTurn(clock: Clock) -> None:
    """
    Call what is due now, but not what that schedules, as a reactor does in one turn of
    its event loop; C{Clock.advance} calls both.
    """
    for call in list(clock.getDelayedCalls()):
        if call.active() and call.getTime() <= clock.seconds():
            work = partial(call.func, *call.args, **call.kw)  # type: ignore[attr-defined]
            call.cancel()
            work()
