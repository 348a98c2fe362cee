"""
L{aesm.noise} against the published vectors of the cacophony project.

@see: U{https://github.com/haskell-cryptography/cacophony}
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from aesm.noise import PATTERNS, HandshakeState, parseProtocolName
from tests import VECTORS


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
