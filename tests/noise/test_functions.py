"""
Tests of L{aesm.noise.functions}: key pairs, hashes, and what this installation has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import asymmetric
from cryptography.hazmat.primitives.asymmetric import mlkem
from twisted.trial.unittest import SynchronousTestCase

from aesm.noise import HandshakeState, KeyPair, functions, hybridSupported
from aesm.noise.functions import HASHES
from tests.noise.test_reference import NO_HYBRID, STATIC, XXHFS

_P = 2**255 - 19

# The points that give an all-zero secret with every key, in all their encodings.
# See U{https://cr.yp.to/ecdh.html#validate}.
LOW_ORDER = tuple(
    (u + high).to_bytes(32, "little")
    for u in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _P - 1,
        _P,
        _P + 1,
    )
    for high in (0, 2**255)
)


class KeyPairTests(SynchronousTestCase):
    """X25519 key pairs."""

    def test_generate(self) -> None:
        """Fresh keys differ, and the public key is that of the private one."""
        one, two = KeyPair.generate(), KeyPair.generate()
        self.assertNotEqual(one.public, two.public)
        self.assertEqual(one.private.public_key().public_bytes_raw(), one.public)

    def test_fromBytes(self) -> None:
        """The same private key gives the same pair; it has 32 bytes."""
        self.assertEqual(KeyPair.fromBytes(b"\x11" * 32).public, STATIC[0].public)
        for length in (0, 31, 33):
            with self.assertRaisesRegex(ValueError, f"32 bytes, not {length}"):
                KeyPair.fromBytes(bytes(length))

    def test_repr(self) -> None:
        """The public key is shown, the private one is not."""
        pair = KeyPair.fromBytes(b"\x11" * 32)
        self.assertEqual(repr(pair), f"<KeyPair {pair.public.hex()}>")


class HybridSupportedTests(SynchronousTestCase):
    """L{hybridSupported} says whether C{cryptography} has ML-KEM."""

    def setUp(self) -> None:
        """Ask again in each test."""
        hybridSupported.cache_clear()
        self.addCleanup(hybridSupported.cache_clear)

    def assertNotSupported(self) -> None:
        """There is no ML-KEM, and a hybrid name says so."""
        self.assertFalse(hybridSupported())
        with self.assertRaisesRegex(ValueError, "MLKEM768.*cryptography 48.*OpenSSL"):
            HandshakeState(XXHFS, initiator=True, s=STATIC[0])

    def test_supported(self) -> None:
        """It is there if a key can be made."""
        self.assertTrue(hybridSupported())

    test_supported.skip = NO_HYBRID  # type: ignore[attr-defined]

    def test_oldLibrary(self) -> None:
        """C{cryptography} has the names, but what it was built on has not."""

        def generate() -> None:
            """What C{cryptography} does then."""
            raise UnsupportedAlgorithm("no ML-KEM")

        fake = SimpleNamespace(MLKEM768PrivateKey=SimpleNamespace(generate=generate))
        self.patch(functions, "mlkem", fake)
        self.assertNotSupported()

    def test_oldCryptography(self) -> None:
        """
        With a C{cryptography} that has no such module everything else can be used.
        """

        def putBack() -> None:
            """Undo the removal."""
            sys.modules[mlkem.__name__] = mlkem
            asymmetric.mlkem = mlkem

        self.addCleanup(putBack)
        del asymmetric.mlkem
        sys.modules[mlkem.__name__] = None  # type: ignore[assignment]
        fresh = self.load()
        self.assertFalse(fresh.hybridSupported())
        self.assertEqual(fresh.KeyPair.fromBytes(bytes(32)).public[:2], b"/\xe5")
        self.patch(functions, "mlkem", fresh.mlkem)
        self.assertNotSupported()

    def load(self) -> ModuleType:
        """A second copy of the module."""
        module = ModuleType(functions.__name__)
        source = Path(functions.__file__)
        exec(compile(source.read_text(), source, "exec"), module.__dict__)
        return module


class HashTests(SynchronousTestCase):
    """Hashes."""

    def test_lengths(self) -> None:
        """The hashes are as long as they say, in both libraries that have them."""
        for functions_ in HASHES.values():
            self.assertEqual(functions_.algorithm.digest_size, functions_.length)
            self.assertEqual(len(functions_.new(b"data").digest()), functions_.length)
