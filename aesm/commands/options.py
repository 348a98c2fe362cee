"""
What the command lines of clients and servers have in common.
"""

from __future__ import annotations

__all__ = ["DEFAULT_NAME", "NAME_OPTION"]

DEFAULT_NAME = "aesm"
# For C{optParameters} of C{usage.Options}.
NAME_OPTION = [
    *("name", None, DEFAULT_NAME),
    "Name of the application, the same at both sides.",
]
