"""
L{aesm.noise} against two others that do not know it: a script of C{XXhfs} written
down line by line from the specification, and the C{noiseprotocol} package.

The helpers that the other tests of L{aesm.noise} share are here too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Generator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from twisted.trial.unittest import SynchronousTestCase

from aesm.noise import (
    CipherState,
    HandshakeState,
    KeyPair,
    hybridSupported,
    parseProtocolName,
)
from tests import VECTORS

XX = "Noise_XX_25519_AESGCM_SHA256"
XXPSK0 = "Noise_XXpsk0_25519_AESGCM_SHA256"
XXHFS = "Noise_XXhfs_25519+MLKEM768_AESGCM_SHA256"
XXHFSPSK0 = "Noise_XXhfs+psk0_25519+MLKEM768_AESGCM_SHA256"

# The keys of all tests, made once: who has what depends on the pattern.
STATIC = (KeyPair.fromBytes(b"\x11" * 32), KeyPair.fromBytes(b"\x22" * 32))
EPHEMERAL = (KeyPair.fromBytes(b"\x33" * 32), KeyPair.fromBytes(b"\x44" * 32))
PSKS = tuple(bytes([0x50 + number]) * 32 for number in range(5))

# For the skip attribute of tests: None where there is nothing to skip.
NO_HYBRID = None if hybridSupported() else "cryptography lacks ML-KEM here"


def makeSide(name: str, initiator: bool, **others: Any) -> HandshakeState:
    """
    Make one side of a handshake with all the keys that its pattern needs.

    @param name: the protocol.
    @param initiator: which side.
    @param others: arguments of L{HandshakeState} to use instead.
    """
    pattern = parseProtocolName(name).pattern
    mine, theirs = (0, 1) if initiator else (1, 0)
    known = {
        "s": STATIC[mine],
        "e": EPHEMERAL[mine],
        "rs": STATIC[theirs].public,
        "re": EPHEMERAL[theirs].public,
    }
    keys: dict[str, Any] = {key: known[key] for key in pattern.neededKeys(initiator)}
    keys["psks"] = PSKS[: sum(tokens.count("psk") for tokens in pattern.messages)]
    return HandshakeState(name, initiator=initiator, **{**keys, **others})


def makePair(name: str) -> tuple[HandshakeState, HandshakeState]:
    """
    Make both sides of a handshake.

    @return: (initiator, responder).
    """
    return makeSide(name, True), makeSide(name, False)


def converse(
    initiator: HandshakeState, responder: HandshakeState, messages: int = 9
) -> list[bytes]:
    """
    Let two sides run their handshake, with a payload in each message.

    @param messages: stop after so many.
    @return: the messages that were sent.
    """
    sent: list[bytes] = []
    writer, reader = initiator, responder
    while len(sent) < messages and not writer.finished:
        payload = b"payload %d" % len(sent)
        length = writer.messageLength(len(payload))
        assert length == reader.messageLength(len(payload))
        message = writer.writeMessage(payload)
        assert len(message) == length
        assert reader.readMessage(message) == payload
        sent.append(message)
        writer, reader = reader, writer
    return sent


class NaiveSymmetric:
    """Section 5.2 of the specification, as plainly as it can be written."""

    def __init__(self, name: str, hashName: str, cipher: str) -> None:
        """
        C{InitializeSymmetric}.

        @param name: the protocol's name.
        @param hashName: C{"sha256"} or C{"sha512"}.
        @param cipher: C{"AESGCM"} or C{"ChaChaPoly"}.
        """
        self.hashName = hashName
        self.cipher = cipher
        length = hashlib.new(hashName).digest_size
        h = name.encode()
        self.h = h + bytes(length - len(h)) if len(h) <= length else self.hash(h)
        self.ck = self.h
        self.k = b""
        self.n = 0

    def hash(self, data: bytes) -> bytes:
        """C{HASH}."""
        return hashlib.new(self.hashName, data).digest()

    def hmac(self, key: bytes, data: bytes) -> bytes:
        """C{HMAC-HASH}."""
        return hmac.new(key, data, self.hashName).digest()

    def hkdf(self, material: bytes) -> tuple[bytes, bytes, bytes]:
        """C{HKDF(ck, material, 3)}, whose first two are those of C{HKDF(…, 2)}."""
        temporary = self.hmac(self.ck, material)
        one = self.hmac(temporary, b"\x01")
        two = self.hmac(temporary, one + b"\x02")
        return one, two, self.hmac(temporary, two + b"\x03")

    def aead(self, key: bytes) -> AESGCM | ChaCha20Poly1305:
        """The cipher under a key."""
        return AESGCM(key) if self.cipher == "AESGCM" else ChaCha20Poly1305(key)

    def nonce(self, n: int) -> bytes:
        """The nonce of a number."""
        return bytes(4) + n.to_bytes(8, "big" if self.cipher == "AESGCM" else "little")

    def mixHash(self, data: bytes) -> None:
        """C{MixHash}."""
        self.h = self.hash(self.h + data)

    def mixKey(self, material: bytes) -> None:
        """C{MixKey}."""
        self.ck, key, _ = self.hkdf(material)
        self.k, self.n = key[:32], 0

    def mixPSK(self, psk: bytes) -> None:
        """C{MixKeyAndHash}."""
        self.ck, temporary, key = self.hkdf(psk)
        self.mixHash(temporary)
        self.k, self.n = key[:32], 0

    def seal(self, plaintext: bytes) -> bytes:
        """C{EncryptAndHash}."""
        if self.k:
            nonce = self.nonce(self.n)
            plaintext = self.aead(self.k).encrypt(nonce, plaintext, self.h)
            self.n += 1
        self.mixHash(plaintext)
        return plaintext

    def open(self, ciphertext: bytes) -> bytes:
        """C{DecryptAndHash}."""
        plaintext = ciphertext
        if self.k:
            nonce = self.nonce(self.n)
            plaintext = self.aead(self.k).decrypt(nonce, ciphertext, self.h)
            self.n += 1
        self.mixHash(ciphertext)
        return plaintext


def public(key: X25519PrivateKey) -> bytes:
    """A key's public bytes."""
    return key.public_key().public_bytes_raw()


