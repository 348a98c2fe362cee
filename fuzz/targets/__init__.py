"""
One module for each target: what it is given, and what must hold whatever it is
given.

Each has C{run(data)}, which raises if the invariant in the module's docstring is
broken, and C{seeds()}, the inputs to begin with, made from real conversations.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["NAMES", "target"]

NAMES = (
    "offer",
    "handshake",
    "records",
    "frames",
    "conversation",
    "hello",
    "keyfiles",
    "tokens",
    "chat",
    "stream",
    "websocket",
    "server",
)


def target(name: str) -> ModuleType:
    """
    Get a target.

    @param name: one of L{NAMES}.
    @return: its module.
    """
    return import_module(f"{__name__}.{name}")
