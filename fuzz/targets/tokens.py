"""
Tokens of Cipher.

Input: one byte for how the token is made.  Either all that follows is the token, of
any bytes; or a token is made of a plaintext, of a key and associated data that may be
others than those to decrypt with, and then altered before it becomes base64: so that
what comes to be decrypted is base64 in its one spelling, with anything in it.

Whatever it is: only the very tokens that were made with the key and the associated data
decrypt, as bytes and as text alike; any other raises a DecryptionError, without the
plaintext or the key in its context.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aesm.cipher import Cipher
from aesm.errors import DecryptionError
from fuzz.script import Script, altered

__all__ = ["run", "seeds"]

_KEYS = (b"\x77" * 32, b"\x78" * 32)
_DATA = (b"associated", b"", b"associatee", b"associated\0")
_WAYS = 4  # to make a token


def _raw(plaintext: bytes, nonce: bytes, key: int = 0, data: int = 0) -> bytes:
    """
    Make a token that is always the same, before it becomes base64.

    @param plaintext: what it holds.
    @param nonce: 12 bytes.
    @param key: which key.
    @param data: which associated data.
    """
    return b"\x01" + nonce + AESGCM(_KEYS[key]).encrypt(nonce, plaintext, _DATA[data])


_MADE = {
    base64.urlsafe_b64encode(_raw(plaintext, bytes([number]) * 12)): plaintext
    for number, plaintext in enumerate(
        (b"", b"a", b"ab", "h\xe9llo".encode(), b"\xff\xfe", bytes(100))
    )
}


def run(data: bytes) -> None:
    """
    Decrypt a token.

    @param data: the input.
    """
    script = Script(data)
    how = script.number()
    if how % _WAYS == 0:
        token = script.rest()
        _check(token, 0, _MADE.get(token))
        return
    key, associated, nonce = (
        how >> 2 & 1,
        how >> 3 & 3,
        script.take(12).ljust(12, b"\0"),
    )
    plaintext = script.take(script.number())
    made = _raw(plaintext, nonce, key, associated)
    parts = [made[:1], made[1:13], made[13:-16], made[-16:]]
    while script.more:
        parts = altered(parts, script)
    raw = b"".join(parts)
    isWhole = raw == made and not key
    token = base64.urlsafe_b64encode(raw)
    if how % _WAYS == 3:  # in another spelling
        token = token.rstrip(b"=") if token.endswith(b"=") else token + b"\n"
        isWhole = False
    for number in range(len(_DATA)):
        same = isWhole and number == associated
        _check(token, number, plaintext if same else None)


def _check(token: bytes, data: int, expected: bytes | None) -> None:
    """
    Decrypt a token, as bytes and as text.

    @param data: which associated data to give.
    @param expected: what it holds, or None if it is not to decrypt.
    """
    cipher = Cipher(_KEYS[0])
    for each in (token, token.decode("latin-1")):
        for decrypt in (cipher.decryptBytes, cipher.decrypt):
            found: bytes | str | None
            try:
                found = decrypt(each, _DATA[data])
            except DecryptionError as error:
                assert error.__context__ is None or error.__suppress_context__
                assert repr(expected)[2:-1] not in str(error) or not expected
                found = None
            wanted: bytes | str | None = expected
            if decrypt == cipher.decrypt and expected is not None:
                try:
                    wanted = expected.decode()
                except UnicodeDecodeError:
                    wanted = None  # bytes, not text
            assert found == wanted, (each, found)


def seeds() -> Iterator[bytes]:
    """Make tokens, and what nearly is one."""
    for token in _MADE:
        yield b"\0" + token
    one = next(iter(_MADE))
    yield b"\0" + one.rstrip(b"=")
    yield b"\0" + one + b"\n"
    yield b"\0" + one.replace(b"_", b"/").replace(b"-", b"+")
    yield b"\0\xc3" + one
    yield b"\0" + base64.urlsafe_b64encode(b"\x02" + bytes(28))
    yield b""
    nonce, text, other = bytes(range(12)), b"\x06h\xc3\xa9llo", b"\x02\xff\xfe"
    for how in (1, 3, 5, 9, 17, 25):
        yield bytes([how]) + nonce + text
    yield b"\1" + nonce + other
    yield b"\1"
    for part in range(4):
        for way in range(7):
            yield b"\1" + nonce + text + bytes([part, way, 0, 3, 1])
