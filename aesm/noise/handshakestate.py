"""
A handshake, message by message, and the channel that it ends in.  Here the initiator
of C{NN}::

    handshake = HandshakeState("Noise_NN_25519_AESGCM_SHA256", initiator=True)
    send(handshake.writeMessage())
    handshake.readMessage(receive())
    toResponder, toInitiator = handshake.split()
    send(toResponder.encryptWithAd(b"", b"hello"))

The three objects of the specification's section 5, each of which holds the one before::

    CipherState       a cipher key and a nonce: seals and opens records
    SymmetricState    a CipherState, the chaining key and the hash of a handshake
    HandshakeState    a SymmetricState, the keys of both sides, and whose turn it is

The type is the state: a L{HandshakeState} carries no data, and the two
L{CipherState}s that it ends in do nothing else.  It goes from message to message as
the pattern says, or it is over: after an error in a message its secrets are gone and
every call is a C{RuntimeError}.  What the caller does wrong (a call out of turn, an
argument of the wrong type, a payload too long) is found before anything has moved,
and the right call may follow.

A L{CipherState} always has a key: the specification's C{empty} is L{SymmetricState}
not having one yet.  Each of its two methods that handle records is one call of
C{cryptography}, because every byte of every connection goes through them.

@see: Noise rev. 34, sections 5.1 to 5.3
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aesm.errors import HandshakeError, NonceExhausted, TamperedRecord
from aesm.noise.functions import (
    AEAD,
    DHLEN,
    KEYLEN,
    TAGLEN,
    BytesLike,
    CipherFunctions,
    KeyPair,
    hybridSupported,
    mlkem,
    toBytes,
    toKey,
)
from aesm.noise.patterns import FIELD_LENGTHS, Protocol, parseProtocolName

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

MAX_MESSAGE: Final = 65535  # bytes of any Noise message; section 3
MAX_NONCE: Final = 2**64 - 1  # reserved for rekey; section 5.1

_MAX_PLAINTEXT: Final = MAX_MESSAGE - TAGLEN

_EXHAUSTED: Final = "this key has no nonces left: a new handshake is needed"

# What a call at the wrong time is told.
_FAILED: Final = "the handshake has failed"
_FINISHED: Final = "the handshake is finished"
_SPLIT: Final = "the handshake is finished and was split"
_UNFINISHED: Final = "the handshake is not finished"

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
    message.

    @ivar n: the nonce of the next message, 0 to 2^64-1.  Setting it is C{SetNonce}:
        for messages out of order, never to encrypt with a nonce twice.
    @see: Noise rev. 34, section 5.1
    """

    __slots__ = ("_aead", "_functions", "_key", "_packNonce", "n")

    def __init__(self, functions: CipherFunctions, key: bytes) -> None:
        """
        C{InitializeKey}.

        @param key: 32 bytes.
        """
        self.n = 0
        self._functions = functions
        self._packNonce = functions.packNonce
        self._key = key
        # What cryptography makes of the key, from a message on until there is a rest.
        self._aead: AEAD | None = None

    def rest(self) -> None:
        """
        Keep no more than the key until there is a message again: what C{cryptography}
        makes of one takes 2.5 KB, and a microsecond.
        """
        self._aead = None

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
        aead = self._aead
        if aead is None:
            aead = self._aead = self._functions.makeAEAD(self._key)
        ciphertext = aead.encrypt(self._packNonce(n), plaintext, ad or None)
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
        aead = self._aead
        if aead is None:
            aead = self._aead = self._functions.makeAEAD(self._key)
        try:
            plaintext = aead.decrypt(self._packNonce(n), ciphertext, ad or None)
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
        aead = self._aead
        if aead is None:
            aead = self._aead = self._functions.makeAEAD(self._key)
        key = aead.encrypt(self._packNonce(MAX_NONCE), bytes(KEYLEN), None)
        self._key, self._aead = key[:KEYLEN], None

    def __repr__(self) -> str:
        """The cipher and the nonce; no key."""
        return f"<CipherState {self._functions.name} n={self.n}>"


