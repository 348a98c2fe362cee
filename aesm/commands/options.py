"""
What the command lines of clients and servers have in common.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from aesm.text import escape
from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import PrivateKey

__all__ = [
    "CLUSTER_OPTIONS",
    "DEFAULT_NAME",
    "NAME_OPTION",
    "inCode",
    "inOptions",
    "ownKey",
]

DEFAULT_NAME = "aesm"
# For C{optParameters} of C{usage.Options}.
NAME_OPTION = [
    *("name", None, DEFAULT_NAME),
    "Name of the application, the same at both sides.",
]
CLUSTER_OPTIONS = [
    [
        "cluster",
        None,
        None,
        "Redis in which the nodes of a cluster keep their sessions: redis://HOST:PORT, "
        "rediss://, redis+unix:///PATH or redis+sentinel://HOST,HOST,HOST/NAME.",
    ],
    ["cluster-name", None, "aesm", "What the cluster is called there."],
    ["cluster-password", None, None, "File of the engine's password, mode 0600."],
]


def inCode(option: str) -> str:
    """Spell an option as an argument in code: C{"max-message"} as C{"maxMessage"}."""
    first, *others = option.split("-")
    return first + "".join(map(str.capitalize, others))


def inOptions(error: str, options: Iterable[str]) -> str:
    """
    Put the words of an error about arguments in code into those of a command line.

    @param options: that there are.
    @return: one line, which begins with an option's name if that of the argument in
        code was its first word.
    """
    spelling = {inCode(option): f"--{option}" for option in options}
    first, blank, rest = escape(error).partition(" ")
    return spelling.get(first, first) + blank + rest


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