def exchange(key: X25519PrivateKey, peer: bytes) -> bytes:
    """C{DH}."""
    return key.exchange(X25519PublicKey.from_public_bytes(peer))


def naiveInitiator(
    state: NaiveSymmetric,
    prologue: bytes,
    s: X25519PrivateKey,
    e: X25519PrivateKey,
    kem: MLKEM768PrivateKey,
    psk: bytes,
    payloads: list[bytes],
) -> Generator[bytes, bytes, list[bytes]]:
    """
    The initiator of C{XXhfs}, and with a C{psk} of C{XXhfs+psk0}: yields what it
    sends and is sent what it receives.

    @return: the payloads received.
    """
    state.mixHash(prologue)
    # -> psk, e, e1
    if psk:
        state.mixPSK(psk)
    state.mixHash(public(e))
    if psk:
        state.mixKey(public(e))
    message = public(e) + state.seal(kem.public_key().public_bytes_raw())
    message += state.seal(payloads[0])
    # <- e, ee, ekem1, s, es
    message = yield message
    re, message = message[:32], message[32:]
    state.mixHash(re)
    if psk:
        state.mixKey(re)
    state.mixKey(exchange(e, re))
    ciphertext, message = message[: 1088 + 16], message[1088 + 16 :]
    state.mixKey(kem.decapsulate(state.open(ciphertext)))
    rs = state.open(message[: 32 + 16])
    state.mixKey(exchange(e, rs))
    received = state.open(message[32 + 16 :])
    # -> s, se
    message = state.seal(public(s))
    state.mixKey(exchange(s, re))
    yield message + state.seal(payloads[2])
    return [received]


