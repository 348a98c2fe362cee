"""
What a handshake and its channel encrypt with::

    CipherState       a cipher key and a nonce: seals and opens records
    SymmetricState    a CipherState, the chaining key and the hash of a handshake

A L{CipherState} always has a key: the specification's C{empty} is L{SymmetricState}
not having one yet.  Each of its two methods that handle records is one call of
C{cryptography}, because every byte of every connection goes through them.

@see: Noise rev. 34, sections 5.1 and 5.2
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from aesm.errors import NonceExhausted, TamperedRecord
from aesm.noise.functions import KEYLEN, TAGLEN, BytesLike, CipherFunctions
from aesm.noise.patterns import Protocol

__all__ = ["MAX_MESSAGE", "MAX_NONCE", "CipherState", "SymmetricState"]

MAX_MESSAGE = 65535  # bytes of any Noise message; section 3
MAX_NONCE = 2**64 - 1  # reserved for rekey; section 5.1

_MAX_PLAINTEXT = MAX_MESSAGE - TAGLEN

_EXHAUSTED = "this key has no nonces left: a new handshake is needed"

# Nonces.  A nonce that encrypts twice with one key gives the plaintexts' difference
# away and, with AES-GCM, the key that authenticates: it is the one mistake that cannot
# be made good.  So the nonce is a counter that the caller has no need to touch.  It
# steps once cryptography has returned, never before: an error in between (no memory,
# a wrong type) has sent nothing, and the same nonce must be used for what is sent next,
# since the receiver counts what it has opened.  A message that does not authenticate
# leaves the receiver's where it is, too: whoever sends garbage cannot make it skip one.
# The last nonce, 2^64-1, belongs to rekey, and is refused before anything is encrypted.


class CipherState:
    """
    One direction of a finished channel: a cipher key and the number of the next
    message.  The key itself is kept nowhere: there is only what C{cryptography} has
    made of it.

    @ivar n: the nonce of the next message, 0 to 2^64-1.  Setting it is C{SetNonce}:
        for messages out of order, never to encrypt with a nonce twice.
    @see: Noise rev. 34, section 5.1
    """

    __slots__ = ("_aead", "_functions", "_packNonce", "n")

    def __init__(self, functions: CipherFunctions, key: bytes) -> None:
        """
        C{InitializeKey}.

        @param key: 32 bytes.
        """
        self.n = 0
        self._functions = functions
        self._packNonce = functions.packNonce
        self._aead = functions.makeAEAD(key)

    def encryptWithAd(self, ad: BytesLike, plaintext: BytesLike) -> bytes:
        """
        Seal one message and step the nonce.

        @param ad: associated data, any length; C{b""} for transport messages.
        @param plaintext: 0 to 65,519 bytes.
        @return: the ciphertext, C{len(plaintext) + 16} bytes, the tag last.
        @raise ValueError: the plaintext is too long for a Noise message.
        @raise NonceExhausted: the key has sealed 2^64-1 messages.
        @see: Noise rev. 34, sections 3 and 5.1
        """
        n = self.n
        if n >= MAX_NONCE:
            raise NonceExhausted(_EXHAUSTED)
        # A record's length has two bytes: more could be sealed, and never be sent.
        if len(plaintext) > _MAX_PLAINTEXT:
            raise ValueError(
                f"a Noise message carries at most {_MAX_PLAINTEXT} bytes, "
                f"not {len(plaintext)}"
            )
        # "or None": without associated data cryptography leaves a step out.
        ciphertext = self._aead.encrypt(self._packNonce(n), plaintext, ad or None)
        self.n = n + 1
        return ciphertext

    def decryptWithAd(self, ad: BytesLike, ciphertext: BytesLike) -> bytes:
        """
        Open one message and step the nonce.

        @param ad: associated data, any length; C{b""} for transport messages.
        @param ciphertext: 16 to 65,535 bytes, the tag last.
        @return: the plaintext, C{len(ciphertext) - 16} bytes.
        @raise TamperedRecord: the tag is wrong, or the length is; the nonce has not
            moved.
        @raise NonceExhausted: the key has opened 2^64-1 messages.
        @see: Noise rev. 34, sections 3 and 5.1
        """
        n = self.n
        if n >= MAX_NONCE:
            raise NonceExhausted(_EXHAUSTED)
        if len(ciphertext) > MAX_MESSAGE:
            raise TamperedRecord(
                f"a message of {len(ciphertext)} bytes is not a Noise message: those "
                f"have at most {MAX_MESSAGE}"
            )
        try:
            plaintext = self._aead.decrypt(self._packNonce(n), ciphertext, ad or None)
        except InvalidTag:
            raise TamperedRecord(
                f"a ciphertext does not authenticate (nonce {n}): it was altered, "
                "replayed or reordered, or made with another key"
            ) from None
        self.n = n + 1
        return plaintext

    def rekey(self) -> None:
        """
        Go on with a new key, from which the old one cannot be found.  The nonce
        stays.

        @see: Noise rev. 34, sections 4.2, 5.1 and 11.3
        """
        # As the specification has it for every cipher: 32 zeros, encrypted with the
        # nonce that no message may have; the tag is cut off.
        key = self._aead.encrypt(self._packNonce(MAX_NONCE), bytes(KEYLEN), None)
        self._aead = self._functions.makeAEAD(key[:KEYLEN])

    def __repr__(self) -> str:
        """The cipher and the nonce; no key."""
        return f"<CipherState {self._functions.name} n={self.n}>"


class SymmetricState:
    """
    The keys and the hash of a handshake under way.

    @ivar h: the hash of all that was sent and received, C{HASHLEN} bytes.
    @see: Noise rev. 34, section 5.2
    """

    __slots__ = ("_cipher", "_ck", "_functions", "_hash", "h")

    def __init__(self, protocol: Protocol) -> None:
        """C{InitializeSymmetric}."""
        self.h = self._ck = protocol.initialHash
        self._functions = protocol.cipher
        self._hash = protocol.hash
        self._cipher: CipherState | None = None

    @property
    def overhead(self) -> int:
        """
        By how many bytes what is encrypted now gets longer: 0 while there is no key.
        """
        return 0 if self._cipher is None else TAGLEN

    def mixKey(self, material: bytes) -> None:
        """
        C{MixKey}.

        @param material: 32 bytes, secret or not.
        """
        self._ck, key = self._hash.hkdf(self._ck, material, 2)
        self._cipher = CipherState(self._functions, key[:KEYLEN])

    def mixHash(self, data: bytes) -> None:
        """C{MixHash}: from here on both sides must have seen C{data} to go on."""
        self.h = self._hash.new(self.h + data).digest()

    def mixKeyAndHash(self, material: bytes) -> None:
        """
        C{MixKeyAndHash}.

        @param material: a pre-shared key, 32 bytes.
        """
        self._ck, temporary, key = self._hash.hkdf(self._ck, material, 3)
        self.mixHash(temporary)
        self._cipher = CipherState(self._functions, key[:KEYLEN])

    def encryptAndHash(self, plaintext: bytes) -> bytes:
        """C{EncryptAndHash}: in clear while there is no key."""
        # The hash is the associated data, so that every tag vouches for all that was
        # sent before it.
        if self._cipher is not None:
            plaintext = self._cipher.encryptWithAd(self.h, plaintext)
        self.mixHash(plaintext)
        return plaintext

    def decryptAndHash(self, ciphertext: bytes) -> bytes:
        """
        C{DecryptAndHash}.

        @raise TamperedRecord: it does not authenticate.
        """
        plaintext = ciphertext
        if self._cipher is not None:
            plaintext = self._cipher.decryptWithAd(self.h, ciphertext)
        self.mixHash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        """
        C{Split}.

        @return: (initiator to responder, responder to initiator).
        """
        first, second = self._hash.hkdf(self._ck, b"", 2)
        return (
            CipherState(self._functions, first[:KEYLEN]),
            CipherState(self._functions, second[:KEYLEN]),
        )
