"""
What is measured, as a table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["QUICK", "WORKLOADS", "Figure", "Workload"]

QUICK = 20  # --quick divides the work by so much
LEAST = 10  # times that anything is done
MANY = 2_000  # connections that --quick still opens
SHORT_LIST = ("twistedplain", "twistedtls", "aesm")  # where all would take hours


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
    @ivar text: what it is, for people.
    @ivar figures: what it gives.
    @ivar count: how often, or how many messages.
    @ivar size: bytes of each message.
    @ivar clients: connections.
    @ivar oneCore: whether both processes share one core: where they take turns
        anyway, two cores would measure how fast the kernel wakes them up.
    @ivar peers: who takes part unless C{--peers} says so; empty for all.
    """

    name: str
    kind: str
    text: str
    figures: tuple[Figure, ...]
    count: int
    size: int = 64
    clients: int = 1
    oneCore: bool = False
    peers: tuple[str, ...] = ()

    @property
    def huge(self) -> bool:
        """
        Whether C{--quick} leaves it out: connections are not divided, for with
        fewer it would be something else.
        """
        return self.clients > MANY

    def divided(self, by: int) -> Workload:
        """
        Do less of it.

        @param by: how many times less.
        @return: a smaller workload.
        """
        return replace(self, count=max(self.clients, LEAST, self.count // by))


_RATE = Figure("rate", "messages/s")
_CONNECTS = Figure("rate", "connections/s")
_MEMORY = Figure("bytes", "bytes/connection", higher=False)

WORKLOADS = (
    Workload("small", "stream", "64 B, one way", (_RATE,), 1_000_000),
    Workload("mid", "stream", "1 KiB, one way", (_RATE,), 500_000, 1024),
    Workload("bulk", "stream", "256 KiB, one way", (_RATE,), 4_000, 262_144),
    Workload(
        "pingpong",
        "pingpong",
        "round trips of 64 B",
        (
            Figure("median", "µs", higher=False, label="median"),
            Figure("p99", "µs", higher=False, label="99 %"),
        ),
        10_000,
        oneCore=True,
    ),
    Workload("fanout", "fanout", "256 B to each of 50", (_RATE,), 10_000, 256, 50),
    Workload(
        "connect",
        "connects",
        "connect, one message, close",
        (_CONNECTS,),
        1_000,
        oneCore=True,
    ),
    Workload(
        "connect50",
        "connects",
        "the same, 50 at once",
        (_CONNECTS,),
        1_000,
        clients=50,
    ),
    Workload("idle", "idle", "memory, 2,000 idle", (_MEMORY,), 1, clients=2_000),
    Workload(
        "idle10000",
        "idle",
        "memory, 10,000 idle",
        (_MEMORY,),
        1,
        clients=10_000,
        peers=SHORT_LIST,
    ),
    *(
        Workload(
            f"grow{others}",
            "grow",
            f"with {others:,} others open",
            (
                Figure("rate", "messages/s", label="64 B, one way"),
                Figure("connect", "ms", higher=False, label="connect, message, close"),
            ),
            100_000,
            clients=others,
            peers=SHORT_LIST,
        )
        for others in (1, 100, 1_000, 10_000)
    ),
)
