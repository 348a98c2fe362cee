"""
Tests for L{aesm.trust.keys}.
"""

from __future__ import annotations

import base64
import os
import pickle
import stat
import traceback

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x448
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

import aesm.trust.keys
from aesm.trust.keys import PSK, PrivateKey, PublicKey
from tests.trust.test_files import FilesTestCase, runTogether

# Alice's, RFC 7748 section 6.1.
PRIVATE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
TEXT = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="


def toPEM(
    key: X25519PrivateKey
    | x448.X448PrivateKey
    | ed25519.Ed25519PrivateKey
    | ec.EllipticCurvePrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    """
    Write a private key of any algorithm as PKCS#8.

    @param encryption: how to encrypt it; None for not at all.
    """
    return key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )


class PublicKeyTests(SynchronousTestCase):
    """Tests for L{PublicKey}."""

    def test_text(self) -> None:
        """Its text is 44 characters of standard base64, and leads back to it."""
        key = PublicKey(bytes.fromhex(PUBLIC))
        self.assertEqual(str(key), TEXT)
        self.assertEqual(PublicKey.fromText(TEXT), key)
        self.assertEqual(key.raw.hex(), PUBLIC)

    @settings(max_examples=50, deadline=None)
    @given(st.binary(min_size=32, max_size=32))
    def test_roundTrip(self, raw: bytes) -> None:
        """Any 32 bytes survive being text."""
        text = str(PublicKey(raw))
        self.assertEqual(len(text), 44)
        self.assertEqual(PublicKey.fromText(text).raw, raw)

    def test_repr(self) -> None:
        """The representation can be pasted."""
        key = PublicKey.fromText(TEXT)
        self.assertEqual(eval(repr(key)), key)

    def test_value(self) -> None:
        """Keys of the same bytes are the same, in sets too, and nothing else is."""
        key = PublicKey.fromText(TEXT)
        self.assertEqual({key, PublicKey.fromText(TEXT)}, {key})
        self.assertNotEqual(key, PublicKey(bytes(32)))
        self.assertNotEqual(key, TEXT)
        self.assertNotEqual(key, key.raw)
        self.assertEqual(pickle.loads(pickle.dumps(key)), key)

    def test_immutable(self) -> None:
        """A key does not change and takes no other attributes."""
        key = PublicKey.fromText(TEXT)
        for name in ("raw", "other"):
            with self.assertRaises((AttributeError, TypeError)):
                setattr(key, name, bytes(32))
        self.assertFalse(hasattr(key, "__dict__"))

    def test_badRaw(self) -> None:
        """Other lengths are a C{ValueError}, other types a C{TypeError}."""
        for length in (0, 31, 33, 44):
            error = self.assertRaises(ValueError, PublicKey, bytes(length))
            self.assertIn("32 bytes", str(error))
        for raw in (None, TEXT, bytearray(32), 32):
            self.assertRaises(TypeError, PublicKey, raw)

    def test_badText(self) -> None:
        """Any text but the one is a C{ValueError} that says what is expected."""
        for text in (
            "",
            TEXT[:-1],
            TEXT + "=",
            TEXT + "\n",
            " " + TEXT,
            " " + TEXT[1:],
            TEXT[:-2] + "==",
            TEXT[:10] + "\n" + TEXT[10:],
            TEXT[:10] + "\n" + TEXT[11:],
            TEXT.replace("/", "_"),
            TEXT.replace("m", "é"),
            TEXT.replace("m", "\ud800"),
            TEXT.replace("o=", "p="),  # the same bytes, by what base64 ignores
            TEXT.replace("o=", "q="),
            base64.b64encode(bytes(31)).decode(),
            base64.b64encode(bytes(33)).decode(),
            "A" * 44,
            "=" * 44,
            PUBLIC,
        ):
            error = self.assertRaises(ValueError, PublicKey.fromText, text)
            self.assertIn("44 characters of standard base64", str(error))
        for other in (None, TEXT.encode(), 44):
            self.assertRaises(TypeError, PublicKey.fromText, other)


class SecretTestCase(FilesTestCase):
    """A test of files that hold secrets."""

    def assertSecret(self, error: BaseException, *secrets: bytes) -> None:
        """
        Insist that an error shows no secret, however it is looked at.

        @param secrets: what it must not show.
        """
        seen: BaseException | None = error
        while seen is not None:
            for shown in (str(seen), repr(seen), repr(vars(seen)), repr(seen.args)):
                for secret in secrets:
                    self.assertNotIn(repr(secret)[2:-1], shown)
            self.assertNotIsInstance(seen, UnicodeError)
            seen = seen.__context__
        for secret in secrets:
            text = "".join(traceback.format_exception(error))
            self.assertNotIn(repr(secret)[2:-1], text)


