"""
The cryptographic functions of L{aesm.noise}, as we call them, against Project
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
from aesm.noise import MAX_NONCE, CipherState, KeyPair
from aesm.noise.functions import CIPHERS, KemKeyPair, encapsulate
from tests import VECTORS
from tests.noise.test_reference import NO_HYBRID

WYCHEPROOF = VECTORS / "wycheproof"


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


class X25519Tests(SynchronousTestCase):
    """L{KeyPair.exchange} agrees with the vectors."""

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
            exchange = KeyPair.fromBytes(vector["private"]).exchange
            self.assertEqual(
                outcome(exchange, vector["public"]),
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
    """L{KemKeyPair.decapsulate} and L{encapsulate} agree with the vectors."""

    skip = NO_HYBRID

    def test_decapsulate(self) -> None:
        """
        Secrets are the vectors', also of ciphertexts that are to be rejected
        implicitly; a ciphertext of another size is refused, and of a private key
        of another size C{cryptography} makes nothing.
        """
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        counts: Counter[object] = Counter()
        for vector in load("mlkem_768"):
            seed = vector["seed"]
            counts[vector["result"], len(seed) == 64] += 1
            if len(seed) != 64:
                found = outcome(MLKEM768PrivateKey.from_seed_bytes, seed)
                self.assertEqual(found, ValueError, vector["tcId"])
                continue
            pair = KemKeyPair(MLKEM768PrivateKey.from_seed_bytes(seed))
            secret = outcome(pair.decapsulate, vector["c"])
            if vector["result"] == "valid":
                self.assertEqual(secret, vector["K"], vector["tcId"])
            else:
                self.assertEqual(secret, HandshakeError, vector["tcId"])
        self.assertEqual(
            counts,
            {("valid", True): 21, ("invalid", True): 4, ("invalid", False): 6},
        )

    def test_encapsulate(self) -> None:
        """
        A public key that is of the wrong size or not reduced is refused; for any
        other there are a secret and a ciphertext.
        """
        counts: Counter[object] = Counter()
        for vector in load("mlkem_768_encaps"):
            counts[vector["result"]] += 1
            found = outcome(encapsulate, vector["ek"])
            lengths = tuple(map(len, found)) if isinstance(found, tuple) else found
            self.assertEqual(
                lengths,
                (32, 1088) if vector["result"] == "valid" else HandshakeError,
                vector["tcId"],
            )
        self.assertEqual(counts, {"valid": 17, "invalid": 44})
