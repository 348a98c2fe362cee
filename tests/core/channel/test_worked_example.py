"""
The protocol document tells the truth: its worked example is what the code
computes, byte for byte.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from aesm.noise import HandshakeState, hybridSupported
from tests import ROOT

DOCUMENT = ROOT / "docs" / "protocol.md"

PSK = bytes(32)


def frame(body: bytes) -> bytes:
    """
    Put a length before some bytes.

    @param body: up to 65,535 bytes.
    """
    return len(body).to_bytes(2, "big") + body


def offerOf(suite: str) -> bytes:
    """
    Write the offer frame of a suite.

    @param suite: a Noise protocol name.
    @see: PROTOCOL section 2
    """
    return frame(f"AESM/1 {suite}".encode())


class WorkedExampleTests(SynchronousTestCase):
    """Section 10, and the table of lengths in section 3."""

    def setUp(self) -> None:
        """Read the document."""
        if not DOCUMENT.exists():
            raise SkipTest("not in a source tree")
        self.text = DOCUMENT.read_text("utf-8")

    def lines(self, heading: str) -> list[tuple[str, bytes]]:
        """
        Read the block of bytes that follows some words.

        @param heading: the words.
        @return: who sends, and what, line by line.
        """
        block = self.text.split(heading, 1)[1].split("```")[1]
        pairs = [line.partition(" ") for line in block.splitlines()[1:]]
        return [(who, bytes.fromhex(digits)) for who, _, digits in pairs]

    def test_classical(self) -> None:
        """With the document's keys, its plaintexts give its bytes on the wire."""
        suite = "Noise_XX_25519_AESGCM_SHA256"
        prologue = offerOf(suite) + frame(b"aesm")
        client, server = (
            HandshakeState(
                suite,
                initiator=initiator,
                prologue=prologue,
                s=bytes([static]) * 32,
                e=bytes([ephemeral]) * 32,
            )
            for initiator, static, ephemeral in (
                (True, 0x11, 0x22),
                (False, 0x33, 0x44),
            )
        )
        sent = [("client", offerOf(suite))]
        for who, writer, reader, payload in (
            ("client", client, server, b""),
            ("server", server, client, b""),
            ("client", client, server, b'{"agent":"example/1"}'),
        ):
            message = writer.writeMessage(payload)
            self.assertEqual(reader.readMessage(message), payload)
            sent.append((who, frame(message)))
        ciphers = dict(zip(("client", "server"), client.split(), strict=True))
        for who, plaintext in self.lines("The plaintexts of the records"):
            sent.append((who, frame(ciphers[who].encryptWithAd(b"", plaintext))))
        self.assertEqual(sent, self.lines("What crosses the wire"))
        for value in (client.handshakeHash, client.rs, server.rs):
            self.assertIn(f"`{(value or b'none').hex()}`", self.text)

    def test_lengths(self) -> None:
        """
        The first frames of each suite that this installation can do are as long
        as the table says.
        """
        rows = re.findall(
            r"^\| `(XX\S*)_25519(\S*)` \| (\d+)\D+(\d+)[^|]*\| ([\d,]+) \| ([\d,]+) \|",
            self.text,
            re.MULTILINE,
        )
        table = {
            f"Noise_{pattern}_25519{kem}_{cipher}_SHA256": [
                int(number.replace(",", "")) for number in (offer, *messages)
            ]
            for pattern, kem, aes, chacha, *messages in rows
            for cipher, offer in (("AESGCM", aes), ("ChaChaPoly", chacha))
        }
        self.assertEqual(len(table), 8)
        for suite, lengths in table.items():
            if "hfs" in suite and not hybridSupported():
                continue
            client, server = (
                HandshakeState(
                    suite,
                    initiator=initiator,
                    s=bytes([static]) * 32,
                    psks=(PSK,) if "psk" in suite else (),
                )
                for initiator, static in ((True, 0x11), (False, 0x33))
            )
            request = client.writeMessage()
            server.readMessage(request)
            frames = (offerOf(suite), frame(request), frame(server.writeMessage()))
            self.assertEqual(list(map(len, frames)), lengths, suite)
