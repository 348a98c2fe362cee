"""
Tests of L{aesm.noise.symmetricstate}: records, nonces, rekey.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from twisted.trial.unittest import SynchronousTestCase

from aesm.errors import NonceExhausted, TamperedRecord
from aesm.noise import MAX_MESSAGE, MAX_NONCE, CipherState
from aesm.noise.functions import CIPHERS

KEY = bytes(range(32))


def pair(cipher: str = "AESGCM") -> tuple[CipherState, CipherState]:
    """A sender and its receiver."""
    return CipherState(CIPHERS[cipher], KEY), CipherState(CIPHERS[cipher], KEY)


class CipherStateTests(SynchronousTestCase):
    """One direction of a channel."""

    def test_ciphertext(self) -> None:
        """
        The nonce is four zero bytes and the number, big-endian for AESGCM and
        little-endian for ChaChaPoly.

        @see: Noise rev. 34, sections 12.3 and 12.4
        """
        number = 0x0102030405060708
        for cipher, order, aead in (
            ("AESGCM", "big", AESGCM(KEY)),
            ("ChaChaPoly", "little", ChaCha20Poly1305(KEY)),
        ):
            sender, receiver = pair(cipher)
            sender.n = receiver.n = number
            sealed = sender.encryptWithAd(b"ad", b"plaintext")
            nonce = bytes(4) + number.to_bytes(8, order)  # type: ignore[arg-type]
            self.assertEqual(sealed, aead.encrypt(nonce, b"plaintext", b"ad"))
            self.assertEqual(receiver.decryptWithAd(b"ad", sealed), b"plaintext")
            self.assertEqual((sender.n, receiver.n), (number + 1, number + 1))

    def test_bytesLike(self) -> None:
        """C{bytearray} and C{memoryview} are taken wherever C{bytes} are."""
        for kind in (bytes, bytearray, memoryview):
            sender, receiver = pair()
            sealed = sender.encryptWithAd(kind(b"ad"), kind(b"data"))
            self.assertIsInstance(sealed, bytes)
            opened = receiver.decryptWithAd(kind(b"ad"), kind(sealed))
            self.assertEqual(opened, b"data")
            self.assertIsInstance(opened, bytes)
            sealed = sender.encryptWithAd(kind(b""), kind(b""))
            self.assertEqual(receiver.decryptWithAd(kind(b""), kind(sealed)), b"")

    def test_tampered(self) -> None:
        """
        A changed bit anywhere, other associated data, or a wrong length do not
        authenticate; the nonce stays, and the right message still opens.
        """
        for cipher in CIPHERS:
            sender, receiver = pair(cipher)
            sealed = sender.encryptWithAd(b"ad", b"data")
            wrong = [sealed[:length] for length in range(len(sealed))]
            wrong += [sealed + b"\0", bytes(MAX_MESSAGE), bytes(MAX_MESSAGE + 1)]
            for bit in range(8 * len(sealed)):
                changed = bytearray(sealed)
                changed[bit // 8] ^= 1 << bit % 8
                wrong.append(bytes(changed))
            for each in wrong:
                self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"ad", each)
            self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", sealed)
            self.assertEqual(receiver.n, 0)
            self.assertEqual(receiver.decryptWithAd(b"ad", sealed), b"data")

    def test_order(self) -> None:
        """A message opens in its place only."""
        sender, receiver = pair()
        first, second = (sender.encryptWithAd(b"", b"%d" % n) for n in (1, 2))
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", second)
        self.assertEqual(receiver.decryptWithAd(b"", first), b"1")
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", first)
        self.assertEqual(receiver.decryptWithAd(b"", second), b"2")

    def test_longest(self) -> None:
        """A message of 65,535 bytes passes; a longer one is not made."""
        sender, receiver = pair()
        sealed = sender.encryptWithAd(b"", bytes(MAX_MESSAGE - 16))
        self.assertEqual(len(sealed), MAX_MESSAGE)
        self.assertEqual(receiver.decryptWithAd(b"", sealed), bytes(MAX_MESSAGE - 16))
        with self.assertRaisesRegex(ValueError, "at most 65519 bytes, not 65520"):
            sender.encryptWithAd(b"", bytes(MAX_MESSAGE - 15))
        self.assertEqual(sender.n, 1)

    def test_longestOpened(self) -> None:
        """A message that is longer is not opened either, though it authenticates."""
        sealed = AESGCM(KEY).encrypt(bytes(12), bytes(MAX_MESSAGE - 15), None)
        _, receiver = pair()
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", sealed)

    def test_wrongType(self) -> None:
        """What is not bytes-like is a C{TypeError}, and the nonce stays."""
        state, _ = pair()
        for wrong in ("text", None, 5):
            self.assertRaises(TypeError, state.encryptWithAd, b"", wrong)
            self.assertRaises(TypeError, state.decryptWithAd, b"", wrong)
        self.assertEqual(state.n, 0)

    def test_lastNonce(self) -> None:
        """
        The nonce 2^64-2 is the last one, in both directions and after a rekey too.
        """
        sender, receiver = pair()
        sender.n = receiver.n = MAX_NONCE - 1
        sealed = sender.encryptWithAd(b"", b"last")
        self.assertEqual(receiver.decryptWithAd(b"", sealed), b"last")
        self.assertEqual((sender.n, receiver.n), (2**64 - 1, 2**64 - 1))
        for _ in range(2):
            self.assertRaises(NonceExhausted, sender.encryptWithAd, b"", b"")
            self.assertRaises(NonceExhausted, receiver.decryptWithAd, b"", sealed)
            sender.rekey()
            receiver.rekey()
        self.assertEqual((sender.n, receiver.n), (2**64 - 1, 2**64 - 1))

    def test_rekey(self) -> None:
        """
        The new key is what the old one makes of 32 zeros with the nonce 2^64-1; the
        nonce goes on.

        @see: Noise rev. 34, section 4.2
        """
        for cipher, aead in (("AESGCM", AESGCM), ("ChaChaPoly", ChaCha20Poly1305)):
            sender, receiver = pair(cipher)
            key = KEY
            for number in range(3):
                sealed = sender.encryptWithAd(b"", b"data")
                order = "big" if cipher == "AESGCM" else "little"
                nonce = bytes(4) + number.to_bytes(8, order)  # type: ignore[arg-type]
                self.assertEqual(sealed, aead(key).encrypt(nonce, b"data", b""))
                self.assertEqual(receiver.decryptWithAd(b"", sealed), b"data")
                sender.rekey()
                receiver.rekey()
                self.assertEqual((sender.n, receiver.n), (number + 1, number + 1))
                last = bytes(4) + b"\xff" * 8
                key = aead(key).encrypt(last, bytes(32), b"")[:32]

    def test_rekeyOneSide(self) -> None:
        """After a rekey the old key opens nothing."""
        sender, receiver = pair()
        sender.rekey()
        sealed = sender.encryptWithAd(b"", b"data")
        self.assertRaises(TamperedRecord, receiver.decryptWithAd, b"", sealed)

    def test_repr(self) -> None:
        """Cipher and nonce are shown, the key is neither shown nor kept."""
        state, _ = pair()
        state.encryptWithAd(b"", b"")
        self.assertEqual(repr(state), "<CipherState AESGCM n=1>")
        for name in CipherState.__slots__:
            self.assertNotEqual(getattr(state, name), KEY)
