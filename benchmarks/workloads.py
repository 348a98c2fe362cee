"""
What is measured, as a table.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QUICK", "SECONDS", "WORKLOADS", "Figure", "Workload"]

SECONDS = 1.0  # that a run measures for
QUICK = 20  # --quick divides them by so much
SHORT_LIST = ("twistedplain", "twistedtls", "twistedmutual", "aesm")  # of many
FAR = (  # over links with delays
    "twistedtls",
    "twistedmutual",
    "aesm",
    "asynciotls",
    "wss",
    "zeromqcurve",
    "naivenoise",
)
ASKING = ("amptls", "aesm", "aesmpure")  # who has requests; the first nothing else


@dataclass(frozen=True)
class Figure:
    """
    One number that a run gives.

    @ivar name: as in the client's result.
    @ivar unit: for people.
    @ivar higher: whether more is better.
    @ivar label: what it is, if a workload gives several.
    """

    name: str
    unit: str
    higher: bool = True
    label: str = ""


@dataclass(frozen=True)
class Workload:
    """
    One thing to do.

    @ivar name: what is typed after C{--only}.
    @ivar kind: the function of L{benchmarks.client} that does it.
    @ivar title: what it is, for people.
    @ivar figures: what it gives.
    @ivar size: bytes of each message.
    @ivar clients: connections.
    @ivar trip: the round-trip time of the link, milliseconds; 0 for loopback as it is.
    @ivar oneCore: whether both processes share one core: where they take turns
        anyway, two cores would measure how fast the kernel wakes them up.
    @ivar peers: who takes part unless C{--peers} says so; empty for all.
    @ivar many: whether it is about many connections: done in one round only, and
        not at all with C{--quick}, unless C{--only} says so.
    @ivar reference: whom the others are compared with.
    """

    name: str
    kind: str
    title: str
    figures: tuple[Figure, ...]
    size: int = 64
    clients: int = 1
    trip: int = 0
    oneCore: bool = False
    peers: tuple[str, ...] = ()
    many: bool = False
    reference: str = "twistedtls"

    @property
    def main(self) -> bool:
        """Whether it is one of those that all peers do."""
        return not self.peers

    def suits(self, peer: str) -> bool:
        """
        Say whether a peer can do it.

        @param peer: who.
        """
        return peer in ASKING if self.peers == ASKING else peer != ASKING[0]


_RATE = Figure("rate", "messages/s")
_CONNECTS = Figure("rate", "connections/s")
_MEMORY = Figure("bytes", "bytes/connection", higher=False)

WORKLOADS = (
    Workload("small", "stream", "Messages of 64 B", (_RATE,)),
    Workload("mid", "stream", "Messages of 1 KiB", (_RATE,), 1024),
    Workload("bulk", "stream", "Messages of 256 KiB", (_RATE,), 262_144),
    Workload(
        "pingpong",
        "pingpong",
        "Round trips of 64 B",
        (
            Figure("median", "µs", higher=False, label="median"),
            Figure("p99", "µs", higher=False, label="99 of 100 take less"),
        ),
        oneCore=True,
    ),
    Workload(
        "request",
        "request",
        "Requests of 64 B, one at a time",
        (
            Figure("median", "µs", higher=False, label="median"),
            Figure("p99", "µs", higher=False, label="99 of 100 take less"),
        ),
        oneCore=True,
        peers=ASKING,
        reference=ASKING[0],
    ),
    Workload(
        "requests",
        "requests",
        "Requests of 64 B, 500 under way",
        (Figure("rate", "requests/s"),),
        peers=ASKING,
        reference=ASKING[0],
    ),
    Workload("fanout", "fanout", "256 B to each of 50 clients", (_RATE,), 256, 50),
    Workload(
        "connect",
        "connects",
        "New connections, one at a time",
        (_CONNECTS,),
        oneCore=True,
    ),
    Workload(
        "connect50", "connects", "New connections, 50 at once", (_CONNECTS,), clients=50
    ),
    Workload(
        "idle",
        "idle",
        "Memory of an idle connection, of 2,000",
        (_MEMORY,),
        clients=2_000,
    ),
    *(
        Workload(
            f"far{trip}",
            "far",
            f"A link with a round-trip time of {trip} ms",
            (
                Figure("first", "ms", False, "connect, first message answered"),
                Figure("trip", "ms", False, "one message and its answer"),
            ),
            trip=trip,
            peers=FAR,
        )
        for trip in (1, 20, 100)
    ),
    Workload(
        "idle10000",
        "idle",
        "Memory of an idle connection, of 10,000",
        (_MEMORY,),
        clients=10_000,
        peers=SHORT_LIST,
        many=True,
    ),
    *(
        Workload(
            f"grow{others}",
            "grow",
            f"With {others:,} other connection{'s' if others > 1 else ''} open",
            (
                Figure("rate", "messages/s", label="messages of 64 B"),
                Figure("connect", "ms", False, "connect, one message, close"),
            ),
            clients=others,
            peers=SHORT_LIST,
            many=True,
        )
        for others in (1, 100, 1_000, 10_000)
    ),
)