class PrivateKeyTests(SecretTestCase):
    """Tests for L{PrivateKey}."""

    def test_publicKey(self) -> None:
        """The public key is the one that belongs to it."""
        key = PrivateKey(bytes.fromhex(PRIVATE))
        self.assertEqual(key.raw.hex(), PRIVATE)
        self.assertEqual(key.publicKey.raw.hex(), PUBLIC)

    def test_generate(self) -> None:
        """Each key is another."""
        self.assertEqual(len({PrivateKey.generate().raw for _ in range(10)}), 10)

    def test_repr(self) -> None:
        """
        The representation is that of the public key, and there is no
        C{__dict__}.
        """
        key = PrivateKey(bytes.fromhex(PRIVATE))
        self.assertEqual(repr(key), f"<PrivateKey of {TEXT}>")
        self.assertEqual(str(key), f"<PrivateKey of {TEXT}>")
        self.assertFalse(hasattr(key, "__dict__"))

    def test_badRaw(self) -> None:
        """
        Other lengths are a C{ValueError}, other types a C{TypeError}, and
        neither shows anything.
        """
        secret = b"\xabsecret"
        error = self.assertRaises(ValueError, PrivateKey, secret)
        self.assertSecret(error, secret)
        error = self.assertRaises(TypeError, PrivateKey, secret.hex())
        self.assertNotIn(secret.hex(), str(error))

    def test_saveAndLoad(self) -> None:
        """A key comes back from its file, which is PKCS#8 in PEM and private."""
        os.umask(0)
        key = PrivateKey.generate()
        key.save(self.path)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(PrivateKey.load(self.path).raw, key.raw)
        self.assertEqual(PrivateKey.load(str(self.path)).raw, key.raw)
        content = self.path.read_bytes()
        self.assertEqual(content, toPEM(X25519PrivateKey.from_private_bytes(key.raw)))

    def test_oddUmask(self) -> None:
        """A umask that takes writing from us too still leaves a key that loads."""
        os.umask(0o277)
        key = PrivateKey.loadOrCreate(self.path)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o400)
        self.assertEqual(PrivateKey.load(self.path).raw, key.raw)

    def test_strPath(self) -> None:
        """Paths may be C{str}, with errors naming them likewise."""
        PrivateKey.generate().save(str(self.path))
        self.refused(PrivateKey.generate().save, str(self.path))
        PrivateKey.loadOrCreate(str(self.path))

    def test_saveLeavesAlone(self) -> None:
        """A key never takes the place of another."""
        key = PrivateKey.generate()
        key.save(self.path)
        error = self.refused(PrivateKey.generate().save, self.path)
        self.assertIn(f"`rm {self.path}`", str(error))
        self.assertEqual(PrivateKey.load(self.path).raw, key.raw)

    def test_loadOrCreate(self) -> None:
        """A missing key is made, and afterwards is there."""
        key = PrivateKey.loadOrCreate(self.path)
        self.assertEqual(PrivateKey.loadOrCreate(self.path).raw, key.raw)
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_loadOrCreateBad(self) -> None:
        """What is there but no key to be used is not replaced."""
        self.put(b"something", 0o600)
        self.refused(PrivateKey.loadOrCreate, self.path)
        self.put(b"something", 0o644)
        self.refused(PrivateKey.loadOrCreate, self.path)
        self.assertEqual(self.path.read_bytes(), b"something")
        self.path.unlink()
        self.path.symlink_to("nothing")
        self.refused(PrivateKey.loadOrCreate, self.path)
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_loadOrCreateOvertaken(self) -> None:
        """A key that another process has made in the meantime is the key."""
        other = PrivateKey.generate()
        generate = X25519PrivateKey.generate

        def overtaken() -> X25519PrivateKey:
            """
            Be slower than the other.

            @return: a key that comes too late.
            """
            other.save(self.path)
            return generate()

        self.patch(X25519PrivateKey, "generate", staticmethod(overtaken))
        self.assertEqual(PrivateKey.loadOrCreate(self.path).raw, other.raw)

    def test_race(self) -> None:
        """Processes that make the key at the same moment all have the same."""
        printed = runTogether(
            8,
            "from aesm.trust.keys import PrivateKey\n"
            "go()\n"
            "print(PrivateKey.loadOrCreate(sys.argv[2]).publicKey)\n",
            str(self.path),
        )
        key = PrivateKey.load(self.path)
        self.assertEqual(printed, [f"{key.publicKey}\n"] * 8)
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_missing(self) -> None:
        """The error for a missing file says how to make one."""
        error = self.refused(PrivateKey.load, self.path)
        self.assertIn(f"`aesm keygen {self.path}`", str(error))
        self.assertFalse(self.path.parent.joinpath("file").exists())

    def test_unsafe(self) -> None:
        """A key that others can read is refused, and so is a FIFO."""
        PrivateKey.generate().save(self.path)
        self.path.chmod(0o604)
        error = self.refused(PrivateKey.load, self.path)
        self.assertIn(f"`chmod 600 {self.path}`", str(error))
        self.path.unlink()
        os.mkfifo(self.path)
        self.refused(PrivateKey.load, self.path)

    def test_blanks(self) -> None:
        """A byte order mark, blank lines and indented ones make no difference."""
        key = PrivateKey.generate()
        key.save(self.path)
        lines = self.path.read_bytes().splitlines()
        for content in (
            b"\xef\xbb\xbf" + b"\r\n".join(lines),
            b"\n\n  " + b"\n  ".join(lines) + b"  \n\n",
        ):
            self.put(content)
            self.assertEqual(PrivateKey.load(self.path).raw, key.raw)

    def test_saysWhere(self) -> None:
        """A key that is made is told of, once, with its place."""
        with capturedLogs() as events:
            key = PrivateKey.loadOrCreate(self.path)
            PrivateKey.loadOrCreate(self.path)
        [event] = events
        self.assertEqual(event["log_namespace"], "aesm.trust")
        self.assertEqual(event["path"], str(self.path.absolute()))
        self.assertEqual(event["publicKey"], str(key.publicKey))

    def test_tilde(self) -> None:
        """A C{~} at the start of a path is the home directory."""
        self.patch(os, "environ", os.environ | {"HOME": str(self.directory)})
        key = PrivateKey.loadOrCreate("~/file")
        self.assertEqual(PrivateKey.load(self.path).raw, key.raw)
        PSK.generate().save("~/psk")
        PSK.load(self.directory / "psk")

    def test_crlf(self) -> None:
        """A file whose lines end in CRLF is the same key."""
        key = PrivateKey.generate()
        key.save(self.path)
        self.put(self.path.read_bytes().replace(b"\n", b"\r\n"))
        self.assertEqual(PrivateKey.load(self.path).raw, key.raw)

    def test_otherAlgorithms(self) -> None:
        """The error for another algorithm's key says which it is."""
        for content, name in (
            (toPEM(ed25519.Ed25519PrivateKey.generate()), "Ed25519"),
            (toPEM(x448.X448PrivateKey.generate()), "X448"),
            (toPEM(ec.generate_private_key(ec.SECP256R1())), "E"),
        ):
            self.put(content)
            error = self.refused(PrivateKey.load, self.path)
            self.assertIn(f"a key for {name}", str(error))
            self.assertSecret(error, *content.splitlines()[1:-1])

    def test_encrypted(self) -> None:
        """An encrypted key is said to be one."""
        content = toPEM(X25519PrivateKey.generate(), BestAvailableEncryption(b"x"))
        self.put(content)
        self.assertIn("encrypted key", str(self.refused(PrivateKey.load, self.path)))

    def test_unsupported(self) -> None:
        """A key of an algorithm that is not even known is something else."""

        def load(content: bytes, password: None) -> None:
            """
            Know no algorithm.

            @param password: nothing.
            @raise UnsupportedAlgorithm: always.
            """
            raise UnsupportedAlgorithm("rot13")

        self.put(b"")
        self.patch(aesm.trust.keys, "load_pem_private_key", load)
        self.assertIn("something else", str(self.refused(PrivateKey.load, self.path)))

    def test_malformed(self) -> None:
        """Files with anything else are refused, and errors show nothing of them."""
        key = X25519PrivateKey.generate()
        pem = toPEM(key)
        head, body, tail = pem.split(b"\n")[:3]
        for content in (
            b"",
            b"\n",
            b"\xff\xfe\x00",
            pem[:-30],
            pem[:60],
            body,
            base64.b64decode(body),
            key.private_bytes_raw(),
            b"\n".join([head, body[:-4], tail, b""]),
            b"\n".join([head, body[:20] + b"\xff" + body[21:], tail, b""]),
            pem.replace(b"PRIVATE", b"PUBLIC"),
            pem.decode().encode("utf-16"),
        ):
            self.put(content)
            error = self.refused(PrivateKey.load, self.path)
            self.assertIn("holds something else", str(error))
            self.assertIn(f"`aesm keygen {self.path}`", str(error))
            self.assertSecret(error, body, body[:20], key.private_bytes_raw())

    def test_tooLarge(self) -> None:
        """A file that no key needs is not read to its end."""
        with self.path.open("wb") as file:
            file.truncate(1 << 40)
        self.path.chmod(0o600)
        self.assertIn("more than", str(self.refused(PrivateKey.load, self.path)))


