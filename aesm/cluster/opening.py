"""
The options of a cluster, as users give them, made into the store of a node::

    openStore = engineOpener("redis://10.0.0.5", password="redis.password", grace=60.0)
    store = openStore()
    engine = onlooker("redis://10.0.0.5", password="redis.password")

What can be checked before anything is connected is checked here, the files included.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from importlib.util import find_spec

from twisted.internet.interfaces import IReactorTime

from aesm.cluster.address import EngineAddress
from aesm.cluster.engine import SYNC, Engine
from aesm.cluster.sealing import Sealer
from aesm.cluster.store import EngineStore
from aesm.errors import KeyFileError
from aesm.trust.files import AnyPath, expanded, readFile, withoutBOM
from aesm.trust.keys import PSK

NEEDS = {"txredisapi": "aesm[cluster]", "hiredis": "aesm[cluster]"}
NEEDS_TLS = {"OpenSSL": "twisted[tls]", "service_identity": "twisted[tls]"}
MAX_PASSWORD = 4096  # bytes of the file
PROCESS_BYTES = 4  # of what a process adds to its node's name


def engineOpener(
    url: str,
    name: str,
    password: bytes | AnyPath | None,
    sync: str,
    key: bytes | AnyPath | None,
    node: str | None,
    *,
    grace: float,
    perKey: int,
    clock: IReactorTime,
) -> Callable[[], EngineStore]:
    """
    Check the options of a store in an engine that is opened later.

    @param url: where it is, as L{EngineAddress.parse} reads it.
    @param name: what the cluster is called.
    @param password: what the engine asks for, or the path of its file.
    @param sync: as L{Engine}.
    @param key: seals what the engine keeps, 32 bytes, or the path of its file; None
        not to.
    @param node: what this node is called; None for the name of this machine.
    @param grace: seconds that clients have to come back.
    @param perKey: as L{EngineStore}.
    @param clock: the reactor.
    @return: makes the store, which is not open.
    @raise KeyFileError: a file cannot be used; says why.
    @raise ValueError: an option has a value that it cannot have, or an extra is not
        installed.
    """
    address = _address(url, name)
    if sync not in SYNC:
        raise ValueError(f"clusterSync must be one of {SYNC}, not {sync!r}")
    node = socket.gethostname() if node is None else node
    if not node.isprintable() or len(node.split()) != 1 or ":" in node:
        raise ValueError(f"node must be one word without colons, not {node!r}")
    secret = None if password is None else readPassword(password)
    sealer = None
    if key is not None:
        sealer = Sealer(key if isinstance(key, bytes) else PSK.load(key), name)

    def openStore() -> EngineStore:
        """Make the store."""
        # The engine knows nodes by what only one process is called, ever.
        process = f"{node}-{secrets.token_hex(PROCESS_BYTES)}"
        engine = Engine(clock, address, name, process, password=secret, sync=sync)
        return EngineStore(engine, clock, grace, sealer, perKey)

    return openStore


def onlooker(
    url: str, *, name: str, password: bytes | AnyPath | None, clock: IReactorTime
) -> Engine:
    """
    Make the connection of who only looks on; it is not started.  Arguments and errors
    are those of L{engineOpener}.
    """
    address = _address(url, name)
    secret = None if password is None else readPassword(password)
    return Engine(clock, address, name, "", password=secret)


def _address(url: str, name: str) -> EngineAddress:
    """
    Tell where the engine is, and check that it can be reached with what is installed.
    """
    address = EngineAddress.parse(url)
    needed = NEEDS | (NEEDS_TLS if address.scheme.startswith("rediss") else {})
    for module, extra in needed.items():
        # Not imported: one of them would install a reactor.
        if find_spec(module) is None:
            raise ValueError(f"cluster: there is no {module}: pip install '{extra}'")
    if not name or set(name) & set("{}") or not name.isprintable():
        raise ValueError(f"clusterName is a word without braces, not {name!r}")
    return address


def readPassword(password: bytes | AnyPath) -> str:
    """
    Read a password, which may be in a file.

    @raise KeyFileError: the file cannot be used, or has none.
    """
    if isinstance(password, bytes):
        return password.decode()
    path = expanded(password)
    try:
        content = withoutBOM(readFile(path, limit=MAX_PASSWORD)).decode()
    except FileNotFoundError:
        raise KeyFileError(
            f"there is no {path}: write the engine's password into it, mode 0600",
            str(path),
        ) from None
    except UnicodeError:
        raise KeyFileError(f"{path} has no password in UTF-8", str(path)) from None
    word = content.rstrip("\r\n")
    if len(word.splitlines()) != 1:
        raise KeyFileError(f"{path} is not one line, a password", str(path))
    return word
