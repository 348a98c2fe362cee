"""
What the server of every peer does: the first message of a link says what its
client wants.

::

    echo            this message and all others come back
    count N         N messages follow; then say done, and begin anew
    join            be told what the others are told; this message comes back
    fanout N SIZE   say N messages of so many bytes to all who joined
"""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = ["payload", "serve"]


def payload(size: int) -> bytes:
    """
    Make a message.

    @param size: bytes.
    @return: as many, no two runs of 256 alike.
    """
    return (bytes(range(256)) * (size // 256 + 1))[:size]


async def serve(peer: Any, directory: str) -> None:
    """
    Serve until the process is ended.

    @param peer: a peer.
    @param directory: where the credentials are.
    """
    audience: list[Any] = []

    def accepted(link: Any) -> None:
        """Wait for a link's first message."""
        link.received = partial(begin, link)

    def begin(link: Any, data: bytes) -> Any:
        """Do as the first message says."""
        what, *numbers = data.split()
        match what:
            case b"count":
                link.received = _counter(link, int(numbers[0]), link.received)
            case b"fanout":
                count, size = map(int, numbers)
                peer.spawn(peer.sendAll(audience, payload(size), count))
            case b"join":
                audience.append(link)
                return link.send(data)
            case _:
                link.received = link.send
                return link.send(data)
        return None

    print(await peer.listen(directory, accepted), flush=True)
    never, _ = peer.signal()
    await never


def _counter(link: Any, count: int, after: Any) -> Any:
    """
    Count messages.

    @param link: where they come from, and who is told when all are there.
    @param count: how many.
    @param after: what to call with what comes behind them.
    @return: what to call with each.
    """
    left = count

    def received(data: bytes) -> Any:
        """Count one."""
        nonlocal left
        left -= 1
        if left:
            return None
        link.received = after
        return link.send(b"done")

    return received