def naiveResponder(
    state: NaiveSymmetric,
    prologue: bytes,
    s: X25519PrivateKey,
    e: X25519PrivateKey,
    psk: bytes,
    payloads: list[bytes],
) -> Generator[bytes, bytes, list[bytes]]:
    """
    The responder of C{XXhfs} and C{XXhfs+psk0}; yields C{b""} at first.

    @return: the payloads received.
    """
    state.mixHash(prologue)
    # -> psk, e, e1
    message = yield b""
    tag = 16 if psk else 0
    if psk:
        state.mixPSK(psk)
    re, message = message[:32], message[32:]
    state.mixHash(re)
    if psk:
        state.mixKey(re)
    e1 = state.open(message[: 1184 + tag])
    received = [state.open(message[1184 + tag :])]
    # <- e, ee, ekem1, s, es
    state.mixHash(public(e))
    if psk:
        state.mixKey(public(e))
    state.mixKey(exchange(e, re))
    secret, ciphertext = MLKEM768PublicKey.from_public_bytes(e1).encapsulate()
    reply = public(e) + state.seal(ciphertext)
    state.mixKey(secret)
    reply += state.seal(public(s))
    state.mixKey(exchange(s, re))
    reply += state.seal(payloads[1])
    # -> s, se
    message = yield reply
    rs = state.open(message[: 32 + 16])
    state.mixKey(exchange(e, rs))
    received.append(state.open(message[32 + 16 :]))
    yield b""
    return received


PAYLOADS = [b"", b"second", b"the third payload"]


class HybridTests(SynchronousTestCase):
    """C{XXhfs} is what the script says it is."""

    skip = NO_HYBRID

    suites = [
        (f"Noise_{pattern}_25519+MLKEM768_{cipher}_{hashName.upper()}", psk)
        for pattern, psk in (("XXhfs", b""), ("XXhfs+psk0", PSKS[0]))
        for cipher in ("AESGCM", "ChaChaPoly")
        for hashName in ("sha256", "sha512")
    ]

    def naive(self, name: str) -> NaiveSymmetric:
        """The script's state for a protocol."""
        _, _, _, cipher, hashName = name.split("_")
        return NaiveSymmetric(name, hashName.lower(), cipher)

    def assertSameKeys(self, naive: NaiveSymmetric, ours: HandshakeState) -> None:
        """
        The script and a finished handshake have the same hash and the same keys in
        each direction.
        """
        self.assertEqual(naive.h, ours.handshakeHash)
        for key, cipher in zip(naive.hkdf(b"")[:2], ours.split(), strict=True):
            expected = naive.aead(key[:32]).encrypt(naive.nonce(0), b"data", b"ad")
            self.assertEqual(cipher.encryptWithAd(b"ad", b"data"), expected)

    def test_ourInitiator(self) -> None:
        """Our initiator and the script's responder complete a handshake."""
        for name, psk in self.suites:
            state = self.naive(name)
            s, e = X25519PrivateKey.generate(), X25519PrivateKey.generate()
            script = naiveResponder(state, b"prologue", s, e, psk, PAYLOADS)
            next(script)
            ours = makeSide(name, True, prologue=b"prologue")
            reply = script.send(ours.writeMessage(PAYLOADS[0]))
            self.assertEqual(len(reply), ours.messageLength(len(PAYLOADS[1])))
            self.assertEqual(ours.readMessage(reply), PAYLOADS[1])
            self.assertEqual(ours.rs, public(s))
            script.send(ours.writeMessage(PAYLOADS[2]))
            with self.assertRaises(StopIteration) as caught:
                next(script)
            self.assertEqual(caught.exception.value, [PAYLOADS[0], PAYLOADS[2]])
            self.assertSameKeys(state, ours)

    def test_ourResponder(self) -> None:
        """The script's initiator and our responder complete a handshake."""
        for name, psk in self.suites:
            state = self.naive(name)
            s, e = X25519PrivateKey.generate(), X25519PrivateKey.generate()
            kem = MLKEM768PrivateKey.generate()
            script = naiveInitiator(state, b"prologue", s, e, kem, psk, PAYLOADS)
            ours = makeSide(name, False, prologue=b"prologue")
            self.assertEqual(ours.readMessage(next(script)), PAYLOADS[0])
            last = script.send(ours.writeMessage(PAYLOADS[1]))
            self.assertEqual(ours.readMessage(last), PAYLOADS[2])
            self.assertEqual(ours.rs, public(s))
            with self.assertRaises(StopIteration) as caught:
                next(script)
            self.assertEqual(caught.exception.value, [PAYLOADS[1]])
            self.assertSameKeys(state, ours)

    def test_vectors(self) -> None:
        """
        With its keys fixed and a recorded message 2 (ML-KEM encapsulation is random),
        our initiator makes the recorded messages 1 and 3, hash and records.  The
        script made the recording.
        """
        vectors = json.loads((VECTORS / "hybrid.json").read_text())["vectors"]
        self.assertEqual(len(vectors), 4)
        for vector in vectors:

            def value(name: str, vector: dict[str, Any] = vector) -> bytes:
                return bytes.fromhex(vector[name])

            ours = HandshakeState(
                vector["protocol_name"],
                initiator=True,
                prologue=value("init_prologue"),
                s=value("init_static"),
                e=value("init_ephemeral"),
                psks=[bytes.fromhex(psk) for psk in vector["init_psks"]],
            )
            seed = value("init_kem_seed")
            kem = MLKEM768PrivateKey.from_seed_bytes(seed)
            ours._kem["e1"] = kem
            messages = [
                (bytes.fromhex(each["payload"]), bytes.fromhex(each["ciphertext"]))
                for each in vector["messages"]
            ]
            self.assertEqual(ours.writeMessage(messages[0][0]), messages[0][1])
            self.assertEqual(ours.readMessage(messages[1][1]), messages[1][0])
            self.assertEqual(ours.writeMessage(messages[2][0]), messages[2][1])
            self.assertEqual(ours.handshakeHash, value("handshake_hash"))
            first, second = ours.split()
            self.assertEqual(second.decryptWithAd(b"", messages[3][1]), messages[3][0])
            self.assertEqual(first.encryptWithAd(b"", messages[4][0]), messages[4][1])


