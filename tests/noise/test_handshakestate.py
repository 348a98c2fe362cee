"""
Tests of L{aesm.noise.handshakestate}: records, nonces, rekey; handshakes, and all that
can go wrong in them.
"""

from __future__ import annotations

import gc
import hmac
from itertools import product
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import HandshakeError, NonceExhausted, TamperedRecord
from aesm.noise import (
    MAX_MESSAGE,
    MAX_NONCE,
    PATTERNS,
    CipherState,
    HandshakeState,
    KeyPair,
    parseProtocolName,
)
from aesm.noise.functions import CIPHERS, HASHES
from aesm.noise.handshakestate import SymmetricState
from tests.noise.test_functions import LOW_ORDER
from tests.noise.test_reference import (
    EPHEMERAL,
    NO_HYBRID,
    PSKS,
    STATIC,
    XX,
    XXHFS,
    XXHFSPSK0,
    XXPSK0,
    converse,
    makePair,
    makeSide,
)

NK = "Noise_NK_25519_AESGCM_SHA256"
HYBRID = () if NO_HYBRID else (XXHFS, XXHFSPSK0)
KEY = bytes(range(32))


def makeCiphers(cipher: str = "AESGCM") -> tuple[CipherState, CipherState]:
    """A sender and its receiver."""
    return CipherState(CIPHERS[cipher], KEY), CipherState(CIPHERS[cipher], KEY)


def hkdf(salt: bytes, material: bytes, algorithm: str) -> list[bytes]:
    """RFC 5869 without info, in two pieces."""
    key = hmac.digest(salt, material, algorithm)
    first = hmac.digest(key, b"\x01", algorithm)
    return [first, hmac.digest(key, first + b"\x02", algorithm)]


def protocolNames(modifier: str = "") -> list[str]:
    """
    All patterns with a modifier, where they take it, and with each C{psk} besides;
    ciphers and hashes alternate.

    @param modifier: C{""}, C{"fallback"} or C{"hfs"}.
    """
    suites = list(product(CIPHERS, HASHES))
    dh = "25519+MLKEM768" if modifier == "hfs" else "25519"
    names: list[str] = []
    for base in PATTERNS:
        for psks in ("", "psk0", "psk1", "psk2", "psk3", "psk4", "psk0+psk1+psk2"):
            modifiers = "+".join(filter(None, (modifier, psks)))
            suite = "_".join(suites[len(names) % len(suites)])
            name = f"Noise_{base}{modifiers}_{dh}_{suite}"
            try:
                parseProtocolName(name)
            except ValueError:
                continue  # see test_noise_patterns for which these are
            names.append(name)
    return names


