"""
What command lines say of a cluster's engine, for nodes and for those who look on::

    optParameters = [*ENGINE_OPTIONS, ...]
    engineOf(self, reactor, node)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.python import usage

from aesm.errors import KeyFileError
from aesm.trust.files import expanded, readFile

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from aesm.cluster.engine import Engine

__all__ = ["ENGINE_OPTIONS", "engineOf"]

MAX_PASSWORD = 4096  # bytes

# For C{optParameters} of C{usage.Options}.
ENGINE_OPTIONS = [
    [
        "cluster",
        None,
        None,
        "URL of the engine in which the cluster keeps its sessions, such as "
        "redis://HOST:PORT or redis+unix:///PATH.",
    ],
    ["cluster-name", None, "aesm", "What the cluster is called there."],
    ["cluster-password", None, None, "File of the engine's password, mode 0600."],
]


def engineOf(options: Mapping[str, Any], reactor: IReactorTime, node: str) -> Engine:
    """
    Make the connection to the engine that options name; it is not started.

    @param node: as L{Engine}.
    @raise KeyFileError: the password's file cannot be used.
    @raise usage.UsageError: an option is wrong, or the extra is not installed.
    """
    # Here, since it loads slowly, for who has no cluster.
    from aesm.cluster.address import EngineAddress
    from aesm.cluster.engine import Engine

    try:
        return Engine(
            reactor,
            EngineAddress.parse(options["cluster"]),
            options["cluster-name"],
            node,
            password=_password(options["cluster-password"]),
        )
    except ImportError as error:
        raise usage.UsageError(
            f"--cluster: there is no {error.name}: pip install 'aesm[cluster]'"
        ) from None
    except ValueError as error:
        raise usage.UsageError(f"--cluster: {error}") from None


def _password(path: str | None) -> str | None:
    """
    Read a password.

    @raise KeyFileError: its file cannot be used.
    """
    if path is None:
        return None
    try:
        read = readFile(expanded(path), limit=MAX_PASSWORD)
        return read.decode("utf-8").rstrip("\r\n")
    except FileNotFoundError:
        raise KeyFileError(f"there is no {path}: name the password's file") from None
    except UnicodeError:
        raise KeyFileError(f"{path} has no password in UTF-8") from None
