"""
Tests of L{aesm.noise.patterns}: the table, the modifiers, protocol names.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from aesm.noise import PATTERNS, parseProtocolName

# Written as in the specifications; fallback from the new initiator's side.
MODIFIED = """
XXhfs+psk0:
  -> psk, e, e1
  <- e, ee, ekem1, s, es
  -> s, se

NKhfs:
  <- s
  ...
  -> e, es, e1
  <- e, ee, ekem1

IXhfs:
  -> e, e1, s
  <- e, ee, ekem1, se, s, es

IKhfs+psk2:
  <- s
  ...
  -> e, es, e1, s, ss
  <- e, ee, ekem1, se, psk

KKpsk0:
  -> s
  <- s
  ...
  -> psk, e, es, ss
  <- e, ee, se

INpsk1:
  -> e, s, psk
  <- e, ee, se

XXpsk0+psk3:
  -> psk, e
  <- e, ee, s, es
  -> s, se, psk

X1X1psk4:
  -> e
  <- e, ee, s
  -> es, s
  <- se, psk

XXfallback:
  <- e
  ...
  -> e, ee, s, se
  <- s, es

XXfallback+psk0:
  <- e
  ...
  -> psk, e, ee, s, se
  <- s, es

IK1fallback:
  -> s
  <- e, s
  ...
  -> e, ee, es, se

KNfallback:
  <- s, e
  ...
  -> e, ee, es
"""


def name(pattern: str, dh: str = "25519") -> str:
    """A protocol's name."""
    return f"Noise_{pattern}_{dh}_AESGCM_SHA256"


def dhFor(pattern: str) -> str:
    """The DH part that goes with a pattern."""
    return "25519+MLKEM768" if "hfs" in pattern else "25519"


class PatternTests(SynchronousTestCase):
    """Patterns are those of the specification, modifiers applied."""

    def test_modified(self) -> None:
        """Each modifier rewrites as the specification says."""
        for diagram in MODIFIED.strip().split("\n\n"):
            pattern = diagram.partition(":")[0]
            protocol = parseProtocolName(name(pattern, dhFor(pattern)))
            self.assertEqual(str(protocol.pattern), diagram)

    def test_valid(self) -> None:
        """
        In every pattern each side sends a key at most once, no DH is done twice or
        without its keys, and the fourth rule holds: whoever has used its static key
        with a key of the peer has used its ephemeral key with it before it encrypts.

        @see: Noise rev. 34, section 7.3
        """
        for pattern in PATTERNS.values():
            have = {True: list(pattern.initiatorKeys)}
            have[False] = list(pattern.responderKeys)
            done: list[str] = []
            for number, tokens in enumerate(pattern.messages):
                sender = number % 2 == 0
                for token in tokens:
                    if len(token) == 1:
                        have[sender].append(token)
                    else:
                        self.assertIn(token[0], have[True], pattern)
                        self.assertIn(token[1], have[False], pattern)
                        done.append(token)
                rules = (
                    (("se", "ee"), ("ss", "es"))
                    if sender
                    else (("es", "ee"), ("ss", "se"))
                )
                for used, needed in rules:
                    self.assertTrue(used not in done or needed in done, pattern)
            for values in (*have.values(), done):
                self.assertEqual(len(values), len(set(values)), pattern)

    def test_neededKeys(self) -> None:
        """
        A side needs its static key if it sends it or the peer knows it, and the peer's
        public keys that are known before.
        """
        for pattern, initiators, responders in (
            ("NN", set(), set()),
            ("XX", {"s"}, {"s"}),
            ("NK", {"rs"}, {"s"}),
            ("KX", {"s"}, {"s", "rs"}),
            ("IN", {"s"}, set()),
            ("X", {"s", "rs"}, {"s"}),
            ("XXfallback", {"s", "re"}, {"s", "e"}),
            ("IK1fallback", {"s", "rs", "re"}, {"s", "e", "rs"}),
        ):
            found = parseProtocolName(name(pattern)).pattern
            self.assertEqual(found.neededKeys(True), initiators, pattern)
            self.assertEqual(found.neededKeys(False), responders, pattern)

    def test_fallbackWhere(self) -> None:
        """C{fallback} goes with those patterns that begin with public keys only."""
        for pattern, first in ((p, p.messages[0]) for p in PATTERNS.values()):
            if set(first) <= {"e", "s"}:
                parseProtocolName(name(f"{pattern.name}fallback"))
            else:
                with self.assertRaisesRegex(ValueError, f"'fallback'.*{pattern.name}"):
                    parseProtocolName(name(f"{pattern.name}fallback"))

    def test_hfsWhere(self) -> None:
        """
        C{hfs} goes with all patterns in which the responder answers, and not with
        C{fallback}, after which he has answered already.
        """
        for pattern in PATTERNS:
            if pattern in ("N", "K", "X"):
                with self.assertRaisesRegex(ValueError, f"'hfs'.*{pattern}"):
                    parseProtocolName(name(f"{pattern}hfs", "25519+MLKEM768"))
            else:
                parseProtocolName(name(f"{pattern}hfs", "25519+MLKEM768"))
        with self.assertRaisesRegex(ValueError, "'hfs'.*XXfallback"):
            parseProtocolName(name("XXfallback+hfs", "25519+MLKEM768"))