class CipherStateTests(SynchronousTestCase):
    """One direction of a channel."""

    def test_ciphertext(self) -> None:
        """
        The nonce is four zero bytes and the number, big-endian for AESGCM and
        little-endian for ChaChaPoly.

        @see: Noise rev. 34, sections 12.3 and 12.4
        """
        number = 0x0102030405060708
        for cipher, order, aead in (
            ("AESGCM", "big", AESGCM(KEY)),
            ("ChaChaPoly", "little", ChaCha20Poly1305(KEY)),
        ):
            sender, receiver = makeCiphers(cipher)
            sender.n = receiver.n = number
            sealed = sender.encryptWithAd(b"ad", b"plaintext")
            nonce = bytes(4) + number.to_bytes(8, order)  # type: ignore[arg-type]
            self.assertEqual(sealed, aead.encrypt(nonce, b"plaintext", b"ad"))
            self.assertEqual(receiver.decryptWithAd(b"ad", sealed), b"plaintext")
            self.assertEqual((sender.n, receiver.n), (number + 1, number + 1))

    def test_bytesLike(self) -> None:
        """C{bytearray} and C{memoryview} are taken wherever C{bytes} are."""
        for kind in (bytes, bytearray, memoryview):
            sender, receiver = makeCiphers()
            sealed = sender.encryptWithAd(kind(b"ad"), kind(b"data"))
            self.assertIsInstance(sealed, bytes)
            opened = receiver.decryptWithAd(kind(b"ad"), kind(sealed))
            self.assertEqual(opened, b"data")
            self.assertIsInstance(opened, bytes)
            sealed = sender.encryptWithAd(kind(b""), kind(b""))
            self.assertEqual(receiver.decryptWithAd(kind(b""), kind(sealed)), b"")

    def test_tampered(self) -> None:
        """
        A changed bit anywhere, other associated data, or a wrong length do not
        authenticate; the nonce stays, and the right message still opens.
        """
        for cipher in CIPHERS:
            sender, receiver = makeCiphers(cipher)
            sealed = sender.encryptWithAd(b"ad", b"data")
            wrong = [sealed[:length] for length in range(len(sealed))]
            wrong += [sealed + b"\0", bytes(MAX_MESSAGE), bytes(MAX_MESSAGE + 1)]
            for bit in range(8 * len(sealed)):
                changed = bytearray(sealed)
                changed[bit // 8] ^= 1 << bit % 8
                wrong.append(bytes(changed))
            for each in wrong:
                self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"ad", each)
            self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", sealed)
            self.assertEqual(receiver.n, 0)
            self.assertEqual(receiver.decryptWithAd(b"ad", sealed), b"data")

    def test_order(self) -> None:
        """A message opens in its place only."""
        sender, receiver = makeCiphers()
        first, second = (sender.encryptWithAd(b"", b"%d" % n) for n in (1, 2))
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", second)
        self.assertEqual(receiver.decryptWithAd(b"", first), b"1")
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", first)
        self.assertEqual(receiver.decryptWithAd(b"", second), b"2")

    def test_longest(self) -> None:
        """A message of 65,535 bytes passes; a longer one is not made."""
        sender, receiver = makeCiphers()
        sealed = sender.encryptWithAd(b"", bytes(MAX_MESSAGE - 16))
        self.assertEqual(len(sealed), MAX_MESSAGE)
        self.assertEqual(receiver.decryptWithAd(b"", sealed), bytes(MAX_MESSAGE - 16))
        with self.assertRaisesRegex(ValueError, "at most 65519 bytes, not 65520"):
            sender.encryptWithAd(b"", bytes(MAX_MESSAGE - 15))
        self.assertEqual(sender.n, 1)

    def test_longestOpened(self) -> None:
        """A message that is longer is not opened either, though it authenticates."""
        sealed = AESGCM(KEY).encrypt(bytes(12), bytes(MAX_MESSAGE - 15), None)
        _, receiver = makeCiphers()
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", sealed)

    def test_wrongType(self) -> None:
        """What is not bytes-like is a C{TypeError}, and the nonce stays."""
        state, _ = makeCiphers()
        for wrong in ("text", None, 5):
            self.assertRaises(TypeError, state.encryptWithAd, b"", wrong)
            self.assertRaises(TypeError, state.decryptWithAd, b"", wrong)
        self.assertEqual(state.n, 0)

    def test_lastNonce(self) -> None:
        """
        The nonce 2^64-2 is the last one, in both directions and after a rekey too.
        """
        sender, receiver = makeCiphers()
        sender.n = receiver.n = MAX_NONCE - 1
        sealed = sender.encryptWithAd(b"", b"last")
        self.assertEqual(receiver.decryptWithAd(b"", sealed), b"last")
        self.assertEqual((sender.n, receiver.n), (2**64 - 1, 2**64 - 1))
        for _ in range(2):
            self.assertRaises(NonceExhausted, sender.encryptWithAd, b"", b"")
            self.assertRaises(NonceExhausted, receiver.decryptWithAd, b"", sealed)
            sender.rekey()
            receiver.rekey()
        self.assertEqual((sender.n, receiver.n), (2**64 - 1, 2**64 - 1))

    def test_rekey(self) -> None:
        """
        The new key is what the old one makes of 32 zeros with the nonce 2^64-1; the
        nonce goes on.

        @see: Noise rev. 34, section 4.2
        """
        for cipher, aead in (("AESGCM", AESGCM), ("ChaChaPoly", ChaCha20Poly1305)):
            sender, receiver = makeCiphers(cipher)
            key = KEY
            for number in range(3):
                sealed = sender.encryptWithAd(b"", b"data")
                order = "big" if cipher == "AESGCM" else "little"
                nonce = bytes(4) + number.to_bytes(8, order)  # type: ignore[arg-type]
                self.assertEqual(sealed, aead(key).encrypt(nonce, b"data", b""))
                self.assertEqual(receiver.decryptWithAd(b"", sealed), b"data")
                sender.rekey()
                receiver.rekey()
                self.assertEqual((sender.n, receiver.n), (number + 1, number + 1))
                last = bytes(4) + b"\xff" * 8
                key = aead(key).encrypt(last, bytes(32), b"")[:32]

    def test_rest(self) -> None:
        """After a rest it goes on as if there had been none, with the key of then."""
        for cipher in CIPHERS:
            sender, receiver = makeCiphers(cipher)
            other, _ = makeCiphers(cipher)
            for number in range(6):
                sender.rest()
                receiver.rest()
                self.assertIsNone(sender._aead)
                sealed = sender.encryptWithAd(b"", b"data")
                self.assertEqual(sealed, other.encryptWithAd(b"", b"data"))
                wrong = bytes(len(sealed))
                self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", wrong)
                receiver.rest()
                self.assertEqual(receiver.decryptWithAd(b"", sealed), b"data")
                if number % 2:
                    sender.rest()
                    for each in (sender, receiver, other):
                        each.rekey()

    def test_rekeyForgets(self) -> None:
        """After a rekey nothing is left of the old key, at rest or not."""
        for resting in (False, True):
            state, _ = makeCiphers()
            state.encryptWithAd(b"", b"data")
            former = state._aead
            if resting:
                state.rest()
            state.rekey()
            kept = gc.get_referents(state)
            self.assertNotIn(KEY, kept)
            self.assertNotIn(former, kept)

    def test_rekeyOneSide(self) -> None:
        """After a rekey the old key opens nothing."""
        sender, receiver = makeCiphers()
        sender.rekey()
        sealed = sender.encryptWithAd(b"", b"data")
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", sealed)

    def test_repr(self) -> None:
        """Cipher and nonce are shown, and no key."""
        state, _ = makeCiphers()
        state.encryptWithAd(b"", b"")
        self.assertEqual(repr(state), "<CipherState AESGCM n=1>")