class SymmetricState:
    """
    The keys and the hash of a handshake under way.

    @ivar h: the hash of all that was sent and received, C{HASHLEN} bytes.
    @ivar overhead: by how many bytes what is encrypted now gets longer: 0 while there
        is no key.
    @see: Noise rev. 34, section 5.2
    """

    __slots__ = ("_cipher", "_ck", "_functions", "_hash", "h", "overhead")

    def __init__(self, protocol: Protocol) -> None:
        """C{InitializeSymmetric}."""
        self.h = self._ck = protocol.initialHash
        self._functions = protocol.cipher
        self._hash = protocol.hash
        self._cipher: CipherState | None = None
        self.overhead = 0

    def mixKey(self, material: bytes) -> None:
        """
        C{MixKey}.

        @param material: 32 bytes, secret or not.
        """
        self._ck, key, _ = self._hkdf(material, 2)
        self._cipher = CipherState(self._functions, key[:KEYLEN])
        self.overhead = TAGLEN

    def mixHash(self, data: bytes) -> None:
        """C{MixHash}: from here on both sides must have seen C{data} to go on."""
        self.h = self._hash.new(self.h + data).digest()

    def mixKeyAndHash(self, material: bytes) -> None:
        """
        C{MixKeyAndHash}.

        @param material: a pre-shared key, 32 bytes.
        """
        self._ck, temporary, key = self._hkdf(material, 3)
        self.mixHash(temporary)
        self._cipher = CipherState(self._functions, key[:KEYLEN])
        self.overhead = TAGLEN

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
        first, second, _ = self._hkdf(b"", 2)
        return (
            CipherState(self._functions, first[:KEYLEN]),
            CipherState(self._functions, second[:KEYLEN]),
        )

    def _hkdf(self, material: bytes, outputs: int) -> tuple[bytes, bytes, bytes]:
        """C{HKDF()} (section 4.3): the chaining key as salt, 2 or 3 outputs."""
        algorithm, length = self._hash.algorithm, self._hash.length
        keys = HKDF(algorithm, outputs * length, self._ck, None).derive(material)
        return keys[:length], keys[length : 2 * length], keys[2 * length :]


# What a handshake forgets, and when.  _local has our private keys, _kem the KEM's,
# _symmetric the chaining key, _remote the peer's public keys.  The secrets go at the
# end, be that split() or a failure (_end), because whoever finds them in memory can
# read a recording of the channel; after a failure the peer's keys go too, because
# nothing has proved that they are the peer's (_failed).  "del" leaves no attribute at
# all: what would use a secret afterwards raises, where it could go on with a None.
# Python can only let go of bytes, not overwrite them.  What is asked for later is no
# secret and kept apart: the hash, and rs.

_KEY_NAMES: Final = {
    "s": "its static private key",
    "e": "its ephemeral private key",
    "rs": "the peer's static public key",
    "re": "the peer's ephemeral public key",
}


