"""
The keys of both ends, their text and their files.

::

    key = PrivateKey.loadOrCreate(stateDirectory() / "server.pem")
    str(key.publicKey)                     # 44 characters, to hand to clients
    PublicKey.fromText("…")                # and back
    PSK.generate().save("shared.psk")      # to copy to both ends
    psk = PSK.load("shared.psk")

Secrets show in no C{repr} and no error, and errors about their content are
raised outside the C{except} blocks, so that nothing hangs on to it in their
context either.  Secret keys are never compared here, so that no comparison
tells anything by its time.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.logger import Logger

from aesm.errors import KeyFileError
from aesm.noise.functions import KeyPair
from aesm.trust.files import AnyPath, expanded, readFile, withoutBOM, writeFile

_log = Logger(namespace="aesm.trust")

KEY_SIZE = 32  # bytes, of every kind of key here
TEXT_SIZE = 44  # characters: the base64 of 32 bytes
MAX_PSK_FILE = 1024  # bytes
MAX_KEY_FILE = 16384  # bytes: room for another algorithm's, to say which it is


def _checkRaw(raw: bytes, what: str) -> None:
    """Insist on 32 bytes, showing none of them."""
    if not isinstance(raw, bytes):
        raise TypeError(f"{what} is bytes, not {type(raw).__name__}")
    if len(raw) != KEY_SIZE:
        raise ValueError(f"{what} is {KEY_SIZE} bytes, not {len(raw)}")


def _toText(raw: bytes) -> str:
    """Write 32 bytes as 44 characters of base64 (RFC 4648, section 4)."""
    return base64.b64encode(raw).decode("ascii")


def _fromText(text: str) -> bytes | None:
    """Read 32 bytes, if the text is exactly what L{_toText} makes of them."""
    try:
        raw = base64.b64decode(text.encode("ascii", "replace"))
    except binascii.Error:
        return None
    # Python's decoder skips what it does not know and ignores trailing bits, so that
    # one key would have many spellings, and a comparison of texts would not be one
    # of keys.
    return raw if len(raw) == KEY_SIZE and _toText(raw) == text else None


@dataclass(frozen=True, slots=True, repr=False)
class PublicKey:
    """
    An X25519 public key: who a peer is.  Immutable, hashable, and equal to any
    other of the same bytes.

    @ivar raw: its 32 bytes.
    @see: RFC 7748 section 5
    """

    raw: bytes

    def __post_init__(self) -> None:
        """
        @raise TypeError: the key is not bytes.
        @raise ValueError: it is not 32 bytes.
        """
        _checkRaw(self.raw, "a public key")

    @classmethod
    def fromText(cls, text: str) -> PublicKey:
        """
        Read a key from its text.

        @param text: what C{str(key)} gives, to the letter.
        @return: the key.
        @raise TypeError: the text is not a C{str}.
        @raise ValueError: it is not a key.
        """
        if not isinstance(text, str):
            raise TypeError(f"a key's text is str, not {type(text).__name__}")
        raw = _fromText(text)
        if raw is None:
            # The text is not shown: it may be a secret in the wrong place.
            raise ValueError(
                f"a public key is {TEXT_SIZE} characters of standard base64 (32 "
                "bytes), as `aesm pubkey FILE` prints it; this is "
                + (
                    "something else of that length"
                    if len(text) == TEXT_SIZE
                    else f"{len(text)} characters"
                )
            )
        return cls(raw)

    def __str__(self) -> str:
        """@return: 44 characters of standard base64, as WireGuard writes keys."""
        return _toText(self.raw)

    def __repr__(self) -> str:
        """@return: the expression that makes this key."""
        return f"PublicKey.fromText({str(self)!r})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class PrivateKey:
    """
    An X25519 private key, and the public key that goes with it.

    Its file is PEM, PKCS#8, not encrypted, mode 0600: what C{openssl genpkey
    -algorithm X25519} writes.

    @ivar raw: the 32 secret bytes, for the handshake.
    @ivar publicKey: who we are to our peers.
    @ivar keyPair: both, as the handshake wants them.
    @see: RFC 7748 section 5 and RFC 8410
    """

    raw: bytes
    publicKey: PublicKey = field(init=False)
    keyPair: KeyPair = field(init=False)

    def __post_init__(self) -> None:
        """
        Compute the public key.

        @raise TypeError: the key is not bytes.
        @raise ValueError: it is not 32 bytes.
        """
        _checkRaw(self.raw, "a private key")
        # Once, here: it is a multiplication on the curve, and each handshake needs
        # the pair.
        pair = KeyPair.fromBytes(self.raw)
        object.__setattr__(self, "keyPair", pair)
        object.__setattr__(self, "publicKey", PublicKey(pair.public))

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a fresh key from the operating system's random numbers."""
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def load(cls, path: AnyPath) -> PrivateKey:
        """
        Read a key from its file.

        @raise KeyFileError: the file is missing, unsafe, or holds something else.
        """
        path = expanded(path)
        try:
            return cls._read(path)
        except FileNotFoundError:
            raise _missing("key", path, "keygen") from None

    @classmethod
    def loadOrCreate(cls, path: AnyPath) -> PrivateKey:
        """
        Read a key from its file, or make both if there is none.

        However many processes do this at once, all get the same key.

        @raise KeyFileError: the file is unsafe, holds something else, or cannot
            be written.
        """
        path = expanded(path)
        try:
            return cls._read(path)
        except FileNotFoundError:
            key = cls.generate()
        if writeFile(path, key._toPEM(), replace=False):
            # A key that nobody asked for is a new identity: where it is tells whether
            # that was meant, or the directory is another one than yesterday.
            _log.info(
                "made a new private key in {path}; its public key is {publicKey}",
                path=os.path.abspath(path),
                publicKey=str(key.publicKey),
            )
            return key
        return cls.load(path)  # somebody else's was first, and is complete

    def save(self, path: AnyPath) -> None:
        """
        Write the key to a new file, with mode 0600.

        @param path: the file; nothing may have this name yet.
        @raise KeyFileError: something has, or it cannot be written.
        """
        _save(expanded(path), self._toPEM())

    def __repr__(self) -> str:
        """@return: the public key."""
        return f"<PrivateKey of {self.publicKey}>"

    @classmethod
    def _read(cls, path: Path) -> PrivateKey:
        """Read a key from its file."""
        lines = withoutBOM(readFile(path, limit=MAX_KEY_FILE)).splitlines()
        # Indented, or with CRLF, as it may come out of a file of settings.
        content = b"\n".join(line.strip() for line in lines)
        try:
            key = load_pem_private_key(content, None)
        except TypeError:
            found = "an encrypted key"
        except (ValueError, UnsupportedAlgorithm):
            found = "something else"
        else:
            if isinstance(key, X25519PrivateKey):
                return cls(key.private_bytes_raw())
            found = f"a key for {type(key).__name__.removesuffix('PrivateKey')}"
        # Only here, outside of the except blocks: the library's error, which may show
        # the content, is not in the context of ours.
        raise KeyFileError(
            f"{path} holds {found}, not an X25519 private key as unencrypted PEM "
            f"(PKCS#8); {_makeAnother('keygen', path)}",
            str(path),
        )

    def _toPEM(self) -> bytes:
        """Write the content of the key's file."""
        return X25519PrivateKey.from_private_bytes(self.raw).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )


class PSK(bytes):
    """
    A pre-shared key: 32 secret bytes that all of a group's members have.

    Its file is one line, 44 characters of standard base64, mode 0600.

    @see: Noise rev. 34, section 9
    """

    __slots__ = ()

    def __new__(cls, raw: bytes) -> PSK:
        """
        @param raw: 32 bytes, uniformly random.
        @raise TypeError: the key is not bytes.
        @raise ValueError: it is not 32 bytes.
        """
        _checkRaw(raw, "a pre-shared key")
        return super().__new__(cls, raw)

    @classmethod
    def generate(cls) -> PSK:
        """Make a fresh key from the operating system's random numbers."""
        return cls(secrets.token_bytes(KEY_SIZE))

    @classmethod
    def load(cls, path: AnyPath) -> PSK:
        """
        Read a pre-shared key from its file.

        @param path: the file; its line may end in LF, CRLF or nothing, and have
            blanks around the key.
        @raise KeyFileError: the file is missing, unsafe, or holds something else.
        """
        path = expanded(path)
        try:
            content = readFile(path, limit=MAX_PSK_FILE)
        except FileNotFoundError:
            raise _missing("pre-shared key", path, "psk") from None
        raw = _fromText(withoutBOM(content).strip().decode("ascii", "replace"))
        if raw is None:
            raise KeyFileError(
                f"{path} is not one line of {TEXT_SIZE} characters of standard "
                f"base64 (32 bytes); {_makeAnother('psk', path)}",
                str(path),
            )
        return cls(raw)

    def save(self, path: AnyPath) -> None:
        """
        Write the key to a new file, with mode 0600.

        @param path: the file; nothing may have this name yet.
        @raise KeyFileError: something has, or it cannot be written.
        """
        _save(expanded(path), _toText(self).encode("ascii") + b"\n")

    def __repr__(self) -> str:
        """@return: C{"<PSK>"}, and nothing of what it holds."""
        return "<PSK>"

    __str__ = __repr__  # that of bytes shows the key


def _missing(what: str, path: Path, command: str) -> KeyFileError:
    """Make the error for a file that is not there, but that a subcommand makes."""
    return KeyFileError(
        f"there is no {what} file {path}; make one with "
        f"`aesm {command} {shlex.quote(str(path))}`",
        str(path),
    )


def _makeAnother(command: str, path: Path) -> str:
    """Say, in half a sentence, what to do about a file that holds something else."""
    return (
        "name another file, or move this one away and make a new one with "
        f"`aesm {command} {shlex.quote(str(path))}`"
    )


def _save(path: Path, content: bytes) -> None:
    """Write a new file that holds a secret."""
    if not writeFile(path, content, replace=False):
        if path.is_dir():
            raise KeyFileError(
                f"{path} is a directory; name a file in it, such as "
                f"{path / 'aesm.key'}",
                str(path),
            )
        raise KeyFileError(
            f"{path} exists and is not overwritten; if nobody needs what it holds, "
            f"remove it first with `rm {shlex.quote(str(path))}`",
            str(path),
        )


def nextKeyOf(keyFile: AnyPath) -> PublicKey | None:
    """
    Look for the key that a server will have after its present one, in
    C{FILE.next}, where C{aesm keygen --next} puts it.

    @param keyFile: the file of its present key.
    @return: the public half of the next key, or None if there is none.
    @raise KeyFileError: the file cannot be used.
    """
    path = f"{expanded(keyFile)}.next"
    # lexists: a dangling link is a mistake to be told, not a key that is not there.
    return PrivateKey.load(path).publicKey if os.path.lexists(path) else None
