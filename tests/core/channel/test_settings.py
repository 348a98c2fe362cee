"""
Tests of L{aesm.core.channel.settings}: what one side brings along is checked once.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from aesm.core.channel import settings
from aesm.core.channel.settings import (
    SUITES,
    ChannelSettings,
    Layer,
    defaultSuites,
    withPSK,
)
from aesm.noise import KeyPair, parseProtocolName
from tests.support.helpers import CLIENT_KEY, HERE, PSK, XX


class SuitesTests(SynchronousTestCase):
    """The names of PROTOCOL section 2."""

    def test_names(self) -> None:
        """There are four, and four with C{psk0}, in the order of preference."""
        hybrid, plain = "XXhfs_25519+MLKEM768", "XX_25519"
        ciphers = ("AESGCM_SHA256", "ChaChaPoly_SHA256")
        expected = tuple(f"Noise_{k}_{c}" for k in (hybrid, plain) for c in ciphers)
        self.assertEqual(SUITES, expected)
        self.assertEqual(
            tuple(map(withPSK, SUITES)),
            tuple(
                name.replace("XXhfs_", "XXhfs+psk0_").replace("XX_", "XXpsk0_")
                for name in expected
            ),
        )

    def test_known(self) -> None:
        """All eight are names that Noise knows."""
        for suite in SUITES:
            self.assertEqual(parseProtocolName(suite).psks, 0)
            self.assertEqual(parseProtocolName(withPSK(suite)).psks, 1)

    def test_withPSKTwice(self) -> None:
        """A name that has C{psk0} stays as it is."""
        for suite in SUITES:
            self.assertEqual(withPSK(withPSK(suite)), withPSK(suite))

    def test_default(self) -> None:
        """The default is all that the installation can do."""
        for supported, suites in ((True, SUITES), (False, SUITES[2:])):
            self.patch(settings, "hybridSupported", lambda: supported)  # noqa: B023
            self.assertEqual(defaultSuites(), suites)


class LayerTests(SynchronousTestCase):
    """L{Layer}."""

    def test_offers(self) -> None:
        """Each layer's offers are told apart, whatever suite they name."""
        for layer, word in ((Layer.STREAM, "stream "), (Layer.MESSAGES, "")):
            given = ChannelSettings(CLIENT_KEY, layer=layer)
            self.assertEqual(given.offers[f"AESM/1 {word}{XX}".encode()], XX)
            for suite in (*SUITES, "nothing", ""):
                self.assertIs(Layer.of(f"AESM/1 {word}{suite}"), layer)

    def test_longest(self) -> None:
        """The longest offer fits one byte's length."""
        given = ChannelSettings(CLIENT_KEY, psk=PSK, layer=Layer.STREAM)
        self.assertLessEqual(max(map(len, given.offers)), 255)

    def test_others(self) -> None:
        """What is no AESM/1 is no layer's."""
        for text in ("", "AESM/1", "AESM/2 stream " + XX, XX, "aesm/1 stream " + XX):
            self.assertIsNone(Layer.of(text))


class ChannelSettingsTests(SynchronousTestCase):
    """L{ChannelSettings}."""

    def refused(self, **options: Any) -> str:
        """
        Try settings that do not fit.

        @param options: them.
        @return: what the error says.
        """
        options.setdefault("staticKey", CLIENT_KEY)
        error = self.assertRaises(ValueError, ChannelSettings, **options)
        return str(error)

    def test_defaults(self) -> None:
        """A key is enough."""
        given = ChannelSettings(CLIENT_KEY)
        self.assertEqual(given.name, "aesm")
        self.assertIdentical(given.psk, None)
        self.assertEqual(given.suites, HERE)
        self.assertIs(given.layer, Layer.MESSAGES)
        self.assertEqual(given.publicKey, KeyPair.fromBytes(CLIENT_KEY).public)

    def test_equality(self) -> None:
        """The same settings are equal."""
        self.assertEqual(ChannelSettings(CLIENT_KEY), ChannelSettings(CLIENT_KEY))
        self.assertNotEqual(ChannelSettings(CLIENT_KEY), ChannelSettings(PSK))

    def test_secrets(self) -> None:
        """Neither the key nor the pre-shared key is shown."""
        shown = repr(ChannelSettings(b"k" * 32, psk=b"p" * 32))
        self.assertNotIn("kkkk", shown)
        self.assertNotIn("pppp", shown)
        self.assertNotIn("KeyPair", shown)

    def test_staticKey(self) -> None:
        """A key has 32 bytes."""
        for length in (0, 31, 33):
            self.assertIn("32 bytes", self.refused(staticKey=bytes(length)))

    def test_psk(self) -> None:
        """A pre-shared key has 32 bytes, also if it is empty."""
        for length in (0, 31, 33):
            self.assertIn("psk must be 32", self.refused(psk=bytes(length)))

    def test_name(self) -> None:
        """A name has 0 to 255 bytes, not characters."""
        for name in ("", "n" * 255, "\xe9" * 127):
            self.assertEqual(ChannelSettings(CLIENT_KEY, name).name, name)
        for name in ("n" * 256, "\xe9" * 128):
            self.assertIn("longer than 255", self.refused(name=name))
        self.assertIn("surrogates", self.refused(name="\ud800"))

    def test_suites(self) -> None:
        """Suites are names out of the list, one at least."""
        for suites in ((), XX):
            self.assertIn("a sequence of", self.refused(suites=suites))
        for suite in ("", "Noise_NN_25519_AESGCM_SHA256", XX + " ", XX.lower()):
            self.assertIn(f"unknown suite {suite!r};", self.refused(suites=(suite,)))

    def test_suitesWithPSK(self) -> None:
        """
        With a pre-shared key the C{psk0} names are meant, however they are written;
        without one they need it.
        """
        for suite in (XX, withPSK(XX)):
            given = ChannelSettings(CLIENT_KEY, psk=PSK, suites=(suite,))
            self.assertEqual(given.suites, (withPSK(XX),))
        self.assertIn("which needs a psk", self.refused(suites=(withPSK(XX),)))

    def test_withoutHybrid(self) -> None:
        """
        A hybrid suite on an installation that cannot do it is refused, and what can
        be used instead is named.
        """
        self.patch(settings, "hybridSupported", lambda: False)
        for suite in SUITES[:2]:
            self.assertIn(f"use '{XX}'", self.refused(suites=(suite,)))
        self.assertEqual(ChannelSettings(CLIENT_KEY).suites, SUITES[2:])