class SymmetricStateTests(SynchronousTestCase):
    """The keys of a handshake."""

    def test_hkdf(self) -> None:
        """
        The keys that a secret gives, and those of the channel, are those of RFC 5869
        with the chaining key as salt and without info.
        """
        for name in HASHES:
            protocol = parseProtocolName(f"Noise_NN_25519_AESGCM_{name}")
            state = SymmetricState(protocol)
            algorithm = name.lower()
            chainingKey, key = hkdf(protocol.initialHash, KEY, algorithm)
            state.mixKey(KEY)
            sealed = AESGCM(key[:32]).encrypt(bytes(12), b"", state.h)
            self.assertEqual(state.encryptAndHash(b""), sealed)
            for cipher, key in zip(
                state.split(), hkdf(chainingKey, b"", algorithm), strict=True
            ):
                sealed = AESGCM(key[:32]).encrypt(bytes(12), b"data", None)
                self.assertEqual(cipher.encryptWithAd(b"", b"data"), sealed)


class RoundTripTests(SynchronousTestCase):
    """Both sides of every protocol understand each other."""

    def assertRoundTrip(self, name: str) -> None:
        """Two sides finish their handshake, know each other and exchange records."""
        initiator, responder = makePair(name)
        converse(initiator, responder)
        for side, peer in ((initiator, 1), (responder, 0)):
            self.assertTrue(side.finished, name)
            tokens = side.protocol.pattern.messages[peer::2]
            if side.rs is not None:
                self.assertEqual(side.rs, STATIC[peer].public, name)
            else:
                self.assertFalse(any("s" in each for each in tokens), name)
        self.assertEqual(initiator.handshakeHash, responder.handshakeHash, name)
        for sender, receiver in zip(initiator.split(), responder.split(), strict=True):
            for data in (b"first", b"second"):
                sealed = sender.encryptWithAd(b"", data)
                self.assertEqual(receiver.decryptWithAd(b"", sealed), data, name)

    def test_patterns(self) -> None:
        """Every pattern, and with every C{psk}."""
        names = protocolNames()
        # psk0 to pskN of patterns with N messages, psk0+psk1+psk2 where N is not 1
        expected = sum(
            3 + len(pattern.messages) - (len(pattern.messages) == 1)
            for pattern in PATTERNS.values()
        )
        self.assertEqual(len(names), expected)
        for name in names:
            self.assertRoundTrip(name)

    def test_fallback(self) -> None:
        """Every pattern that takes C{fallback}, and with every C{psk}."""
        names = protocolNames("fallback")
        self.assertEqual(sum("psk" not in name for name in names), 8 + 20)
        for name in names:
            self.assertRoundTrip(name)

    def test_hfs(self) -> None:
        """Every pattern that takes C{hfs}, and with every C{psk}."""
        names = protocolNames("hfs")
        self.assertEqual(sum("psk" not in name for name in names), 12 + 23)
        for name in names:
            self.assertRoundTrip(name)

    test_hfs.skip = NO_HYBRID  # type: ignore[attr-defined]

    def test_noisePipe(self) -> None:
        """
        The responder of an C{IK} whose static key is another by now starts
        C{XXfallback} over with the ephemeral key of the message that it cannot read.

        @see: Noise rev. 34, section 10.4
        """
        suite = "25519_AESGCM_SHA256"
        e = KeyPair.generate()
        alice = HandshakeState(
            f"Noise_IK_{suite}",
            initiator=True,
            s=STATIC[0],
            e=e,
            rs=KeyPair.generate().public,
        )
        first = alice.writeMessage(b"0-RTT")
        bob = HandshakeState(f"Noise_IK_{suite}", initiator=False, s=STATIC[1])
        self.assertRaises(TamperedRecord, bob.readMessage, first)
        name = f"Noise_XXfallback_{suite}"
        bob = HandshakeState(name, initiator=True, s=STATIC[1], re=first[:32])
        alice = HandshakeState(name, initiator=False, s=STATIC[0], e=e)
        converse(bob, alice)
        self.assertEqual(alice.rs, STATIC[1].public)
        self.assertEqual(bob.rs, STATIC[0].public)

    def test_fresh(self) -> None:
        """Ephemeral keys are fresh in each handshake."""
        first = {makeSide(XX, True).writeMessage() for _ in range(5)}
        self.assertEqual(len(first), 5)

    def test_fixed(self) -> None:
        """An ephemeral key can be given as 32 bytes or as a L{KeyPair}."""
        for e in (EPHEMERAL[0], b"\x33" * 32, bytearray(b"\x33" * 32)):
            message = makeSide(XX, True, e=e).writeMessage()
            self.assertEqual(message, EPHEMERAL[0].public)

    def test_longest(self) -> None:
        """A message of 65,535 bytes passes."""
        for name in (XX, XXPSK0, *HYBRID):
            initiator, responder = makePair(name)
            payload = bytes(MAX_MESSAGE - initiator.messageLength())
            message = initiator.writeMessage(payload)
            self.assertEqual(len(message), MAX_MESSAGE)
            self.assertEqual(responder.readMessage(message), payload)

    def test_bytesLike(self) -> None:
        """All that is bytes may be any bytes-like object."""
        for kind in (bytearray, memoryview):
            initiator = makeSide(
                "Noise_KKpsk0_25519_AESGCM_SHA256",
                True,
                prologue=kind(b"prologue"),
                s=kind(b"\x11" * 32),
                rs=kind(STATIC[1].public),
                psks=[kind(PSKS[0])],
            )
            responder = makeSide(
                "Noise_KKpsk0_25519_AESGCM_SHA256", False, prologue=b"prologue"
            )
            message = initiator.writeMessage(kind(b"payload"))
            payload = responder.readMessage(kind(message))
            self.assertEqual(payload, b"payload")
            self.assertIsInstance(payload, bytes)


