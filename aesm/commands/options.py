"""
What the command lines of clients and servers have in common.
"""

from __future__ import annotations

import os

from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import PrivateKey

__all__ = ["DEFAULT_NAME", "NAME_OPTION", "ownKey"]

DEFAULT_NAME = "aesm"
# For C{optParameters} of C{usage.Options}.
NAME_OPTION = [
    *("name", None, DEFAULT_NAME),
    "Name of the application, the same at both sides.",
]


def ownKey(path: str | None) -> PrivateKey | None:
    """
    Read the key that an option C{--key} names.

    One that is missing is made in the state directory only, where the program
    keeps what it makes.  Elsewhere it is a mistyped path, or a volume that is not
    there, and a new key would be a new identity that nobody asked for.

    @param path: None if the option is not given.
    @return: the key; None if the option is not given.
    @raise KeyFileError: the file cannot be used, or is missing.
    """
    if path is None:
        return None
    ours = os.path.realpath(stateDirectory())
    if os.path.dirname(os.path.realpath(expanded(path))) == ours:
        return PrivateKey.loadOrCreate(path)
    return PrivateKey.load(path)
