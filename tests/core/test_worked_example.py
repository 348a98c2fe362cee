"""
The documents of the protocol tell the truth: their worked examples, and the table of
lengths, are what the code computes, byte for byte, and so does a client that shares no
code with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from aesm.noise import HandshakeState, KeyPair, hybridSupported
from tests import ROOT
from tests.support import example, foreign

PROTOCOL = ROOT / "docs" / "protocol.md"

PSK = bytes(32)

_TITLE = re.compile(r"\*\*(client|server): .*\*\*, ([\d,]+) bytes\n")


class WorkedExampleTests(SynchronousTestCase):
    """C{docs/protocol-example.md} and its vectors."""

    def setUp(self) -> None:
        """Read both."""
        if not example.DOCUMENT.exists():
            raise SkipTest("not in a source tree")
        self.text = example.DOCUMENT.read_text("utf-8")
        self.vectors = example.recorded()

    def feasible(self) -> Iterator[dict[str, Any]]:
        """Give the conversations that this installation can have."""
        for vector in self.vectors:
            if "hfs" not in vector["suite"] or hybridSupported():
                yield vector

    def test_replayed(self) -> None:
        """With the same keys, our client and our server say the same."""
        kem = example.kemOf(self.vectors)
        for vector in self.feasible():
            name = vector["name"]
            again = example.converse(name, kem).vector(name)
            self.assertEqual(json.loads(json.dumps(again)), vector)

    def test_printed(self) -> None:
        """
        The document has all of it: C{python -m tests.support.example} prints it anew.
        """
        names = [vector["name"] for vector in self.vectors]
        self.assertEqual(names, list(example.CONVERSATIONS))
        self.assertEqual(example.updated(self.text, self.vectors), self.text)
        for static, _ in example.KEYS.values():
            self.assertIn(f"`{KeyPair.fromBytes(static).public.hex()}`", self.text)

    def test_legible(self) -> None:
        """
        Put together again, the document's fields are what crosses the wire, and the
        plaintexts of records.
        """
        for vector in self.vectors:
            part = self.text.split(f"<!-- conversation: {vector['name']} -->")[1]
            part, wire = part.split("<!-- end -->")[0], vector["wire"]
            blocks = [
                block
                for block in re.split(r"(?m)^(?=\*\*)", part)
                if _TITLE.match(block) is not None
            ]
            self.assertGreaterEqual(len(blocks), 4)
            for block, sent in zip(blocks, wire, strict=False):
                who, size = re.findall(_TITLE, block)[0]
                fields = self.read(block, bytes.fromhex(sent["bytes"]))
                self.assertEqual((who, fields[0]), (sent["from"], sent["bytes"]))
                self.assertEqual(len(fields[0]), 2 * _number(size))
                if sent["what"] == "record":
                    self.assertEqual(fields[1], sent["plaintext"])
            listed = re.findall(r"(?m)^(client|server)  ([0-9a-f]+)$", part)
            rest = [(each["from"], each["bytes"]) for each in wire[len(blocks) :]]
            self.assertEqual(listed, rest)

    def read(self, block: str, whole: bytes) -> tuple[str, str]:
        """
        Put the fields of a block together.

        @param whole: what it prints, in the place of what it does not print in full.
        @return: what crosses the wire, and the plaintext, in hexadecimal digits.
        """
        wire, plaintext, field = "", "", b""
        for line in block.split("```text\n")[1].split("\n```")[0].splitlines():
            if found := re.fullmatch(r"SHA-256 ([0-9a-f]{64})", line):
                self.assertEqual(found[1], sha256(field).hexdigest())
            elif found := re.fullmatch(
                r"([0-9a-f]{32})\.\.\. .*, ([\d,]+) bytes", line
            ):
                start = len(wire) // 2
                field = whole[start : start + _number(found[2])]
                self.assertEqual(found[1], field[:16].hex())
                wire += field.hex()
            elif found := re.fullmatch(r"\.\.\.([0-9a-f]{32})", line):
                self.assertEqual(found[1], field[-16:].hex())
            elif found := re.fullmatch(r"    ([0-9a-f]+)(  .*)?", line):
                plaintext += found[1]
            else:
                found = re.fullmatch(r"([0-9a-f]+)(  .*)?", line)
                assert found is not None, line
                wire += found[1]
        return wire, plaintext

    def test_foreign(self) -> None:
        """
        A client that shares no code with us says the same, and understands the
        server, also with the keys after C{Rekey}.
        """
        for vector in self.feasible():
            mine, wire = vector["client"], vector["wire"]
            suite, key = vector["suite"], bytes.fromhex(mine["static"])
            ephemeral = bytes.fromhex(mine["ephemeral"])
            prologue = bytes.fromhex(vector["prologue"])
            noise: foreign.Classical | foreign.Hybrid
            if "hfs" in suite:
                noise = foreign.Hybrid(suite, prologue, None, key)
                noise.e = X25519PrivateKey.from_private_bytes(ephemeral)
                seed = bytes.fromhex(mine["kem_seed"])
                noise.kem = MLKEM768PrivateKey.from_seed_bytes(seed)
            else:
                noise = foreign.Classical(suite, prologue, None, key, ephemeral)
            first, second, third = (bytes.fromhex(each["bytes"]) for each in wire[1:4])
            self.assertEqual(foreign.frame(noise.first()), first)
            payload = bytes.fromhex(wire[3]["plaintext"])
            self.assertEqual(foreign.frame(noise.third(second[2:], payload)), third)
            for sent in wire[4:]:
                record = bytes.fromhex(sent["bytes"])
                plaintext = bytes.fromhex(sent["plaintext"])
                if sent["from"] == "client":
                    self.assertEqual(foreign.frame(noise.seal(plaintext)), record)
                else:
                    self.assertEqual(noise.open(record[2:]), plaintext)
            noise.rekeySending()
            noise.rekeyReceiving()
            for each in noise.ciphers:
                each.n = foreign.REKEY
            records = {w: bytes.fromhex(r) for w, r in vector["after_rekey"].items()}
            self.assertEqual(foreign.frame(noise.seal(b"\0")), records["client"])
            self.assertEqual(noise.open(records["server"][2:]), b"\0")
        self.flushWarnings()  # of a fixed key, "OK for testing"


def _number(digits: str) -> int:
    """Read a number with commas."""
    return int(digits.replace(",", ""))


class LengthTests(SynchronousTestCase):
    """The table of lengths in section 3 of C{docs/protocol.md}."""

    def test_lengths(self) -> None:
        """
        The first frames of each suite that this installation can do are as long
        as the table says.
        """
        if not PROTOCOL.exists():
            raise SkipTest("not in a source tree")
        rows = re.findall(
            r"^\| `(XX\S*)_25519(\S*)` \| (\d+)\D+(\d+)[^|]*\| ([\d,]+) \| ([\d,]+) \|",
            PROTOCOL.read_text("utf-8"),
            re.MULTILINE,
        )
        table = {
            f"Noise_{pattern}_25519{kem}_{cipher}_SHA256": [
                _number(number) for number in (offer, *messages)
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
            offer = foreign.frame(f"AESM/1 {suite}".encode())
            answer = foreign.frame(server.writeMessage())
            frames = (offer, foreign.frame(request), answer)
            self.assertEqual(list(map(len, frames)), lengths, suite)
