"""
The checks of L{aesm.conformance}, in memory, of servers and clients that may have been
spoiled before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from aesm import Pinned, PrivateKey, PublicKey, listen
from aesm.conformance.case import SERVER, Subject
from aesm.conformance.echo import EchoClient
from aesm.conformance.runner import FAIL, Outcome, chosen, run
from aesm.handlers import Echo
from aesm.noise import KeyPair
from aesm.server.registry import Connections
from aesm.testing import MemoryNetwork

# So that what waits for heartbeats, and what fills buffers, has not so much to do.
QUICK: dict[str, Any] = {
    "heartbeat": 4.0,
    "receiveBuffer": 1 << 17,
    "sendBuffer": 1 << 18,
    "maxMessage": 1 << 17,
}


def judge(
    role: str,
    only: Sequence[str] = (),
    *,
    psk: bytes | None = None,
    identity: KeyPair | None = None,
    client: Callable[..., object] = EchoClient,
    **options: Any,
) -> dict[str, Outcome]:
    """
    Run checks of a server or client of ours.

    @param only: which.
    @param psk: the pre-shared key of both.
    @param identity: as L{Subject} takes it.
    @param client: starts a client, from what L{EchoClient} takes.
    @param options: more options of the server or client.
    @return: how they went, by name.
    """
    network = MemoryNetwork()
    clock = network.clock
    endpoint = network.endpoint() if role == SERVER else None
    subject = Subject(clock, endpoint, psk=psk, identity=identity)
    options = QUICK | {"key": PrivateKey.generate(), "psk": psk} | options
    if role == SERVER:
        options.setdefault("handler", Echo(Connections()))
        listen(clock, network.endpoint(), **options)
    else:
        network.endpoint().listen(subject.factory)
        trust = options.pop("trust", Pinned(PublicKey(subject.ours.public)))
        client(clock, network.endpoint(), trust, **options)
    return outcomesOf(network, subject, only)


def outcomesOf(
    network: MemoryNetwork, subject: Subject, only: Sequence[str]
) -> dict[str, Outcome]:
    """
    Run checks.

    @param network: where the subject is.
    @param only: which.
    @return: how they went, by name.
    """
    outcomes: dict[str, Outcome] = {}

    async def collect() -> None:
        async for outcome in run(subject, chosen(subject.role, only)):
            outcomes[outcome.name] = outcome

    done = Deferred.fromCoroutine(collect())
    results: list[Any] = []
    done.addBoth(results.append)
    while not results:
        network.advance(0.5)
    if results[0] is not None:
        results[0].raiseException()
    return outcomes


def failed(outcomes: dict[str, Outcome]) -> dict[str, str]:
    """Tell which checks have failed, and with what."""
    return {
        name: outcome.seen
        for name, outcome in outcomes.items()
        if outcome.verdict == FAIL
    }
