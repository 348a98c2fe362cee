"""
L{aesm.noise} against vectors that others have published: those of the cacophony
project, and for C{XXhfs} those of libp2p, which four implementations agree on.

@see: U{https://github.com/haskell-cryptography/cacophony}
@see: U{https://github.com/libp2p/specs/pull/727}
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from twisted.trial.unittest import SynchronousTestCase

from aesm.noise import PATTERNS, HandshakeState, parseProtocolName
from tests import VECTORS
from tests.noise.test_reference import NO_HYBRID


def load() -> list[dict[str, Any]]:
    """The vectors whose DH functions are 25519."""
    vectors: list[dict[str, Any]] = json.loads((VECTORS / "cacophony.txt").read_text())[
        "vectors"
    ]
    return [vector for vector in vectors if "_25519_" in vector["protocol_name"]]


def makeSide(vector: dict[str, Any], side: str) -> HandshakeState:
    """
    One side of a vector.

    @param side: C{"init"} or C{"resp"}.
    """

    def key(name: str) -> bytes | None:
        """A key of this side, if the vector has it."""
        value = vector.get(f"{side}_{name}")
        return None if value is None else bytes.fromhex(value)

    return HandshakeState(
        vector["protocol_name"],
        initiator=side == "init",
        prologue=bytes.fromhex(vector[f"{side}_prologue"]),
        s=key("static"),
        e=key("ephemeral"),
        rs=key("remote_static"),
        psks=[bytes.fromhex(psk) for psk in vector.get(f"{side}_psks", ())],
    )


class CacophonyTests(SynchronousTestCase):
    """Both sides make and read what the vectors say."""

    def test_all(self) -> None:
        """All of the 472: every message and record in both roles, and the hash."""
        vectors = load()
        self.assertEqual(len(vectors), 472)
        for vector in vectors:
            self.runVector(vector)

    def test_everyPattern(self) -> None:
        """The vectors have every pattern of the table."""
        names = {vector["protocol_name"].split("_")[1] for vector in load()}
        self.assertLessEqual(set(PATTERNS), names)
        self.assertEqual(len(PATTERNS), 3 + 12 + 23)

    def runVector(self, vector: dict[str, Any]) -> None:
        """Check one vector."""
        name = vector["protocol_name"]
        initiator, responder = makeSide(vector, "init"), makeSide(vector, "resp")
        messages = [
            (bytes.fromhex(each["payload"]), bytes.fromhex(each["ciphertext"]))
            for each in vector["messages"]
        ]
        handshake = len(parseProtocolName(name).messageLengths)
        sides = [initiator, responder]
        for payload, message in messages[:handshake]:
            self.assertEqual(sides[0].writeMessage(payload), message, name)
            self.assertEqual(sides[1].readMessage(message), payload, name)
            sides.reverse()
        for side in sides:
            self.assertEqual(side.handshakeHash.hex(), vector["handshake_hash"], name)
        senders, receivers = list(initiator.split()), list(responder.split())
        if handshake == 1:  # one-way: all that follows is the initiator's
            del senders[1:], receivers[1:]
        for number, (payload, message) in enumerate(messages[handshake:], handshake):
            turn = number % len(senders)
            self.assertEqual(senders[turn].encryptWithAd(b"", payload), message, name)
            self.assertEqual(receivers[turn].decryptWithAd(b"", message), payload, name)


class Libp2pTests(SynchronousTestCase):
    """libp2p drafts the same hybrid handshake, but for prologue and payloads."""

    skip = NO_HYBRID

    def test_initiator(self) -> None:
        """
        With a vector's keys and its message B (ML-KEM encapsulation is random), our
        initiator finds the responder's key, and makes its message C, its handshake hash
        and both of its keys.
        """
        for published in json.loads((VECTORS / "libp2p.json").read_text()):
            for vector in published["vectors"]:
                self.replay(published["protocol"], vector)

    def replay(self, name: str, vector: dict[str, Any]) -> None:
        """Be the initiator of a vector."""
        value = {
            name: bytes.fromhex(text)
            for name, text in vector.items()
            if isinstance(text, str) and name != "description"
        }
        ours = HandshakeState(
            "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256",
            initiator=True,
            s=value["static_i_private"],
            e=value["ephemeral_dh_i_private"],
        )
        # Noise has no names with hyphens, so that we cannot be asked for it; but all
        # that it changes is what the handshake begins with.
        symmetric = cast(Any, ours)._symmetric
        symmetric.h = symmetric._ck = hashlib.sha256(name.encode("ascii")).digest()
        symmetric.mixHash(value["prologue"])
        seed = bytes([value["static_i_private"][0] + 4]) * 64
        ours._kem["e1"] = MLKEM768PrivateKey.from_seed_bytes(seed)
        messageA = ours.writeMessage(b"")
        self.assertEqual(len(messageA), vector["msg_a_bytes"])
        self.assertTrue(messageA.startswith(value["ephemeral_dh_i_public"]))
        self.assertEqual(ours.readMessage(value["msg_b"]), b"")
        self.assertEqual(ours.rs, value["static_r_public"])
        self.assertEqual(ours.writeMessage(b""), value["msg_c"])
        self.assertEqual(ours.handshakeHash, value["handshake_hash"])
        for state, key in zip(ours.split(), ("cs1_k", "cs2_k"), strict=True):
            expected = ChaCha20Poly1305(value[key]).encrypt(bytes(12), b"data", b"ad")
            self.assertEqual(state.encryptWithAd(b"ad", b"data"), expected)
