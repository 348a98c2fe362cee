"""
Tokens of Cipher.

Input: the token.

Whatever it is: only the very tokens that were made with the key decrypt, as bytes
and as text alike; any other raises a DecryptionError, without the plaintext or the
key in its context.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aesm.cipher import Cipher
from aesm.errors import DecryptionError

__all__ = ["run", "seeds"]

_KEY = b"\x77" * 32
_AD = b"associated"


def _token(plaintext: bytes, nonce: bytes) -> bytes:
    """
    Make a token that is always the same.

    @param plaintext: what it holds.
    @param nonce: 12 bytes.
    """
    sealed = AESGCM(_KEY).encrypt(nonce, plaintext, _AD)
    return base64.urlsafe_b64encode(b"\x01" + nonce + sealed)


_MADE = {
    _token(plaintext, bytes([number]) * 12): plaintext
    for number, plaintext in enumerate(
        (b"", b"a", b"ab", "h\xe9llo".encode(), b"\xff\xfe", bytes(100))
    )
}


def run(data: bytes) -> None:
    """
    Decrypt a token.

    @param data: the input.
    """
    cipher = Cipher(_KEY)
    for token in (data, data.decode("latin-1")):
        for decrypt in (cipher.decryptBytes, cipher.decrypt):
            found: bytes | str | None
            try:
                found = decrypt(token, _AD)
            except DecryptionError as error:
                assert error.__context__ is None or error.__suppress_context__
                found = None
            if isinstance(found, str):
                found = found.encode()
            expected = _MADE.get(data)
            if decrypt == cipher.decrypt and expected == b"\xff\xfe":
                expected = None  # bytes, not text
            assert found == expected, (token, found)


def seeds() -> Iterator[bytes]:
    """Make tokens, and what nearly is one."""
    yield from _MADE
    one = next(iter(_MADE))
    yield one.rstrip(b"=")
    yield one + b"\n"
    yield one.replace(b"_", b"/").replace(b"-", b"+")
    yield b"\xc3" + one
    yield base64.urlsafe_b64encode(b"\x02" + bytes(28))
    yield b""
