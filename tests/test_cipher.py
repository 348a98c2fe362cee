"""
Tests for L{aesm.cipher}.
"""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from aesm.cipher import Cipher
from aesm.errors import DecryptionError

KEY = bytes(range(32))


class CipherTests(SynchronousTestCase):
    """Tests for L{Cipher}."""

    def test_freshKey(self) -> None:
        """Without a key, each cipher makes its own of 32 bytes."""
        keys = {Cipher().key for _ in range(10)}
        self.assertEqual(len(keys), 10)
        self.assertEqual({len(key) for key in keys}, {32})

    def test_givenKey(self) -> None:
        """A cipher with the key of another decrypts its tokens."""
        first = Cipher()
        second = Cipher(first.key)
        self.assertEqual(second.key, first.key)
        self.assertEqual(second.decrypt(first.encrypt("héllo")), "héllo")

    def test_badKeys(self) -> None:
        """
        A key of another length is a C{ValueError}, of another type a
        C{TypeError}, and neither shows it.
        """
        for length in (0, 16, 31, 33, 64):
            error = self.assertRaises(ValueError, Cipher, b"Q" * length)
            self.assertNotIn("Q", str(error))
        for key in ("k" * 32, bytearray(32), 32, [0] * 32):
            self.assertRaises(TypeError, Cipher, key)

    def test_repr(self) -> None:
        """The representation says nothing of the key, and there is no C{__dict__}."""
        cipher = Cipher(KEY)
        self.assertEqual(repr(cipher), "<Cipher AES-256-GCM>")
        self.assertEqual(str(cipher), "<Cipher AES-256-GCM>")
        self.assertFalse(hasattr(cipher, "__dict__"))

    def test_format(self) -> None:
        """
        A token is the URL-safe base64 of version, nonce, and what AES-256-GCM
        makes, and another implementation can open it.
        """
        token = Cipher(KEY).encrypt("hello", b"context")
        raw = base64.urlsafe_b64decode(token)
        self.assertEqual(raw[:1], b"\x01")
        self.assertEqual(AESGCM(KEY).decrypt(raw[1:13], raw[13:], b"context"), b"hello")

    def test_knownToken(self) -> None:
        """A token made once decrypts for ever."""
        token = "AQAAAAAAAAAAAAAAAGbZ2bLaDgxGefOoJST14EmSceFvMA=="
        self.assertEqual(Cipher(KEY).decrypt(token), "hello")

    def test_freshNonces(self) -> None:
        """The same text never makes the same token."""
        cipher = Cipher(KEY)
        raw = [base64.urlsafe_b64decode(cipher.encrypt("x")) for _ in range(100)]
        self.assertEqual(len({token[1:13] for token in raw}), 100)

    @settings(max_examples=50, deadline=None)
    @given(st.text(), st.binary())
    def test_textRoundTrip(self, text: str, associatedData: bytes) -> None:
        """Any text comes back, from the token as bytes and as C{str}."""
        cipher = Cipher(KEY)
        token = cipher.encrypt(text, associatedData)
        self.assertIs(type(token), bytes)
        self.assertEqual(cipher.decrypt(token, associatedData), text)
        self.assertEqual(cipher.decrypt(token.decode("ascii"), associatedData), text)

    @settings(max_examples=50, deadline=None)
    @given(st.binary(), st.binary())
    def test_bytesRoundTrip(self, data: bytes, associatedData: bytes) -> None:
        """Any bytes come back."""
        cipher = Cipher(KEY)
        token = cipher.encryptBytes(data, associatedData)
        self.assertEqual(cipher.decryptBytes(token, associatedData), data)

    def test_oneTokenFormat(self) -> None:
        """Text is its UTF-8, whichever pair of methods is used."""
        cipher = Cipher(KEY)
        self.assertEqual(cipher.decryptBytes(cipher.encrypt("é")), b"\xc3\xa9")
        self.assertEqual(cipher.decrypt(cipher.encryptBytes(b"\xc3\xa9")), "é")

    def test_notText(self) -> None:
        """
        Bytes that are not UTF-8 do not decrypt as text, and the error does not
        carry them.
        """
        cipher = Cipher(KEY)
        token = cipher.encryptBytes(b"secret\xff")
        error = self.assertRaises(DecryptionError, cipher.decrypt, token)
        self.assertIsNone(error.__context__)
        self.assertNotIn("secret", str(error))

    def test_loneSurrogate(self) -> None:
        """Text that UTF-8 cannot write is a C{ValueError} that does not carry it."""
        error = self.assertRaises(ValueError, Cipher(KEY).encrypt, "secret\ud800")
        self.assertIsNone(error.__context__)
        self.assertNotIn("secret", str(error))

    def test_wrongKey(self) -> None:
        """Another key does not decrypt."""
        token = Cipher(KEY).encrypt("hello")
        self.assertRaises(DecryptionError, Cipher().decrypt, token)
        self.assertRaises(DecryptionError, Cipher().decryptBytes, token)

    def test_wrongAssociatedData(self) -> None:
        """Other associated data, or none, does not decrypt."""
        cipher = Cipher(KEY)
        token = cipher.encrypt("hello", b"for alice")
        self.assertRaises(DecryptionError, cipher.decrypt, token)
        self.assertRaises(DecryptionError, cipher.decrypt, token, b"for bob")

    def test_flippedBits(self) -> None:
        """
        One flipped bit anywhere, of the token or of what it encodes, does not
        decrypt.
        """
        cipher = Cipher(KEY)
        token = cipher.encrypt("hello")
        raw = base64.urlsafe_b64decode(token)
        for bit in range(len(token) * 8):
            altered = bytearray(token)
            altered[bit // 8] ^= 1 << bit % 8
            self.assertRaises(DecryptionError, cipher.decrypt, bytes(altered))
        for bit in range(len(raw) * 8):
            altered = bytearray(raw)
            altered[bit // 8] ^= 1 << bit % 8
            self.assertRaises(
                DecryptionError, cipher.decrypt, base64.urlsafe_b64encode(altered)
            )

    def test_truncatedAndExtended(self) -> None:
        """A token without its end, or with more behind it, does not decrypt."""
        cipher = Cipher(KEY)
        token = cipher.encrypt("hello")
        raw = base64.urlsafe_b64decode(token)
        for length in range(len(token)):
            self.assertRaises(DecryptionError, cipher.decrypt, token[:length])
        for length in range(len(raw)):
            self.assertRaises(
                DecryptionError, cipher.decrypt, base64.urlsafe_b64encode(raw[:length])
            )
        for tail in (b"\n", b" ", b"=", b"A", b"AAAA", b"\0", token):
            self.assertRaises(DecryptionError, cipher.decrypt, token + tail)
            self.assertRaises(DecryptionError, cipher.decrypt, tail + token)

    def test_otherSpellings(self) -> None:
        """
        The standard alphabet, missing padding, characters in between, and bits
        that the padding hides are not the token.
        """
        cipher = Cipher(KEY)
        raw = b"\x01" + b"\xff" * 12
        raw += AESGCM(KEY).encrypt(b"\xff" * 12, b"hello!!", None)
        token = base64.urlsafe_b64encode(raw)  # 36 bytes: no padding
        self.assertEqual(cipher.decrypt(token), "hello!!")
        self.assertRaises(DecryptionError, cipher.decrypt, base64.b64encode(raw))
        self.assertRaises(
            DecryptionError, cipher.decrypt, token[:8] + b"\n" + token[8:]
        )
        token = cipher.encryptBytes(b"hello")  # 34 bytes: ends in "X==", 4 free bits
        self.assertTrue(token.endswith(b"=="))
        self.assertRaises(DecryptionError, cipher.decrypt, token.rstrip(b"="))
        last = token[-3:-2]
        alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        alias = alphabet[alphabet.index(last) + 1 :][:1]
        self.assertRaises(DecryptionError, cipher.decrypt, token[:-3] + alias + b"==")

    def test_otherVersion(self) -> None:
        """A token of another version is not tried."""
        raw = bytearray(base64.urlsafe_b64decode(Cipher(KEY).encrypt("hello")))
        raw[0] = 2
        self.assertRaises(
            DecryptionError, Cipher(KEY).decrypt, base64.urlsafe_b64encode(raw)
        )

    @settings(max_examples=100, deadline=None)
    @given(
        st.one_of(
            st.binary(),
            st.text(st.characters()),
            st.binary(min_size=29).map(base64.urlsafe_b64encode),
            st.binary(min_size=28).map(lambda b: base64.urlsafe_b64encode(b"\1" + b)),
        )
    )
    def test_garbage(self, token: bytes | str) -> None:
        """Anything else that is bytes or C{str} is a L{DecryptionError}."""
        cipher = Cipher(KEY)
        self.assertRaises(DecryptionError, cipher.decrypt, token)
        self.assertRaises(DecryptionError, cipher.decryptBytes, token)

    def test_nonASCIIToken(self) -> None:
        """
        Letters and surrogates beyond ASCII in a C{str} token are a
        L{DecryptionError} too.
        """
        cipher = Cipher(KEY)
        token = cipher.encrypt("hello").decode("ascii")
        for character in ("é", "\ud800", "\N{FULLWIDTH LATIN CAPITAL LETTER A}"):
            self.assertRaises(DecryptionError, cipher.decrypt, character + token[1:])

    def test_wrongTypes(self) -> None:
        """Other types are a C{TypeError}, also where their content would do."""
        cipher = Cipher(KEY)
        token = cipher.encrypt("hello")
        for other in (None, 7, bytearray(token), memoryview(token), [token]):
            self.assertRaises(TypeError, cipher.decrypt, other)
            self.assertRaises(TypeError, cipher.decryptBytes, other)
        for text in (None, 7, b"hello"):
            self.assertRaises(TypeError, cipher.encrypt, text)
        for data in (None, 7, "hello", bytearray(b"hello")):
            self.assertRaises(TypeError, cipher.encryptBytes, data)
        self.assertRaises(TypeError, cipher.encrypt, "hello", "context")
        self.assertRaises(TypeError, cipher.decrypt, token, "context")