class ConstructionTests(SynchronousTestCase):
    """Exactly the right keys are taken."""

    def assertRefused(self, text: str, name: str, **arguments: Any) -> None:
        """A C{ValueError} says what is wrong."""
        with self.assertRaisesRegex(ValueError, text):
            HandshakeState(name, **{"initiator": True, **arguments})

    def test_missing(self) -> None:
        """A key that the pattern needs is missing."""
        fallback = "Noise_XXfallback_25519_AESGCM_SHA256"
        s, e, public = STATIC[0], EPHEMERAL[0], STATIC[1].public
        self.assertRefused("initiator of .*XX.* needs s, its static", XX)
        self.assertRefused("responder.* needs s,", XX, initiator=False)
        self.assertRefused("needs rs, the peer's static public", NK)
        self.assertRefused("responder.* needs s,", NK, initiator=False)
        self.assertRefused("needs rs", NK.replace("NK", "KK"), s=s)
        self.assertRefused("needs re, the peer's ephemeral", fallback, s=s)
        self.assertRefused("needs e, its ephemeral", fallback, initiator=False, s=s)
        HandshakeState(fallback, initiator=True, s=s, re=public)
        HandshakeState(fallback, initiator=False, s=s, e=e)

    def test_superfluous(self) -> None:
        """A key that would do nothing looks as if it did something."""
        public = STATIC[1].public
        self.assertRefused("no use for rs, the peer's", XX, s=STATIC[0], rs=public)
        self.assertRefused("no use for re", XX, s=STATIC[0], re=public)
        self.assertRefused("initiator.* no use for s", NK, s=STATIC[0], rs=public)
        nn = NK.replace("NK", "NN")
        self.assertRefused("no use for s", nn, initiator=False, s=STATIC[0])

    def test_superfluousEphemeral(self) -> None:
        """
        The recipient of a one-way message may have an ephemeral key, as in some
        published vectors: it is not used.
        """
        name = "Noise_N_25519_AESGCM_SHA256"
        side = makeSide(name, False, e=EPHEMERAL[0])
        converse(makeSide(name, True), side)
        self.assertTrue(side.finished)

    def test_lengths(self) -> None:
        """Every key has 32 bytes."""
        kkpsk = "Noise_KKpsk0_25519_AESGCM_SHA256"
        keys = {"s": b"\1" * 32, "rs": STATIC[1].public, "psks": PSKS[:1]}
        for wrong in (b"", bytes(31), bytes(33)):
            text = f"is 32 bytes, not {len(wrong)}"
            for name in ("s", "rs", "e"):
                self.assertRefused(f"^{name} {text}", kkpsk, **{**keys, name: wrong})
            self.assertRefused(rf"psks\[0\] {text}", kkpsk, **{**keys, "psks": [wrong]})
        fallback = "Noise_XXfallback_25519_AESGCM_SHA256"
        self.assertRefused("^re is", fallback, s=STATIC[0], re=bytes(31))

    def test_psks(self) -> None:
        """There are as many pre-shared keys as C{psk} tokens."""
        two = "Noise_XXpsk0+psk3_25519_AESGCM_SHA256"
        for name, count, wanted in (
            (XX, 1, 0),
            (XXPSK0, 0, 1),
            (XXPSK0, 2, 1),
            (two, 1, 2),
        ):
            text = rf"takes {wanted} pre-shared keys \(psks\), not {count}"
            self.assertRefused(text, name, s=STATIC[0], psks=PSKS[:count])

    def test_pskOrder(self) -> None:
        """Pre-shared keys are used in the order of their tokens."""
        name = "Noise_NNpsk0+psk2_25519_AESGCM_SHA256"
        initiator = makeSide(name, True, psks=PSKS[:2])
        responder = makeSide(name, False, psks=(PSKS[0], PSKS[2]))
        responder.readMessage(initiator.writeMessage())  # the first is the same
        message = responder.writeMessage()
        self.assertRaises(TamperedRecord, initiator.readMessage, message)

    def test_types(self) -> None:
        """What is not bytes-like is a C{TypeError} that names the argument."""
        for arguments, text in (
            ({"s": "text"}, "^s is bytes-like, not str"),
            ({"s": 32}, "^s is bytes-like, not int"),
            ({"e": "text"}, "^e is"),
            ({"prologue": "text"}, "^prologue is"),
            ({"psks": PSKS[0]}, "psks is a sequence"),
            ({"psks": ["text"]}, r"^psks\[0\] is"),
        ):
            with self.assertRaisesRegex(TypeError, text):
                makeSide(XXPSK0, True, **arguments)
        with self.assertRaisesRegex(TypeError, "^rs is"):
            makeSide(NK, True, rs="text")

    def test_badName(self) -> None:
        """An unknown name is refused."""
        self.assertRefused("cipher 'AES'", "Noise_XX_25519_AES_SHA256")


