"""
The cryptographic functions that a Noise protocol is made of: DH, KEM, ciphers,
hashes, in the specification's terms and on C{cryptography} and the standard
library alone.

::

    GENERATE_KEYPAIR, DH         KeyPair.generate, .private
    ENCRYPT, DECRYPT             CipherFunctions.makeAEAD, .packNonce
    HASH, HKDF                   HashFunctions.new, .algorithm
    the KEM's                    mlkem, of cryptography

They are C{cryptography}'s own, and each is called at one place only, in
L{aesm.noise.handshakestate}, where its errors become ours.

@see: Noise rev. 34, sections 4 and 12; Noise HFS rev. 1, section 3
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

try:
    from cryptography.hazmat.primitives.asymmetric import mlkem as mlkem
except ImportError:  # a cryptography before 47; hybridSupported() says no
    mlkem = None  # type: ignore[assignment]

DHLEN = 32  # bytes of an X25519 key, public or private; section 12.1
TAGLEN = 16  # bytes by which a ciphertext is longer; section 4.2
KEYLEN = 32  # bytes of a cipher key or a pre-shared key; sections 4.2 and 9.2
KEMPUBLICKEYLEN = 1184  # bytes of an ML-KEM-768 public key; FIPS 203, table 3
KEMCIPHERTEXTLEN = 1088  # bytes of an ML-KEM-768 ciphertext; FIPS 203, table 3

BytesLike: TypeAlias = bytes | bytearray | memoryview
AEAD: TypeAlias = AESGCM | ChaCha20Poly1305


class KeyPair:
    """
    An X25519 key pair.  The public key is computed once, so keep the object
    where the same key serves many handshakes.

    @ivar private: the private key, whose C{exchange} is C{DH()}.
    @ivar public: the public key, 32 bytes.
    @see: Noise rev. 34, section 12.1; RFC 7748, section 5
    """

    __slots__ = ("private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        """Compute the public key."""
        self.private = private
        self.public: bytes = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> KeyPair:
        """C{GENERATE_KEYPAIR()}: a pair from the system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def fromBytes(cls, private: bytes) -> KeyPair:
        """
        The pair of a known private key.

        @param private: 32 bytes.
        @raise ValueError: there are not 32 of them.
        """
        if len(private) != DHLEN:
            raise ValueError(
                f"an X25519 private key is {DHLEN} bytes, not {len(private)}"
            )
        return cls(X25519PrivateKey.from_private_bytes(private))

    def __repr__(self) -> str:
        """The public key only."""
        return f"<KeyPair {self.public.hex()}>"


def toBytes(value: BytesLike, name: str) -> bytes:
    """
    Copy an argument, so that nobody can change it meanwhile.

    @raise TypeError: it is not bytes-like.
    """
    try:
        return bytes(memoryview(value))
    except TypeError:
        raise TypeError(f"{name} is bytes-like, not {type(value).__name__}") from None


def toKey(value: BytesLike, name: str) -> bytes:
    """
    Copy an argument that is a key.

    @return: 32 bytes.
    @raise TypeError: it is not bytes-like.
    @raise ValueError: it has not 32 bytes.
    """
    key = toBytes(value, name)
    if len(key) != KEYLEN:
        raise ValueError(f"{name} is {KEYLEN} bytes, not {len(key)}")
    return key


@functools.cache
def hybridSupported() -> bool:
    """
    Whether hybrid protocols, C{25519+MLKEM768}, can be used here.  True with the
    wheels of cryptography 48 and newer, and with 47 where the library that it was
    built on has ML-KEM.
    """
    if mlkem is None:
        return False
    # The module is there with any library below it, so that only trying tells.
    try:
        mlkem.MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        return False
    return True


@dataclass(frozen=True, slots=True)
class CipherFunctions:
    """
    An AEAD.

    @ivar name: as in protocol names.
    @ivar makeAEAD: makes the object that encrypts and decrypts from a key of 32
        bytes.
    @ivar packNonce: the 12-byte nonce of a number from 0 to 2^64-1: four zero
        bytes, then the number.
    @see: Noise rev. 34, sections 4.2, 12.3 and 12.4
    """

    name: str
    makeAEAD: Callable[[bytes], AEAD]
    packNonce: Callable[[int], bytes]


class _Hash(Protocol):
    """What is used of C{hashlib}'s objects."""

    def digest(self) -> bytes:
        """The hash of the data given."""
        ...


@dataclass(frozen=True, slots=True)
class HashFunctions:
    """
    A hash.

    @ivar name: as in protocol names.
    @ivar length: C{HASHLEN}, 32 or 64 bytes.
    @ivar algorithm: what C{HKDF()} is made with.
    @ivar new: C{HASH()} is C{new(data).digest()}.
    @see: Noise rev. 34, sections 4.3 and 12.5 to 12.8
    """

    name: str
    length: int
    algorithm: hashes.HashAlgorithm
    new: Callable[[bytes], _Hash]


# The same number, and the two byte orders that the specification asks for: AES-GCM's is
# big-endian, ChaChaPoly's little-endian (sections 12.4 and 12.3).
CIPHERS = {
    functions.name: functions
    for functions in (
        CipherFunctions("AESGCM", AESGCM, struct.Struct(">4xQ").pack),
        CipherFunctions("ChaChaPoly", ChaCha20Poly1305, struct.Struct("<4xQ").pack),
    )
}

HASHES = {
    functions.name: functions
    for functions in (
        HashFunctions("SHA256", 32, hashes.SHA256(), hashlib.sha256),
        HashFunctions("SHA512", 64, hashes.SHA512(), hashlib.sha512),
        HashFunctions("BLAKE2s", 32, hashes.BLAKE2s(32), hashlib.blake2s),
        HashFunctions("BLAKE2b", 64, hashes.BLAKE2b(64), hashlib.blake2b),
    )
}
