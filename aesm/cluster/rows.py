"""
Who is there, at any node, page by page::

    for node in await nodesOf(engine):
        async for row in rowsOf(engine, f"h:{node}"): ...   # those that a node has
    async for row in rowsOf(engine, "w"): ...               # those that no node has
    async for row in rowsOf(engine, f"k:{publicKey}"): ...  # those of a key
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from aesm.cluster.scripts import FIND

if TYPE_CHECKING:
    from aesm.cluster.engine import Engine

SIZE = 256  # sessions, about, of a page


class Row(NamedTuple):
    """
    A session, wherever it is.

    @ivar name: what it is called.
    @ivar peer: the public key, in text form.
    @ivar node: whose it is, or empty.
    @ivar since: when its client came last, milliseconds since the Unix epoch.
    @ivar isAway: whether it waits for its client.
    """

    name: str
    peer: str
    node: str
    since: int
    isAway: bool


async def nodesOf(engine: Engine) -> list[str]:
    """List the nodes by name; C{SpoolError} if the engine cannot be asked now."""
    _, found = await engine.call(FIND, "n", "0", 0)
    return [name.decode() for name in found]


async def rowsOf(engine: Engine, where: str) -> AsyncIterator[Row]:
    """
    List sessions: one that moves meanwhile may be left out, or come twice.

    @param where: where in the engine they are named.
    @raise SpoolError: the engine cannot be asked now.
    """
    cursor = b"0"
    while True:
        cursor, found = await engine.call(FIND, where, cursor, SIZE)
        parts = zip(*(found[part::5] for part in range(5)), strict=True)
        for name, peer, node, since, isAway in parts:
            said = (name.decode(), peer.decode(), node.decode())
            yield Row(*said, int(float(since)), bool(isAway))
        if cursor == b"0":
            return
