"""
Authenticated encryption of text and bytes that are not on a connection: what
is kept in a file, a database or a cookie.

::

    cipher = Cipher()
    token = cipher.encrypt("Hello")
    Cipher(cipher.key).decrypt(token)  # "Hello"

A token is the URL-safe base64 (RFC 4648 section 5, padded) of one version byte,
0x01; a random nonce, 12 bytes; and the AES-256-GCM ciphertext, the tag (16
bytes) last.  There is exactly one spelling of a token: any other is refused.

Nonces are random, so that one key must not encrypt more than 2**32 messages:
past that, the chance that a nonce repeats, and with it all security of the two
messages, is no longer negligible (NIST SP 800-38D section 8.3).
"""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aesm.errors import DecryptionError

__all__ = ["Cipher"]

KEY_SIZE = 32  # bytes
NONCE_SIZE = 12  # bytes, NIST SP 800-38D section 5.2.1.1
TAG_SIZE = 16  # bytes
VERSION = b"\x01"


class Cipher:
    """
    AES-256-GCM under one key, at most 2**32 messages of it.

    Text and bytes share one token format: L{decryptBytes} of a text's token is
    its UTF-8, and L{decrypt} takes the token of any bytes that are UTF-8.

    @see: NIST SP 800-38D
    """

    __slots__ = ("_aead", "_key")

    def __init__(self, key: bytes | None = None) -> None:
        """
        @param key: 32 secret, uniformly random bytes; None for fresh ones.
        @raise TypeError: the key is not bytes.
        @raise ValueError: the key is not 32 bytes.
        """
        if key is None:
            key = secrets.token_bytes(KEY_SIZE)
        if not isinstance(key, bytes):
            raise TypeError(f"a key is bytes, not {type(key).__name__}")
        if len(key) != KEY_SIZE:
            raise ValueError(f"a key is {KEY_SIZE} bytes, not {len(key)}")
        self._key = bytes(key)
        self._aead = AESGCM(self._key)

    @property
    def key(self) -> bytes:
        """The 32 secret bytes, for another L{Cipher} to use."""
        return self._key

    def __repr__(self) -> str:
        """Show what this is, without the key."""
        return "<Cipher AES-256-GCM>"

    def encrypt(self, text: str, associatedData: bytes = b"") -> bytes:
        """
        Encrypt a text.

        @param text: any length; no lone surrogates.
        @param associatedData: bytes that are not in the token, and without which
            it does not decrypt.
        @return: a token: ASCII that is safe in URLs and file names.
        @raise TypeError: text is not a C{str}, or associatedData not bytes.
        @raise ValueError: the text cannot be written as UTF-8.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is str, not {type(text).__name__}")
        try:
            return self.encryptBytes(text.encode("utf-8"), associatedData)
        except UnicodeEncodeError:
            # Not raised from here: that error would carry the text along.
            pass
        raise ValueError("the text has lone surrogates, which UTF-8 cannot write")

    def decrypt(self, token: bytes | str, associatedData: bytes = b"") -> str:
        """
        Decrypt a text.

        @param token: what L{encrypt} returned.
        @param associatedData: the same bytes as then.
        @return: the text.
        @raise TypeError: token is not bytes or C{str}, or associatedData not
            bytes.
        @raise DecryptionError: another key or associated data, an altered or
            malformed token, or bytes that are not UTF-8.
        """
        plaintext = self.decryptBytes(token, associatedData)
        try:
            return plaintext.decode("utf-8")
        except UnicodeDecodeError:
            # Not raised from here: that error would carry the plaintext along.
            pass
        raise DecryptionError("the token holds bytes, not text; use decryptBytes")

    def encryptBytes(self, data: bytes, associatedData: bytes = b"") -> bytes:
        """
        Encrypt bytes.

        @param data: any length.
        @param associatedData: bytes that are not in the token, and without which
            it does not decrypt.
        @return: a token: ASCII that is safe in URLs and file names.
        @raise TypeError: data or associatedData is not bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data is bytes, not {type(data).__name__}")
        nonce = secrets.token_bytes(NONCE_SIZE)
        ciphertext = self._aead.encrypt(nonce, data, associatedData)
        return base64.urlsafe_b64encode(VERSION + nonce + ciphertext)

    def decryptBytes(self, token: bytes | str, associatedData: bytes = b"") -> bytes:
        """
        Decrypt bytes.

        @param token: what L{encryptBytes} returned.
        @param associatedData: the same bytes as then.
        @return: the bytes.
        @raise TypeError: token is not bytes or C{str}, or associatedData not
            bytes.
        @raise DecryptionError: another key or associated data, or an altered or
            malformed token.
        """
        raw = _decodeToken(token)
        nonce, ciphertext = raw[1 : 1 + NONCE_SIZE], raw[1 + NONCE_SIZE :]
        try:
            return self._aead.decrypt(nonce, ciphertext, associatedData)
        except (InvalidTag, OverflowError):
            raise DecryptionError(
                "the token was altered, or made with another key or other "
                "associated data"
            ) from None


def _decodeToken(token: bytes | str) -> bytes:
    """Undo the base64 of a token, in one spelling only (RFC 4648); check its frame."""
    if isinstance(token, str):
        token = token.encode("ascii", "replace")  # "?" is in no token
    elif not isinstance(token, bytes):
        raise TypeError(f"a token is bytes or str, not {type(token).__name__}")
    try:
        raw = base64.urlsafe_b64decode(token)
    except binascii.Error:
        raw = b""
    # Python's decoder skips what it does not know and ignores trailing bits.
    if (
        base64.urlsafe_b64encode(raw) != token
        or len(raw) < len(VERSION) + NONCE_SIZE + TAG_SIZE
        or not raw.startswith(VERSION)
    ):
        raise DecryptionError("this is not a token of Cipher, or not all of one")
    return raw
