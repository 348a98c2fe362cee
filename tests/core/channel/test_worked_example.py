"""
The protocol document tells the truth: its worked example is what the code
computes, byte for byte.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from aesm.noise import HandshakeState, KeyPair, hybridSupported
from tests import ROOT

DOCUMENT = ROOT / "docs" / "protocol.md"

PSK = bytes(32)


def frame(body: bytes) -> bytes:
    """
    Put a length before some bytes.

    @param body: up to 65,535 bytes.
    """
    return len(body).to_bytes(2, "big") + body


def offerOf(suite: str, layer: str = "") -> bytes:
    """
    Write the offer frame of a suite.

    @param suite: a Noise protocol name.
    @param layer: C{"stream "} for a byte stream.
    @see: PROTOCOL section 2
    """
    return frame(f"AESM/1 {layer}{suite}".encode())


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

    def check(
        self,
        heading: str,
        layer: str,
        hello: bytes,
        plaintexts: list[tuple[str, bytes]],
    ) -> None:
        """
        Check that plaintexts give the document's bytes on the wire, with its keys.

        @param heading: of the example.
        @param layer: C{"stream "} for a byte stream.
        @param hello: the payload of message 3.
        @param plaintexts: who sends them, in order.
        """
        suite = "Noise_XX_25519_AESGCM_SHA256"
        offer = offerOf(suite, layer)
        prologue = offer + frame(b"aesm")
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
        sent = [("client", offer)]
        for who, writer, reader, payload in (
            ("client", client, server, b""),
            ("server", server, client, b""),
            ("client", client, server, hello),
        ):
            message = writer.writeMessage(payload)
            self.assertEqual(reader.readMessage(message), payload)
            sent.append((who, frame(message)))
        ciphers = dict(zip(("client", "server"), client.split(), strict=True))
        for who, plaintext in plaintexts:
            sent.append((who, frame(ciphers[who].encryptWithAd(b"", plaintext))))
        self.text = self.text.split(f"\n### {heading}\n", 1)[1]
        self.assertEqual(sent, self.lines("What crosses the wire"))
        self.assertIn(f"`{client.handshakeHash.hex()}`", self.text)
        self.assertIn(f": {len(prologue)} bytes", " ".join(self.text.split()))

    def test_classical(self) -> None:
        """With the document's keys, its plaintexts give its bytes on the wire."""
        plaintexts = self.lines("The plaintexts of the records")
        self.check("Classical", "", b'{"agent":"example/1"}', plaintexts)
        for key in (0x11, 0x33):
            public = KeyPair.fromBytes(bytes([key]) * 32).public
            self.assertIn(f"`{public.hex()}`", self.text)

    def test_stream(self) -> None:
        """So do they for a byte stream, which has no hello and no frames."""
        plaintexts = [("client", b"hello"), ("client", b""), ("server", b"")]
        self.check("A byte stream", "stream ", b"", plaintexts)

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
