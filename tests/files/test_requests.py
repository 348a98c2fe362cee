"""
What sender and receiver say to each other.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import RequestFailed
from aesm.files.requests import (
    MAX_SIZE,
    MOST_TEXT,
    Chunk,
    FileCode,
    Offer,
    asking,
    isOurs,
    offering,
    readAnswer,
    readAsked,
)

WORD = "aesm-file/1 "
TOKEN = b"\x01" * 8


class RequestTests(SynchronousTestCase):
    """What is written is read, and nothing else is."""

    def test_offer(self) -> None:
        """An offer has all that the receiver has to know."""
        offer = Offer("ä\n\u202e.txt", 3, -5, True)
        self.assertEqual(readAsked(offering(offer)), ("offer", {"offer": offer}))
        self.assertTrue(isOurs(offering(offer)))

    def test_chunk(self) -> None:
        """A chunk has its token, its offset, and its bytes."""
        chunk = Chunk(TOKEN, 1 << 40, memoryview(b"data"))
        encoded = chunk.encode()
        self.assertEqual(readAsked(encoded), chunk)
        self.assertEqual(encoded[:12], WORD.encode())
        self.assertEqual(encoded[12:20], TOKEN)
        self.assertEqual(encoded[20:28], (1 << 40).to_bytes(8, "big"))
        self.assertTrue(isOurs(encoded))

    def test_others(self) -> None:
        """Requests of others are told from ours."""
        for data in ("", "aesm-file/2 {}", b"", b"aesm-file/", None, "x" + WORD):
            self.assertFalse(isOurs(data))

    def test_rest(self) -> None:
        """The others have a token, and that which ends a file its digest."""
        token = TOKEN.hex()
        self.assertEqual(
            readAsked(asking("done", token=token, sha256="ab")),
            ("done", {"token": TOKEN, "sha256": "ab"}),
        )
        self.assertEqual(
            readAsked(asking("drop", token=token)),
            ("drop", {"token": TOKEN, "sha256": ""}),
        )
        for kind in ("end", "receive"):
            self.assertEqual(readAsked(asking(kind)), (kind, {}))

    def test_malformed(self) -> None:
        """What cannot be read is refused, with a code of its own."""
        good = {"do": "offer"} | asdict(Offer("a", 1, 1))
        wrong: list[dict[str, Any]] = [
            {"name": 1},
            {"name": "\udcff"},
            {"size": -1},
            {"size": MAX_SIZE + 1},
            {"size": True},
            {"size": 1.0},
            {"mtime": None},
            {"mtime": -MAX_SIZE - 1},
            {"executable": 1},
            {"do": "delete"},
            {"do": []},
            {"do": "done", "token": "xy"},
            {"do": "done", "token": 5, "sha256": ""},
            {"do": "done", "token": "00"},
            {"do": "drop"},
        ]
        texts = [WORD + json.dumps(good | each) for each in wrong]
        texts += [WORD, WORD + "[]", WORD + "{", WORD + "[" * 4000, WORD + "1" * 5000]
        for data in (*texts, WORD.encode(), Chunk(TOKEN, 0, memoryview(b"")).encode()):
            error = self.assertRaises(RequestFailed, readAsked, data)
            self.assertEqual(error.code, FileCode.MALFORMED, data)

    def test_bounds(self) -> None:
        """The numbers go as far as they say, and a text no further."""
        for size, mtime in ((0, -MAX_SIZE), (MAX_SIZE, MAX_SIZE)):
            offer = Offer("a", size, mtime)
            self.assertEqual(readAsked(offering(offer)), ("offer", {"offer": offer}))
        room = MOST_TEXT - len(offering(Offer("", 0, 0))) + len(WORD)
        self.assertEqual(readAsked(offering(Offer("n" * room, 0, 0)))[0], "offer")  # type: ignore[index]
        self.assertRaises(
            RequestFailed, readAsked, offering(Offer("n" * (room + 1), 0, 0))
        )

    def test_answers(self) -> None:
        """An answer has the fields that it must have, of their types."""
        self.assertEqual(readAnswer('{"b": 1, "a": "x"}', a=str, b=int), ["x", 1])
        for answer in ('{"a": 1}', "{}", "[]", "", b"{}", '{"a": true}'):
            self.assertRaises(RequestFailed, readAnswer, answer, a=str)
        self.assertRaises(RequestFailed, readAnswer, '{"a": true}', a=int)

    @given(st.binary(max_size=100) | st.text(max_size=100))
    def test_anything(self, data: bytes | str) -> None:
        """Whatever comes is read, or refused; nothing else happens."""
        word = WORD.encode() if isinstance(data, bytes) else WORD
        try:
            readAsked(word + data)  # type: ignore[operator]
        except RequestFailed as error:
            self.assertEqual(error.code, FileCode.MALFORMED)
