"""
The cryptographic functions of L{aesm.noise}, as a handshake calls them, against Project
Wycheproof: inputs that have broken other implementations.

@see: U{https://github.com/C2SP/wycheproof}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import HandshakeError, TamperedRecord
from aesm.noise import (
    MAX_NONCE,
    CipherState,
    HandshakeState,
    KeyPair,
    parseProtocolName,
)
from aesm.noise.functions import CIPHERS
from aesm.noise.handshakestate import SymmetricState
from tests import VECTORS
from tests.noise.test_reference import NO_HYBRID

WYCHEPROOF = VECTORS / "wycheproof"
NN = "Noise_NN_25519_AESGCM_SHA256"
NNHFS = "Noise_NNhfs_25519+MLKEM768_AESGCM_SHA256"
FRESH = KeyPair.generate()  # whoever has none of a vector's


def load(name: str) -> list[dict[str, Any]]:
    """
    Load vectors, bytes as bytes.

    @param name: of the file.
    """
    return [
        {
            key: bytes.fromhex(value)
            if isinstance(value, str) and key != "result"
            else value
            for key, value in vector.items()
        }
        for vector in json.loads((WYCHEPROOF / f"{name}.json").read_text())
    ]


def outcome(function: Callable[..., object], *arguments: object) -> object:
    """
    Call a function, so that one comparison tells all.

    @param function: what to call.
    @param arguments: what with.
    @return: what it returned, or the class of what it raised.
    """
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


def constant(nonce: bytes, n: int) -> bytes:
    """
    Pack a number into a nonce that has nothing to do with it.

    @param nonce: the nonce.
    @param n: the number.
    """
    return nonce


def begun(ours: HandshakeState) -> SymmetricState:
    """
    Have an initiator write its message 1.

    @return: what its responder has seen by then.
    """
    message, symmetric = ours.writeMessage(), SymmetricState(ours.protocol)
    lengths = (32, len(message) - 32) if ours.protocol.hybrid else (32,)
    symmetric.mixHash(b"")  # the prologue
    for length in lengths:
        symmetric.mixHash(message[:length])
        message = message[length:]
    symmetric.mixHash(b"")  # the payload
    return symmetric


class X25519Tests(SynchronousTestCase):
    """A handshake's DH agrees with the vectors."""

    def exchange(self, private: bytes, public: bytes, shared: bytes) -> bytes:
        """
        Have an initiator read what a responder writes that has computed a secret.

        @param private: the initiator's.
        @param public: the responder's.
        @param shared: what it has computed.
        @return: the secret, if they agree.
        """
        ours = HandshakeState(NN, initiator=True, e=private)
        theirs = begun(ours)
        theirs.mixHash(public)
        theirs.mixKey(shared)
        ours.readMessage(public + theirs.encryptAndHash(b""))
        return shared

    def test_all(self) -> None:
        """
        Whatever is valid or acceptable (points of the twist, coordinates that are
        not reduced) gives the shared secret of RFC 7748, and what gives all zeroes
        is refused.
        """
        counts: Counter[object] = Counter()
        for vector in load("x25519"):
            zeroes = not any(vector["shared"])
            counts[vector["result"], zeroes] += 1
            given = vector["private"], vector["public"], vector["shared"]
            self.assertEqual(
                outcome(self.exchange, *given),
                HandshakeError if zeroes else vector["shared"],
                vector["tcId"],
            )
        self.assertEqual(
            counts,
            {
                ("valid", False): 264,
                ("acceptable", False): 223,
                ("acceptable", True): 31,
            },
        )


