"""
The encrypted byte stream for any Twisted protocol: see L{aesm.secure.endpoints}.

Each name is loaded when it is first asked for: who needs one module of this package,
such as C{aesm log}, does not load all of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aesm.secure.endpoints import wrapClientEndpoint, wrapServerEndpoint
    from aesm.secure.transport import SecureAddress, SecureTransport

__all__ = [
    "SecureAddress",
    "SecureTransport",
    "wrapClientEndpoint",
    "wrapServerEndpoint",
]


def __getattr__(name: str) -> object:
    """
    Load a public name when it is first asked for.

    @raise AttributeError: there is no such name.
    @see: PEP 562
    """
    if name not in __all__:
        raise AttributeError(f"module 'aesm.secure' has no attribute {name!r}")
    home = "transport" if name.startswith("Secure") else "endpoints"
    value = globals()[name] = getattr(import_module(f"aesm.secure.{home}"), name)
    return value