class NoiseProtocolTests(SynchronousTestCase):
    """The C{noiseprotocol} package understands us, and we it."""

    def theirs(self, name: str, initiator: bool) -> Any:
        """One of their connections."""
        from noise.connection import Keypair, NoiseConnection

        connection = NoiseConnection.from_name(name.encode())
        if initiator:
            connection.set_as_initiator()
        else:
            connection.set_as_responder()
        connection.set_prologue(b"prologue")
        connection.set_keypair_from_private_bytes(Keypair.STATIC, b"\x66" * 32)
        if "psk" in name:
            connection.set_psks(PSKS[0])
        connection.start_handshake()
        return connection

    def exchangeRecords(
        self, theirs: Any, ours: HandshakeState, send: CipherState, receive: CipherState
    ) -> None:
        """Data passes in both directions, and the hashes are the same."""
        self.assertTrue(theirs.handshake_finished)
        self.assertEqual(theirs.get_handshake_hash(), ours.handshakeHash)
        self.assertEqual(ours.rs, KeyPair.fromBytes(b"\x66" * 32).public)
        for number in range(3):
            data = b"record %d" % number
            self.assertEqual(theirs.decrypt(send.encryptWithAd(b"", data)), data)
            self.assertEqual(receive.decryptWithAd(b"", theirs.encrypt(data)), data)

    def test_ourInitiator(self) -> None:
        """C{XX} and C{XXpsk0} with their responder."""
        for name in (XX, XXPSK0, "Noise_XX_25519_ChaChaPoly_BLAKE2b"):
            theirs = self.theirs(name, False)
            ours = makeSide(name, True, prologue=b"prologue")
            self.assertEqual(theirs.read_message(ours.writeMessage(b"one")), b"one")
            message = bytes(theirs.write_message(b"two"))
            self.assertEqual(ours.readMessage(message), b"two")
            self.assertEqual(theirs.read_message(ours.writeMessage(b"3")), b"3")
            send, receive = ours.split()
            self.exchangeRecords(theirs, ours, send, receive)

    def test_ourResponder(self) -> None:
        """C{XX} and C{XXpsk0} with their initiator."""
        for name in (XX, XXPSK0, "Noise_XX_25519_ChaChaPoly_BLAKE2b"):
            theirs = self.theirs(name, True)
            ours = makeSide(name, False, prologue=b"prologue")
            message = bytes(theirs.write_message(b"one"))
            self.assertEqual(ours.readMessage(message), b"one")
            self.assertEqual(theirs.read_message(ours.writeMessage(b"two")), b"two")
            message = bytes(theirs.write_message(b"3"))
            self.assertEqual(ours.readMessage(message), b"3")
            receive, send = ours.split()
            self.exchangeRecords(theirs, ours, send, receive)
