"""
Both ends joined in memory, for tests without sockets or waiting: see
L{aesm.testing.network}.
"""

from __future__ import annotations

from aesm.testing.network import (
    ConnectedPair,
    MemoryEndpoint,
    MemoryNetwork,
    MemoryPort,
    connectedPair,
)

__all__ = [
    "ConnectedPair",
    "MemoryEndpoint",
    "MemoryNetwork",
    "MemoryPort",
    "connectedPair",
]
