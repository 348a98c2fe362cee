"""
The files that keys and trust are kept in.

Input: one byte for the kind of file, then its content.

Whatever the content: the file is read, or refused with a KeyFileError which names
the file and shows nothing of a secret one; what was read is of its kind, and reads
the same when it is written again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from aesm.errors import KeyFileError
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PSK, PrivateKey, PublicKey
from aesm.trust.servers import KnownServers
from tests.support.helpers import CLIENT_KEY, SERVER_KEY
from tests.support.helpers import PSK as RAW_PSK

__all__ = ["run", "seeds"]

_LEAST = 12  # bytes of a line that cannot be in an error by accident


def _private(path: Path) -> None:
    """
    Read a private key.

    @param path: the file.
    """
    key = PrivateKey.load(path)
    copy = path.with_suffix(".copy")
    key.save(copy)
    assert PrivateKey.load(copy).raw == key.raw


def _psk(path: Path) -> None:
    """
    Read a pre-shared key.

    @param path: the file.
    """
    key = PSK.load(path)
    copy = path.with_suffix(".copy")
    key.save(copy)
    assert PSK.load(copy) == bytes(key)


def _known(path: Path) -> None:
    """
    Read the known servers, and meet one of them again.

    @param path: the file.
    """
    known = KnownServers(path, policy="strict")
    before = known.entries()
    for location, publicKey in before[:3]:
        assert known.checkServer(location, publicKey)
    assert known.entries() == before


def _authorized(path: Path) -> None:
    """
    Read the authorized keys.

    @param path: the file.
    """
    clients = AuthorizedKeys(path)
    stranger = PublicKey(bytes(32))
    name = clients.checkClient(stranger, None)  # type: ignore[arg-type]
    assert name is None or name.isprintable()
    assert clients.reload() == frozenset()


_KINDS: tuple[tuple[Callable[[Path], None], bool], ...] = (
    (_private, True),
    (_psk, True),
    (_known, False),
    (_authorized, False),
)


def run(data: bytes) -> None:
    """
    Read a file.

    @param data: the input.
    """
    read, isSecret = _KINDS[data[0] % len(_KINDS) if data else 0]
    content = data[1:]
    with tempfile.TemporaryDirectory(prefix="aesm-fuzz-") as directory:
        path = Path(directory, "file")
        path.touch(0o600)
        path.write_bytes(content)
        try:
            read(path)
        except KeyFileError as error:
            assert error.path == str(path), error
            if isSecret:
                shown = f"{error} {error.__context__}".replace(directory, "")
                for line in content.decode("latin-1").split("\n"):
                    assert len(line) < _LEAST or line not in shown, error
        leftover = [name for name in os.listdir(directory) if "tmp" in name]
        assert not leftover, leftover


def seeds() -> Iterator[bytes]:
    """Make files of each kind, as we write them and as people edit them."""
    server, client = PrivateKey(SERVER_KEY), PrivateKey(CLIENT_KEY)
    yield b"\0" + server._toPEM()
    yield b"\0" + server._toPEM().replace(b"\n", b"\r\n")
    yield b"\0" + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "psk")
        PSK(RAW_PSK).save(path)
        line = path.read_bytes()
        known = KnownServers(path.with_name("known"))
        known.checkServer("example.org:8765", server.publicKey)
        known.checkServer("unix:/run/\xe4 b#%", client.publicKey)
        yield b"\2" + known.path.read_bytes()
    yield b"\1" + line
    yield b"\1" + line.strip() + b"\r\n"
    yield b"\1" + line.strip() + b" "
    yield f"\2# those we met\n\nlocalhost:1 {server.publicKey}\r\n".encode()
    yield f"\2a%20b:1 {server.publicKey}\na%zz:1 {client.publicKey}".encode()
    yield f"\3# who may come in\n{client.publicKey} alice\n".encode()
    yield f"\3{client.publicKey} \xe4lice\n{client.publicKey} bob\n".encode()
    yield f"\3{server.publicKey} {'x' * 65}\n".encode()
    yield b"\3"