class NameTests(SynchronousTestCase):
    """L{parseProtocolName} takes the names of the specification and no others."""

    bad = (
        ("", "''"),
        ("Noise", "'Noise'"),
        ("Noise_XX_25519_AESGCM", "'Noise_XX_25519_AESGCM'"),
        ("Noise_XX_25519_AESGCM_SHA256_", "'Noise_XX_25519_AESGCM_SHA256_'"),
        ("noise_XX_25519_AESGCM_SHA256", "'noise_XX_25519_AESGCM_SHA256'"),
        ("NoisePSK_XX_25519_AESGCM_SHA256", "'NoisePSK_XX"),
        ("Noise_XX_25519_AESGCM_SHA256\n", r"hash 'SHA256\\n'.*SHA256, SHA512, BLAKE"),
        ("Noise_XX_25519_AESGCM_SHA1", "hash 'SHA1'.*BLAKE2s, BLAKE2b"),
        ("Noise_XX_25519_AESGCM_sha256", "hash 'sha256'"),
        ("Noise_XX_25519_AES256GCM_SHA256", "cipher 'AES256GCM'.*AESGCM, ChaChaPoly"),
        ("Noise_XX_25519__SHA256", "cipher ''"),
        ("Noise_XX_448_AESGCM_SHA256", r"DH '448'.*25519, 25519\+MLKEM768"),
        ("Noise_XX_25519+MLKEM1024_AESGCM_SHA256", r"DH '25519\+MLKEM1024'"),
        ("Noise_XX_MLKEM768_AESGCM_SHA256", "DH 'MLKEM768'"),
        ("Noise_XX_\uff125519_AESGCM_SHA256", "DH '\uff125519'"),
        ("Noise_XXhfs_25519_AESGCM_SHA256", "DH '25519' does not fit.*'XXhfs'"),
        ("Noise_XX_25519+MLKEM768_AESGCM_SHA256", r"DH '25519\+MLKEM768'.*'XX'"),
        (name(""), "pattern ''"),
        (name("xx"), "pattern ''"),
        (name("XY"), "pattern 'XY'.*NN, NK"),
        (name("I"), "pattern 'I'"),
        (name("XX2"), "pattern 'XX2'"),
        (name("N1"), "pattern 'N1'"),
        (name(" XX"), "pattern ''"),
        (name("XX+psk0"), r"modifier ''"),
        (name("XXpsk0+"), r"modifier ''"),
        (name("XXpsk5"), "modifier 'psk5'.*psk4"),
        (name("XXpsk"), "modifier 'psk'"),
        (name("XXpsk00"), "modifier 'psk00'"),
        (name("XXpsk0psk1"), "modifier 'psk0psk1'"),
        (name("XXPSK0"), "pattern 'XXPSK0'"),
        (name("XXnoidh"), "modifier 'noidh'.*fallback, hfs"),
        (name("XXpsk4"), "modifier 'psk4'.*XX, which has 3 messages"),
        (name("NNpsk3"), "modifier 'psk3'.*NN, which has 2 messages"),
        (name("Npsk2"), "modifier 'psk2'.*N, which has 1 message$"),
        (name("XXfallback+psk3"), "modifier 'psk3'.*XXfallback, which has 2 messages"),
        (name("XXpsk0+psk0"), r"'XXpsk0\+psk0'.*: XXpsk0$"),
        (name("XXpsk3+psk0"), r"'XXpsk3\+psk0'.*: XXpsk0\+psk3$"),
        (name("XXpsk0+hfs", "25519+MLKEM768"), r": XXhfs\+psk0$"),
        (name("XXpsk0+fallback"), r": XXfallback\+psk0$"),
        (name("IKfallback"), "'fallback'.*IK.*'e, es, s, ss'"),
    )

    def test_bad(self) -> None:
        """The error names the part that is wrong, and what there is instead."""
        for protocolName, text in self.bad:
            with self.assertRaisesRegex(ValueError, text):
                parseProtocolName(protocolName)

    def test_tooLong(self) -> None:
        """A name of more than 255 characters is refused, and not repeated."""
        with self.assertRaisesRegex(ValueError, "255 characters, not 1000") as caught:
            parseProtocolName("N" * 1000)
        self.assertNotIn("NNN", str(caught.exception))

    def test_notText(self) -> None:
        """A name is a C{str}."""
        for wrong in (b"Noise_XX_25519_AESGCM_SHA256", None, ["Noise"]):
            self.assertRaises(TypeError, parseProtocolName, wrong)

    def test_good(self) -> None:
        """All parts of the name are found."""
        protocol = parseProtocolName("Noise_IKpsk1_25519_ChaChaPoly_BLAKE2b")
        self.assertEqual(protocol.pattern.name, "IKpsk1")
        self.assertEqual(protocol.cipher.name, "ChaChaPoly")
        self.assertEqual(protocol.hash.name, "BLAKE2b")
        self.assertEqual((protocol.hybrid, protocol.psks), (False, 1))

    def test_once(self) -> None:
        """A name is parsed once."""
        self.assertIs(parseProtocolName(name("XX")), parseProtocolName(name("XX")))

    def test_messageLengths(self) -> None:
        """
        The lengths of the messages are known before any is made.

        @see: PROTOCOL section 3
        """
        for pattern, lengths in (
            ("XX", (32, 96, 64)),
            ("XXpsk0", (48, 96, 64)),
            ("XXhfs", (1216, 1200, 64)),
            ("XXhfs+psk0", (1248, 1200, 64)),
            ("NN", (32, 48)),
            ("IN", (64, 48)),
            ("IKhfs", (32 + 1200 + 48 + 16, 32 + 1104 + 16)),
            ("X1X1", (32, 96, 64, 16)),
            ("XXfallback", (96, 64)),
            ("XXfallback+psk1", (96, 64)),
            ("N", (48,)),
        ):
            protocol = parseProtocolName(name(pattern, dhFor(pattern)))
            self.assertEqual(protocol.messageLengths, lengths, pattern)