class TurnTests(SynchronousTestCase):
    """Calls are taken in turn, and not after the end."""

    def assertDead(self, side: HandshakeState, text: str = "failed") -> None:
        """Every call is a C{RuntimeError}, and there are no secrets any more."""
        for call in (
            side.writeMessage,
            lambda: side.readMessage(b""),
            side.messageLength,
            side.split,
        ):
            with self.assertRaisesRegex(RuntimeError, text):
                call()
        self.assertEqual(side._local, {})
        for name in ("_symmetric", "_psks", "_kem"):
            self.assertFalse(hasattr(side, name), name)

    def test_outOfTurn(self) -> None:
        """
        Nobody reads when he should write or the other way round, and nothing is lost
        by trying.
        """
        for name in (XX, XXPSK0, *HYBRID):
            initiator, responder = makePair(name)
            writer, reader = initiator, responder
            for number in range(3):
                text = f"out of turn, message {number + 1} of Noise_"
                with self.assertRaisesRegex(RuntimeError, text):
                    reader.writeMessage()
                with self.assertRaisesRegex(RuntimeError, text):
                    writer.readMessage(b"anything")
                reader.readMessage(writer.writeMessage())
                writer, reader = reader, writer
            self.assertEqual(initiator.handshakeHash, responder.handshakeHash)

    def test_unfinished(self) -> None:
        """Before the last message there is neither a hash nor a split."""
        for messages in range(3):
            pair = makePair(XX)
            converse(*pair, messages)
            for side in pair:
                self.assertFalse(side.finished)
                self.assertRaises(RuntimeError, side.split)
                with self.assertRaisesRegex(RuntimeError, "not finished"):
                    side.handshakeHash  # noqa: B018

    def test_finished(self) -> None:
        """After the last message there are no others."""
        pair = makePair(XX)
        converse(*pair)
        for side in pair:
            for call in (side.writeMessage, side.messageLength):
                self.assertRaises(RuntimeError, call)
            self.assertRaises(RuntimeError, side.readMessage, b"")

    def test_split(self) -> None:
        """A handshake splits once and forgets its secrets; what is public stays."""
        for name in (XX, XXPSK0, *HYBRID):
            pair = makePair(name)
            converse(*pair)
            for side, peer in zip(pair, reversed(STATIC), strict=True):
                handshakeHash = side.handshakeHash
                side.split()
                self.assertDead(side, "was split")
                self.assertEqual(side.handshakeHash, handshakeHash)
                self.assertEqual(len(handshakeHash), 32)
                self.assertEqual(side.rs, peer.public)
                self.assertTrue(side.finished)

    def test_failed(self) -> None:
        """After an error in a message the handshake is over."""
        for name, wrong in product((XX, XXPSK0, *HYBRID), (b"", bytes(2000))):
            initiator, responder = makePair(name)
            converse(initiator, responder, 1)
            with self.assertRaises((HandshakeError, TamperedRecord)):
                initiator.readMessage(wrong)
            self.assertDead(initiator)
            self.assertFalse(initiator.finished)
            with self.assertRaisesRegex(RuntimeError, "failed"):
                initiator.handshakeHash  # noqa: B018

    def test_failedPeer(self) -> None:
        """A static key whose message did not authenticate was never known."""
        initiator, responder = makePair(XX)
        converse(initiator, responder, 2)
        message = initiator.writeMessage(b"payload")
        wrong = message[:-1] + bytes([message[-1] ^ 1])
        self.assertRaises(TamperedRecord, responder.readMessage, wrong)
        self.assertIsNone(responder.rs)

    def test_tooLong(self) -> None:
        """
        A payload that makes a message of more than 65,535 bytes is refused before
        anything has moved.
        """
        for name in (XX, XXPSK0, *HYBRID):
            for messages in range(3):
                pair = makePair(name)
                converse(*pair, messages)
                side = pair[messages % 2]
                fits = MAX_MESSAGE - side.messageLength()
                with self.assertRaisesRegex(ValueError, "65536.*at most 65535"):
                    side.writeMessage(bytes(fits + 1))
                message = side.writeMessage(bytes(fits))
                self.assertEqual(len(message), MAX_MESSAGE)

    def test_wrongType(self) -> None:
        """What is not bytes-like is a C{TypeError}, and nothing has moved."""
        initiator, responder = makePair(XX)
        for wrong in ("text", 5, None):
            self.assertRaises(TypeError, initiator.writeMessage, wrong)
            self.assertRaises(TypeError, responder.readMessage, wrong)
        converse(initiator, responder)
        self.assertTrue(responder.finished)

    def test_repr(self) -> None:
        """What is shown is the protocol, the role and the progress."""
        initiator, responder = makePair(XX)
        converse(initiator, responder, 1)
        self.assertEqual(
            repr(initiator), f"<HandshakeState {XX} initiator message 1/3>"
        )
        self.assertEqual(
            repr(responder), f"<HandshakeState {XX} responder message 1/3>"
        )
        self.assertTrue(initiator.isInitiator)
        self.assertFalse(responder.isInitiator)


