"""
Words for why a connection is over.
"""

from __future__ import annotations

from aesm.errors import ConnectionClosed

__all__ = ["closedByUs", "quoted"]


def quoted(reason: str) -> str:
    """
    Show the words of a CLOSE.

    @param reason: the words; they may be a stranger's.
    @return: the words with nothing in them that is not printable.
    """
    return f": {reason!r}" if reason else ""


def closedByUs(code: int, reason: str) -> ConnectionClosed:
    """
    Say that it is we who close.

    @param code: PROTOCOL section 9.
    @param reason: words for the peer.
    @return: the error.
    """
    words = f"we closed the connection (code {code}){quoted(reason)}"
    return ConnectionClosed(words, code, reason)