class CipherTests(SynchronousTestCase):
    """L{CipherState} agrees with the vectors whose sizes are those of Noise."""

    def check(self, name: str, cipher: str, counts: Counter[object]) -> None:
        """
        Seal and open what is valid, and refuse what is not.

        Few of the vectors' nonces have the form that Noise gives to a number; where
        one has not, the number 0 stands for it.

        @param name: as for L{load}.
        @param cipher: its name in protocol names.
        @param counts: how many vectors there are of each result, with and without
            a nonce of Noise's form.
        """
        found: Counter[object] = Counter()
        for vector in load(name):
            functions, nonce, n = CIPHERS[cipher], vector["iv"], 0
            for order in ("big", "little"):
                number = int.from_bytes(nonce[4:], order)
                if functions.packNonce(number) == nonce and number < MAX_NONCE:
                    n = number
            ofNoise = functions.packNonce(n) == nonce
            if not ofNoise:
                functions = replace(functions, packNonce=partial(constant, nonce))
            found[vector["result"], ofNoise] += 1
            sealed = vector["ct"] + vector["tag"]
            state = CipherState(functions, vector["key"])
            state.n = n
            opened = outcome(state.decryptWithAd, vector["aad"], sealed)
            if vector["result"] == "valid":
                self.assertEqual((opened, state.n), (vector["msg"], n + 1))
                state.n = n
                resealed = state.encryptWithAd(vector["aad"], vector["msg"])
                self.assertEqual(resealed, sealed, vector["tcId"])
            else:
                self.assertEqual((opened, state.n), (TamperedRecord, n))
        self.assertEqual(found, counts)

    def test_aesgcm(self) -> None:
        """AES-256-GCM: counters that wrap, tags that are altered, and the rest."""
        counts = {("valid", False): 38, ("valid", True): 1, ("invalid", False): 27}
        self.check("aes_gcm", "AESGCM", Counter(counts))

    def test_chachaPoly(self) -> None:
        """
        ChaCha20-Poly1305: sums that overflow, tags that are altered, and the rest.
        """
        counts = {("valid", False): 246, ("valid", True): 10, ("invalid", False): 60}
        self.check("chacha20_poly1305", "ChaChaPoly", Counter(counts))


class KemTests(SynchronousTestCase):
    """A handshake's KEM agrees with the vectors."""

    skip = NO_HYBRID

    def decapsulate(self, seed: bytes, ciphertext: bytes, secret: bytes) -> bytes:
        """
        Have an initiator read what a responder writes that has a ciphertext's secret.

        @param seed: of the initiator's private key.
        @return: the secret, if they agree.
        """
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        ours = HandshakeState(NNHFS, initiator=True, e=FRESH)
        ours._kem["e1"] = MLKEM768PrivateKey.from_seed_bytes(seed)
        theirs, ee = begun(ours), KeyPair.generate()
        theirs.mixHash(ee.public)
        theirs.mixKey(ee.private.exchange(FRESH.private.public_key()))
        message = ee.public + theirs.encryptAndHash(ciphertext)
        theirs.mixKey(secret)
        ours.readMessage(message + theirs.encryptAndHash(b""))
        return secret

    def test_decapsulate(self) -> None:
        """
        Secrets are the vectors', also of ciphertexts that are to be rejected
        implicitly; a ciphertext of another size is refused, and of a private key
        of another size C{cryptography} makes nothing.
        """
        counts: Counter[object] = Counter()
        for vector in load("mlkem_768"):
            seed, secret = vector["seed"], vector.get("K", bytes(32))
            counts[vector["result"], len(seed) == 64] += 1
            found = outcome(self.decapsulate, seed, vector.get("c", b""), secret)
            if vector["result"] == "valid":
                self.assertEqual(found, secret, vector["tcId"])
            elif len(seed) != 64:
                self.assertEqual(found, ValueError, vector["tcId"])
            else:
                refused = (HandshakeError, TamperedRecord)
                self.assertIn(found, refused, vector["tcId"])
        self.assertEqual(
            counts,
            {("valid", True): 21, ("invalid", True): 4, ("invalid", False): 6},
        )

    def test_encapsulate(self) -> None:
        """
        A public key that is not reduced is refused; for any other there are a secret
        and a ciphertext.  Of another size none can be: a field of a message has its
        length.
        """
        counts: Counter[object] = Counter()
        for vector in load("mlkem_768_encaps"):
            counts[vector["result"], fits := len(vector["ek"]) == 1184] += 1
            if not fits:
                continue
            responder = HandshakeState(NNHFS, initiator=False)
            responder.readMessage(FRESH.public + vector["ek"])
            found = outcome(responder.writeMessage)
            lengths = len(found) if isinstance(found, bytes) else found
            self.assertEqual(
                lengths,
                parseProtocolName(NNHFS).messageLengths[1]
                if vector["result"] == "valid"
                else HandshakeError,
                vector["tcId"],
            )
        self.assertEqual(
            counts,
            {("valid", True): 17, ("invalid", True): 38, ("invalid", False): 6},
        )