class HostileTests(SynchronousTestCase):
    """What a peer sends gives a documented error, or what it should."""

    def test_lengths(self) -> None:
        """
        A message that is shorter than its fields, or longer than any, is refused by
        its length.
        """
        for name in (XX, XXPSK0, *HYBRID):
            for messages in range(3):
                for change in (-1, None):
                    pair = makePair(name)
                    converse(*pair, messages)
                    writer, reader = pair if messages % 2 == 0 else pair[::-1]
                    least = reader.messageLength()
                    message = writer.writeMessage()[:change]
                    if change is None:
                        message = message.ljust(MAX_MESSAGE + 1, b"\0")
                    text = f"message {messages + 1} of .* has {len(message)} bytes: "
                    with self.assertRaisesRegex(HandshakeError, f"{text}.* {least} to"):
                        reader.readMessage(message)

    def test_flippedBit(self) -> None:
        """
        A handshake in which one bit of one message was changed, anywhere, is not
        finished by both sides.
        """
        for name in (XX, XXPSK0):
            for number in range(3):
                length = parseProtocolName(name).messageLengths[number]
                for place in range(length + len(b"payload 0")):
                    self.assertNotFinished(name, number, place)

    def test_flippedBitHybrid(self) -> None:
        """The same for C{XXhfs}, at the ends of the fields and at places between."""
        for place in (0, 31, 32, 32 + 1183, 32 + 1184, *range(33, 1225, 31)):
            self.assertNotFinished(XXHFS, 0, place)
        for place in (0, 31, 32, 1135, 1136, 1183, 1184, 1208, *range(33, 1209, 31)):
            self.assertNotFinished(XXHFS, 1, place)
        for place in range(64 + 9):
            self.assertNotFinished(XXHFS, 2, place)

    test_flippedBitHybrid.skip = NO_HYBRID  # type: ignore[attr-defined]

    def assertNotFinished(self, name: str, number: int, place: int) -> None:
        """
        A changed bit stops a handshake at the latest at the next encrypted message.

        @param number: which message is changed.
        @param place: which byte.
        """
        pair = makePair(name)
        converse(*pair, number)
        writer, reader = pair if number % 2 == 0 else pair[::-1]
        message = bytearray(writer.writeMessage(b"payload %d" % number))
        message[place] ^= 1 << place % 8
        with self.assertRaises(
            (HandshakeError, TamperedRecord), msg=f"{number} {place}"
        ):
            reader.readMessage(message)
            writer.readMessage(reader.writeMessage())
        self.assertFalse(reader.finished and writer.finished)

    def test_lowOrderEphemeral(self) -> None:
        """An ephemeral key that makes every secret zero is refused by both roles."""
        for name, public in product((XX, XXPSK0), LOW_ORDER):
            bad = KeyPair.generate()
            bad.public = public
            initiator, responder = makeSide(name, True, e=bad), makeSide(name, False)
            responder.readMessage(initiator.writeMessage())
            error = self.assertRaises(HandshakeError, responder.writeMessage)
            self.assertIn("all-zero", str(error))
            with self.assertRaisesRegex(RuntimeError, "failed"):
                responder.writeMessage()
            initiator, responder = makeSide(name, True), makeSide(name, False, e=bad)
            responder.readMessage(initiator.writeMessage())
            message = responder.writeMessage()
            self.assertRaises(HandshakeError, initiator.readMessage, message)

    def test_lowOrderStatic(self) -> None:
        """So is such a static key, sent or known before."""
        for public in LOW_ORDER:
            bad = KeyPair.generate()
            bad.public = public
            initiator, responder = makeSide(XX, True), makeSide(XX, False, s=bad)
            responder.readMessage(initiator.writeMessage())
            message = responder.writeMessage()
            self.assertRaises(HandshakeError, initiator.readMessage, message)
            self.assertIsNone(initiator.rs)

            initiator, responder = makeSide(XX, True, s=bad), makeSide(XX, False)
            converse(initiator, responder, 2)
            message = initiator.writeMessage()
            self.assertRaises(HandshakeError, responder.readMessage, message)
            self.assertIsNone(responder.rs)

            initiator = makeSide(NK, True, rs=public)
            self.assertRaises(HandshakeError, initiator.writeMessage)

    def test_badKemKey(self) -> None:
        """A KEM public key with coefficients out of range is refused."""
        responder = makeSide(XXHFS, False)
        responder.readMessage(EPHEMERAL[0].public + b"\xff" * 1184)
        self.assertRaises(HandshakeError, responder.writeMessage)
        self.assertRaises(RuntimeError, responder.writeMessage)

    test_badKemKey.skip = NO_HYBRID  # type: ignore[attr-defined]

    def test_different(self) -> None:
        """
        Sides that differ in prologue, pre-shared key or the protocol's name do not
        finish.
        """
        for name, other, arguments in (
            (XX, XX, {"prologue": b"other"}),
            (XXPSK0, XXPSK0, {"psks": [bytes(32)]}),
            (XX, XX.replace("AESGCM", "ChaChaPoly"), {}),
            (XX, XX.replace("XX", "NX"), {}),
        ):
            initiator = makeSide(name, True)
            responder = makeSide(other, False, **arguments)
            with self.assertRaises(TamperedRecord):
                responder.readMessage(initiator.writeMessage())
                initiator.readMessage(responder.writeMessage())

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from([XX, XXPSK0, *HYBRID]),
        st.integers(0, 2),
        st.binary(max_size=200),
        st.none() | st.integers(-2, 20),
    )
    def test_random(
        self, name: str, messages: int, data: bytes, excess: int | None
    ) -> None:
        """
        Random bytes, of any length or about the right one, are an error from the
        peer, or a first message without secrets.
        """
        pair = makePair(name)
        converse(*pair, messages)
        reader = pair[(messages + 1) % 2]
        if excess is not None:
            length = reader.messageLength() + excess
            data = (b"\1" + data)[:length].ljust(length, b"\2")
        try:
            payload = reader.readMessage(data)
        except (HandshakeError, TamperedRecord):
            self.assertRaises(RuntimeError, reader.messageLength)
        else:
            self.assertEqual(messages, 0)
            self.assertTrue(data.endswith(payload))
