"""
Tests of L{aesm.core.messages.hello}: what hello and WELCOME may say.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.frames import MAX_OBJECT
from aesm.core.messages.hello import ALIKE, EARLY_WINDOW, Hello
from aesm.errors import ProtocolError

SESSION = "0123456789abcdef0123456789ABCDEF"
MOST = 2**64 - 1


class HelloTests(SynchronousTestCase):
    """L{Hello}."""

    def refused(self, payload: bytes) -> str:
        """
        Decode what is none.

        @param payload: it.
        @return: what the error says.
        """
        return str(self.assertRaises(ProtocolError, Hello.decode, payload))

    def test_defaults(self) -> None:
        """What is left out has the defaults of PROTOCOL."""
        self.assertEqual(
            asdict(Hello.decode(b"{}")),
            {
                "agent": "",
                "maxMessage": 1 << 20,
                "heartbeat": 30.0,
                "batch": False,
                "window": 16 << 20,
                "session": "",
                "received": 0,
                "partial": 0,
                "early": 0,
                "nextKey": "",
                "resume": True,
                "requests": False,
            },
        )

    def test_encoded(self) -> None:
        """
        It is written as a JSON object, in ASCII; without a session there is no key
        of it.
        """
        encoded = Hello(agent="\xe9", batch=True).encode()
        self.assertTrue(encoded.isascii())
        self.assertEqual(
            json.loads(encoded),
            {
                "agent": "\xe9",
                "maxMessage": 1048576,
                "heartbeat": 30.0,
                "batch": True,
                "window": 16777216,
                "received": 0,
            },
        )
        self.assertEqual(
            json.loads(Hello(session=SESSION).encode())["session"], SESSION
        )

    def test_sizes(self) -> None:
        """It has at most 2,048 bytes."""
        for size in (MAX_OBJECT - 1, MAX_OBJECT):
            self.assertEqual(Hello.decode(b"{}".ljust(size)), Hello())
        self.assertIn("more than 2048", self.refused(b"{}".ljust(MAX_OBJECT + 1)))

    def test_unknownKeys(self) -> None:
        """Keys that we do not know are ignored, whatever they say."""
        for value in ("1", "null", '"x"', "[[]]", '{"batch": 1}', "1e999", "9" * 1900):
            payload = f'{{"future": {value}, "batch": true, "": 0}}'
            self.assertEqual(Hello.decode(payload.encode()), Hello(batch=True))

    def test_values(self) -> None:
        """Each key has its values."""
        good: dict[str, list[Any]] = {
            "agent": ["", "aesm/1", "\x00", "\xe9\U0001f600", "\ud800"],
            "maxMessage": [0, 1, MOST],
            "heartbeat": [1, 0.001, 1e9, 10**9],
            "batch": [True, False],
            "window": [0, 1, MOST],
            "session": [SESSION],
            "received": [0, MOST],
            "early": [0, EARLY_WINDOW],
        }
        for key, values in good.items():
            for value in values:
                said = Hello.decode(json.dumps({key: value}).encode())
                self.assertEqual(said, Hello(**{key: value}))

    def test_impossible(self) -> None:
        """Others are refused, and so is C{null}."""
        count = ["null", "-1", str(2**64), "1.0", "1e3", "true", '"1"', "[1]", "{}"]
        bad = {
            "agent": ["null", "1", "[]"],
            "maxMessage": count,
            "heartbeat": [
                "null",
                "0",
                "-1",
                "0.0",
                "-0.5",
                "1e999",
                "1.1e9",
                "1" * 400,
                "true",
                '"30"',
            ],
            "batch": ["null", "0", "1", '"true"', "[]"],
            "window": count,
            "session": [
                "null",
                "0",
                '""',
                f'"{SESSION[1:]}"',
                f'"{SESSION}0"',
                f'"{SESSION}\\n"',
                f'"{SESSION[1:]}g"',
                f'"{SESSION[1:]}\\u0660"',
                f'["{SESSION}"]',
            ],
            "received": count,
            "early": [*count, str(EARLY_WINDOW + 1)],
        }
        for key, values in bad.items():
            for value in values:
                error = self.refused(f'{{"{key}": {value}}}'.encode())
                self.assertEqual(error, f"a hello with an impossible '{key}'")

    def test_notAnObject(self) -> None:
        """Whatever is not one JSON object in UTF-8 is refused."""
        for payload in (
            b"",
            b" ",
            b"null",
            b"[]",
            b'"{}"',
            b"0",
            b"{",
            b"{}{}",
            b"{} x",
            b"{'batch': true}",
            b'{"batch": true,}',
            b"\xef\xbb\xbf{}",  # a byte order mark
            "{}".encode("utf-16"),
            "{}".encode("utf-16-be"),
            "{}".encode("utf-32-le"),
            b'{"agent": "\xff"}',
            b'{"agent": "\xed\xa0\x80"}',
            b'{"agent": "\n"}',
            b"{}\x00",
        ):
            self.assertIn("not a JSON object", self.refused(payload))

    def test_constants(self) -> None:
        """C{NaN} and C{Infinity} are not JSON, wherever they stand."""
        for constant in ("NaN", "Infinity", "-Infinity"):
            for key in ("heartbeat", "future"):
                payload = f'{{"{key}": {constant}}}'.encode()
                self.assertIn("not a JSON object", self.refused(payload))

    def test_depth(self) -> None:
        """
        What is nested as deeply as its size allows is refused or ignored, no more.
        """
        for opening, closing in (("[", "]"), ('{"":', "}")):
            deep = (MAX_OBJECT - 20) // (len(opening) + len(closing))
            nested = opening * deep + "0" + closing * deep
            self.refused((opening * (MAX_OBJECT // len(opening))).encode())
            try:
                said = Hello.decode(f'{{"future": {nested}}}'.encode())
            except ProtocolError as error:
                self.assertIn("not a JSON object", str(error))
            else:
                self.assertEqual(said, Hello())

    def test_twice(self) -> None:
        """Of a key that comes twice, the last counts."""
        said = Hello.decode(b'{"batch": 1, "batch": true}')
        self.assertEqual(said, Hello(batch=True))
        self.refused(b'{"batch": true, "batch": 1}')

    @settings(max_examples=100, deadline=None)
    @given(
        st.builds(
            Hello,
            agent=st.text(max_size=100),
            maxMessage=st.integers(0, MOST),
            heartbeat=st.floats(min_value=0, exclude_min=True, max_value=1e9),
            batch=st.booleans(),
            window=st.integers(0, MOST),
            session=st.sampled_from(["", SESSION]),
            received=st.integers(0, MOST),
            early=st.integers(0, EARLY_WINDOW),
            nextKey=st.sampled_from(["", "A" * 43 + "="]),
        )
    )
    def test_roundTrip(self, hello: Hello) -> None:
        """
        What is written is what is read.

        @param hello: anything that can be said.
        """
        self.assertEqual(Hello.decode(hello.encode()), hello)

    def test_alike(self) -> None:
        """
        Those who say the same are kept as one, of so many that say different things,
        but for who names a session.
        """
        said = [Hello(window=size).encode() for size in range(1, ALIKE + 2)]
        kept = [Hello.decode(each) for each in said]
        self.assertIs(Hello.decode(said[-1]), kept[-1])
        self.assertIs(Hello.decode(said[1]), kept[1])
        self.assertIsNot(Hello.decode(said[0]), kept[0])
        named = Hello(session="0" * 32).encode()
        self.assertIsNot(Hello.decode(named), Hello.decode(named))

    @settings(max_examples=150, deadline=None)
    @given(
        st.one_of(
            st.binary(max_size=60),
            st.text(alphabet='{}[]",:0123e-. \\ubatchwindow', max_size=40).map(
                str.encode
            ),
            st.dictionaries(
                st.sampled_from(list(asdict(Hello()))),
                st.recursive(
                    st.one_of(st.none(), st.booleans(), st.integers(), st.floats()),
                    lambda inner: st.lists(inner, max_size=3),
                    max_leaves=4,
                ),
            ).map(lambda said: json.dumps(said).encode()),
        )
    )
    def test_random(self, payload: bytes) -> None:
        """
        Anything else is a hello or an error, and nothing else.

        @param payload: it.
        """
        try:
            said = Hello.decode(payload)
        except ProtocolError:
            return
        self.assertEqual(Hello.decode(said.encode()), said)
