"""
What an engine keeps, so that it cannot be read there, nor be put in another place::

    sealer = Sealer(key, "chat")
    sealed = sealer.seal(frames, session, "o", 7)
    sealer.open(sealed, session, "o", 7)       # or SpoolError

AES-256-GCM, with the place as associated data.  Each has a key of its own, made of the
cluster's and of random bytes: nonces that are only random would repeat with one key,
in time.  Which sessions there are, whose, and how much is said when, can be seen; and
whoever can write to the engine can leave out what is new, or put back what was there.
"""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aesm.errors import SpoolError

KEY = 32  # bytes
_SALT, _NONCE, _MARK = 32, 12, 8


class Clear:
    """
    Seals nothing.

    @ivar mark: what shows that two have the same key, and no more of it.
    """

    mark = ""

    def seal(self, data: bytes, *place: str | int) -> bytes:
        """Leave it."""
        return data

    def open(self, sealed: bytes, *place: str | int) -> bytes:
        """Take it."""
        return sealed


class Sealer(Clear):
    """Seals what one cluster keeps."""

    def __init__(self, key: bytes, cluster: str) -> None:
        """
        @param key: what all nodes have, and nobody else, L{KEY} bytes.
        @param cluster: what it is called.
        @raise ValueError: the key has another length.
        """
        if len(key) != KEY:
            raise ValueError(f"a cluster's key has {KEY} bytes, not {len(key)}")
        mark = hmac.digest(key, b"mark " + cluster.encode(), "sha256")
        self.mark = mark[:_MARK].hex()
        self._key = key
        self._cluster = cluster

    def seal(self, data: bytes, *place: str | int) -> bytes:
        """Seal something for a place, which has to be said to open it."""
        salt = secrets.token_bytes(_SALT + _NONCE)
        cipher = self._cipher(salt)
        return salt + cipher.encrypt(salt[_SALT:], data, self._where(place))

    def open(self, sealed: bytes, *place: str | int) -> bytes:
        """
        Open it.

        @raise SpoolError: it is not what was sealed for this place, with this key.
        """
        salt, rest = sealed[: _SALT + _NONCE], sealed[_SALT + _NONCE :]
        try:
            return self._cipher(salt).decrypt(salt[_SALT:], rest, self._where(place))
        except (InvalidTag, ValueError):
            raise SpoolError(
                "what the engine has was not sealed with this cluster's key for this "
                f"place ({', '.join(map(str, place))})"
            ) from None

    def _cipher(self, salt: bytes) -> AESGCM:
        """Make the cipher of one thing."""
        return AESGCM(hmac.digest(self._key, salt[:_SALT], "sha256"))

    def _where(self, place: tuple[str | int, ...]) -> bytes:
        """Encode a place; nothing in it has a newline."""
        return "\n".join(map(str, (self._cluster, *place))).encode()
