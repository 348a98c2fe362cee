"""
The encrypted byte stream for any Twisted protocol: see L{aesm.secure.endpoints}.
"""

from __future__ import annotations

from aesm.secure.endpoints import wrapClientEndpoint, wrapServerEndpoint
from aesm.secure.transport import SecureAddress, SecureTransport

__all__ = [
    "SecureAddress",
    "SecureTransport",
    "wrapClientEndpoint",
    "wrapServerEndpoint",
]