class HandshakeState:
    """
    One side of one handshake.

    @ivar isInitiator: whether this is the side that sends first.
    @ivar protocol: what the protocol's name says, the lengths of the messages among
        it.
    @ivar finished: whether all messages were sent and received.
    @see: Noise rev. 34, section 5.3
    """

    __slots__ = (
        "_handshakeHash",
        "_kem",
        "_local",
        "_over",
        "_position",
        "_psks",
        "_remote",
        "_symmetric",
        "finished",
        "isInitiator",
        "protocol",
    )
    __deletable__ = ["_kem", "_psks", "_symmetric"]

    def __init__(
        self,
        protocolName: str,
        *,
        initiator: bool,
        prologue: BytesLike = b"",
        s: BytesLike | KeyPair | None = None,
        e: BytesLike | KeyPair | None = None,
        rs: BytesLike | None = None,
        re: BytesLike | None = None,
        psks: Iterable[BytesLike] = (),
    ) -> None:
        """
        C{Initialize}.  A key that the pattern has no use for is refused, since it would
        look as if it did something: C{s} for C{NN}, which proves nothing, or C{rs} for
        C{XX}, which checks nothing.

        @param protocolName: such as C{"Noise_XX_25519_AESGCM_SHA256"}; see
            L{aesm.noise.patterns}.
        @param initiator: whether this side sends first.  After C{fallback} that is
            the side which was the responder before.
        @param prologue: data that both sides must agree on.
        @param s: the static private key, 32 bytes, or its L{KeyPair}, which saves
            computing the public key again.
        @param e: the ephemeral private key, to be used once.  Only tests, and the
            side of a C{fallback} that has sent it already, give one.
        @param rs: the peer's static public key, 32 bytes, if the pattern has it known
            before.
        @param re: the peer's ephemeral public key, 32 bytes, for C{fallback}.
        @param psks: the pre-shared keys, 32 bytes each, in the order of the pattern's
            C{psk} tokens.
        @raise ValueError: the name is unknown; a key is missing, superfluous or of a
            wrong length; or C{MLKEM768} is asked of a C{cryptography} that lacks it.
        @raise TypeError: an argument is of the wrong type.
        """
        protocol = parseProtocolName(protocolName)
        if protocol.hybrid and not hybridSupported():
            raise ValueError(
                f"{protocol.name} needs MLKEM768, which this installation lacks: "
                "install cryptography 48 or newer, built with OpenSSL 3.5 or newer as "
                "its wheels are"
            )
        self.protocol = protocol
        self.isInitiator = bool(initiator)
        self.finished = False
        self._checkNeeds({"s": s, "e": e, "rs": rs, "re": re})
        self._local: dict[str, KeyPair] = {}
        self._remote: dict[str, bytes] = {}
        for name, pair in (("s", s), ("e", e)):
            if isinstance(pair, KeyPair):
                self._local[name] = pair
            elif pair is not None:
                self._local[name] = KeyPair.fromBytes(toKey(pair, name))
        for name, key in (("s", rs), ("e", re)):
            if key is not None:
                self._remote[name] = toKey(key, f"r{name}")
        self._psks = iter(self._checkPSKs(psks))
        self._kem: dict[str, MLKEM768PrivateKey] = {}
        self._position = 0  # messages sent and received
        self._handshakeHash = b""
        self._over = ""  # why there are no more messages
        self._symmetric = SymmetricState(protocol)
        if type(prologue) is not bytes:
            prologue = toBytes(prologue, "prologue")
        self._symmetric.mixHash(prologue)
        for isOwn, keys in (
            (self.isInitiator, protocol.pattern.initiatorKeys),
            (not self.isInitiator, protocol.pattern.responderKeys),
        ):
            for name in keys:
                public = self._local[name].public if isOwn else self._remote[name]
                self._mixPublic(name, public)

    def _checkNeeds(self, keys: Mapping[str, object]) -> None:
        """Check that the keys are there that the pattern needs, and no others."""
        role, needed = "responder", self.protocol.responderNeeds
        if self.isInitiator:
            role, needed = "initiator", self.protocol.initiatorNeeds
        for name, key in keys.items():
            isGiven = key is not None
            # Any pattern has a use for e: it is only generated if it is not given.
            if isGiven != (name in needed) and not (isGiven and name == "e"):
                verb = "has no use for" if isGiven else "needs"
                said = f"the {role} of {self.protocol.name} {verb} {name}"
                raise ValueError(f"{said}, {_KEY_NAMES[name]}")

    def _checkPSKs(self, psks: Iterable[BytesLike]) -> list[bytes]:
        """Check that there are as many pre-shared keys as the pattern takes."""
        # One key alone would be taken for 32 keys, each of them a number.
        if isinstance(psks, (bytes, bytearray, memoryview, str)):
            raise TypeError("psks is a sequence of keys: for one key, (key,)")
        keys = [toKey(psk, f"psks[{index}]") for index, psk in enumerate(psks)]
        if len(keys) != self.protocol.psks:
            raise ValueError(
                f"{self.protocol.name} takes {self.protocol.psks} pre-shared keys "
                f"(psks), not {len(keys)}"
            )
        return keys

    @property
    def rs(self) -> bytes | None:
        """The peer's static public key, 32 bytes; None before, or after a failure."""
        return self._remote.get("s")

    @property
    def handshakeHash(self) -> bytes:
        """
        C{GetHandshakeHash}: a value, C{HASHLEN} bytes, that only these two sides of
        this handshake have: for channel binding.

        @raise RuntimeError: the handshake is not finished.
        @see: Noise rev. 34, section 11.2
        """
        if not self.finished:
            raise RuntimeError(f"handshakeHash: {self._over or _UNFINISHED}")
        return self._handshakeHash

    def messageLength(self, payloadLength: int = 0) -> int:
        """
        How long the next message is, whichever side sends it.  For all messages at
        once see L{Protocol.messageLengths}.

        @param payloadLength: the bytes of its payload.
        @return: bytes, keys, payload and tags.
        @raise RuntimeError: there are no more messages.
        """
        if self._over or self.finished:
            raise RuntimeError(f"messageLength: {self._over or _FINISHED}")
        return self.protocol.messageLengths[self._position] + payloadLength

    def writeMessage(self, payload: BytesLike = b"") -> bytes:
        """
        C{WriteMessage}: make the next handshake message.

        @param payload: up to 65,535 bytes less L{messageLength}; encrypted only as far
            as the pattern has keys by then.
        @return: the message.
        @raise RuntimeError: it is the peer's turn, or the handshake is over.
        @raise ValueError: the message would be longer than 65,535 bytes; a shorter
            payload may be tried.
        @raise HandshakeError: a key of the peer is invalid.  The handshake has failed.
        """
        if type(payload) is not bytes:
            payload = toBytes(payload, "payload")
        tokens = self._takeTurn("write")
        # All that the caller can have got wrong is checked by now, or here: from the
        # first token on there is no way back.
        length = self.protocol.messageLengths[self._position] + len(payload)
        if length > MAX_MESSAGE:
            raise ValueError(
                f"a payload of {len(payload)} bytes makes a message of {length}: a "
                f"Noise message has at most {MAX_MESSAGE}"
            )
        try:
            message = self._write(tokens, payload)
        except BaseException as error:  # an interrupt, too, leaves the state half-way
            raise self._failed(error) from None
        self._endTurn()
        return message

    def readMessage(self, message: BytesLike) -> bytes:
        """
        C{ReadMessage}: take the peer's next handshake message.  What the message
        says is to be believed only if no error was raised.

        @param message: the message.
        @return: its payload.
        @raise RuntimeError: it is this side's turn, or the handshake is over.
        @raise HandshakeError: the message has a wrong size, or a key in it is invalid.
            The handshake has failed.
        @raise TamperedRecord: the message does not authenticate: it was altered, or
            the sides differ in prologue, pre-shared keys or what they know of each
            other.  The handshake has failed.
        """
        if type(message) is not bytes:
            message = toBytes(message, "message")
        tokens = self._takeTurn("read")
        least = self.protocol.messageLengths[self._position]
        try:
            if not least <= len(message) <= MAX_MESSAGE:
                raise HandshakeError(
                    f"message {self._position + 1} of {self.protocol.name} has "
                    f"{len(message)} bytes: it must have {least} to {MAX_MESSAGE}"
                )
            payload = self._read(tokens, message)
        except BaseException as error:
            raise self._failed(error) from None
        self._endTurn()
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """
        C{Split}: get the keys of the finished channel, once.  The handshake's own
        secrets are dropped.

        @return: (initiator to responder, responder to initiator).  After a one-way
            pattern the second must not be used.
        @raise RuntimeError: the handshake is not finished, has failed, or was split.
        @see: Noise rev. 34, sections 5.2 and 7.4
        """
        if self._over or not self.finished:
            raise RuntimeError(f"split: {self._over or _UNFINISHED}")
        pair = self._symmetric.split()
        self._end(_SPLIT)
        return pair

    def __repr__(self) -> str:
        """The protocol, the role and how far it is; no key."""
        role = "initiator" if self.isInitiator else "responder"
        place = f"{self._position}/{len(self.protocol.messageLengths)}"
        return f"<HandshakeState {self.protocol.name} {role} message {place}>"

    def _takeTurn(self, verb: str) -> tuple[str, ...]:
        """Check that it is time to C{"write"} or C{"read"}, and get the tokens."""
        if self._over or self.finished:
            raise RuntimeError(f"{verb}Message: {self._over or _FINISHED}")
        isInitiators = self._position % 2 == 0
        if (verb == "write") != (isInitiators == self.isInitiator):
            raise RuntimeError(
                f"{verb}Message: out of turn, message {self._position + 1} of "
                f"{self.protocol.name} is the other side's to {verb}"
            )
        return self.protocol.pattern.messages[self._position]

    def _endTurn(self) -> None:
        """Go on to the next message, if there is one."""
        self._position += 1
        if self._position == len(self.protocol.messageLengths):
            self.finished = True
            self._handshakeHash = self._symmetric.h

    def _end(self, why: str) -> None:
        """Forget the handshake's secrets, and tell later calls why."""
        self._over = why
        self._local.clear()
        del self._symmetric, self._psks, self._kem

    def _failed(self, error: BaseException) -> BaseException:
        """Forget everything, which nothing authenticates, and give what to raise."""
        self._end(_FAILED)
        self._remote.clear()
        # All else that is a ValueError was checked before.  cryptography looks for the
        # all-zero secret, which RFC 7748 (section 6.1) leaves open: with the few public
        # keys that give one with every private key, anybody could go on without one.
        if isinstance(error, ValueError):
            return HandshakeError(
                "a public key of the peer's is invalid: it is out of range, or gives "
                "an all-zero secret with every key"
            )
        return error

    def _write(self, tokens: tuple[str, ...], payload: bytes) -> bytes:
        """Make a message (Noise rev. 34, section 5.3; Noise HFS rev. 1, section 4)."""
        symmetric, local, kem = self._symmetric, self._local, self._kem
        parts = []
        for token in tokens:
            if token == "e":
                # It is there already for fallback, and for tests.
                if "e" not in local:
                    local["e"] = KeyPair.generate()
                parts.append(local["e"].public)
                self._mixPublic("e", local["e"].public)
            elif token == "s":
                parts.append(symmetric.encryptAndHash(local["s"].public))
            elif token == "e1":
                if "e1" not in kem:
                    kem["e1"] = mlkem.MLKEM768PrivateKey.generate()
                public = kem["e1"].public_key().public_bytes_raw()
                parts.append(symmetric.encryptAndHash(public))
            elif token == "ekem1":
                # Each KEM key serves once, so that both sides drop it here.
                key = mlkem.MLKEM768PublicKey.from_public_bytes(self._remote.pop("e1"))
                secret, ciphertext = key.encapsulate()
                parts.append(symmetric.encryptAndHash(ciphertext))
                symmetric.mixKey(secret)
            else:
                self._mixSecret(token)
        parts.append(symmetric.encryptAndHash(payload))
        return b"".join(parts)

    def _read(self, tokens: tuple[str, ...], message: bytes) -> bytes:
        """Take a message of at least the length that its tokens need."""
        symmetric, remote = self._symmetric, self._remote
        start = 0
        for token in tokens:
            if token == "e":
                end = start + DHLEN
                remote["e"] = message[start:end]
                self._mixPublic("e", remote["e"])
                start = end
            elif token in FIELD_LENGTHS:
                end = start + FIELD_LENGTHS[token] + symmetric.overhead
                field = symmetric.decryptAndHash(message[start:end])
                if token == "ekem1":
                    symmetric.mixKey(self._kem.pop("e1").decapsulate(field))
                else:
                    remote[token] = field
                start = end
            else:
                self._mixSecret(token)
        return symmetric.decryptAndHash(message[start:])

    def _mixPublic(self, name: str, public: bytes) -> None:
        """Mix a public key that was sent in clear, or is known (section 9.2)."""
        self._symmetric.mixHash(public)
        # A pre-shared key alone would give the same cipher key in each handshake, and
        # the first nonce with it: something fresh has to go in before it encrypts.
        if name == "e" and self.protocol.psks:
            self._symmetric.mixKey(public)

    def _mixSecret(self, token: str) -> None:
        """Mix what both know: a pre-shared key, or a DH, the initiator's key first."""
        if token == "psk":
            self._symmetric.mixKeyAndHash(next(self._psks))
        else:
            mine, theirs = token[0], token[1]
            if not self.isInitiator:
                mine, theirs = theirs, mine
            public = X25519PublicKey.from_public_bytes(self._remote[theirs])
            self._symmetric.mixKey(self._local[mine].private.exchange(public))