class PSKTests(SecretTestCase):
    """Tests for L{PSK}."""

    def test_value(self) -> None:
        """It is the 32 bytes."""
        psk = PSK(bytes(range(32)))
        self.assertIsInstance(psk, bytes)
        self.assertEqual(psk, bytes(range(32)))
        self.assertEqual(pickle.loads(pickle.dumps(psk)), psk)

    def test_generate(self) -> None:
        """Each is another."""
        self.assertEqual(len({PSK.generate() for _ in range(10)}), 10)

    def test_hidden(self) -> None:
        """No way of formatting shows it."""
        psk = PSK(b"secret!!" * 4)
        for text in (
            repr(psk),
            str(psk),
            f"{psk}",
            f"{psk!a}",
            format(psk),
            f"{[psk]}",
        ):
            self.assertEqual(text.strip("[]"), "<PSK>")

    def test_badRaw(self) -> None:
        """
        Other lengths are a C{ValueError}, other types a C{TypeError}, and
        neither shows anything.
        """
        secret = b"secret!!"
        for length in (1, 3, 5):
            error = self.assertRaises(ValueError, PSK, secret * length)
            self.assertSecret(error, secret)
        for other in (32, None, [0] * 32, "secret!!" * 4, bytearray(32)):
            error = self.assertRaises(TypeError, PSK, other)
            self.assertSecret(error, secret)

    def test_saveAndLoad(self) -> None:
        """It comes back from its file, which is one line and private."""
        os.umask(0)
        PSK(bytes(range(32))).save(self.path)
        self.assertEqual(
            self.path.read_bytes(), b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
        )
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        psk = PSK.load(str(self.path))
        self.assertEqual(psk, bytes(range(32)))
        self.assertEqual(repr(psk), "<PSK>")

    def test_saveLeavesAlone(self) -> None:
        """It never takes the place of another."""
        psk = PSK.generate()
        psk.save(self.path)
        self.refused(PSK.generate().save, self.path)
        self.assertEqual(PSK.load(self.path), psk)

    def test_lineEnds(self) -> None:
        """The line may end in LF, CRLF or nothing."""
        for end in (b"", b"\n", b"\r\n"):
            self.put(b"A" * 43 + b"=" + end)
            self.assertEqual(PSK.load(self.path), bytes(32))

    def test_missing(self) -> None:
        """The error for a missing file says how to make one."""
        error = self.refused(PSK.load, self.path)
        self.assertIn(f"`aesm psk {self.path}`", str(error))

    def test_unsafe(self) -> None:
        """A key that others can read and a FIFO are refused."""
        psk = PSK.generate()
        psk.save(self.path)
        self.path.chmod(0o604)
        error = self.refused(PSK.load, self.path)
        self.assertSecret(error, bytes(psk), base64.b64encode(psk))
        self.path.unlink()
        os.mkfifo(self.path, 0o600)
        self.refused(PSK.load, self.path)

    def test_malformed(self) -> None:
        """Anything but the one line is refused, and the error does not show it."""
        raw = b"secret!!" * 4
        line = base64.b64encode(raw)
        for content in (
            b"",
            b"\n",
            raw,
            line[:-1],
            line + b"\n" + line + b"\n",
            line[:20] + b" " + line[20:],
            line[:20] + b"\xff" + line[21:],
            line[:20] + b"?" + line[21:],
            line[:-2] + b"F=",
            raw.hex().encode(),
            base64.b64encode(raw[:31]),
            base64.b64encode(raw + b"!"),
            line.decode().encode("utf-16"),
        ):
            self.put(content)
            error = self.refused(PSK.load, self.path)
            self.assertIn("not one line of 44 characters", str(error))
            self.assertSecret(error, b"secret", line[:20], raw.hex().encode())

    def test_blanks(self) -> None:
        """What editors and files of settings put around a key is no part of it."""
        psk = PSK.generate()
        line = base64.b64encode(psk)
        for content in (
            b"\n" + line,
            line + b"\n\n",
            line + b"\r\n",
            b" \t" + line + b" \r\n",
            b"\xef\xbb\xbf" + line + b"\n",
        ):
            self.put(content)
            self.assertEqual(bytes(PSK.load(self.path)), bytes(psk))

    def test_tooLarge(self) -> None:
        """A file that no such key needs is not read to its end."""
        self.put(b"A" * 1025)
        self.assertIn("more than", str(self.refused(PSK.load, self.path)))
