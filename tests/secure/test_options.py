"""
Tests for L{aesm.secure.options}.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import aesm
from aesm import (
    PSK,
    KeyFileError,
    PrivateKey,
)
from aesm.core.channel.settings import Layer, defaultSuites
from aesm.secure.options import AGENT, channelSettings
from tests.support.pairs import CLIENT_KEY

STREAM = Layer.STREAM


class ChannelSettingsTests(SynchronousTestCase):
    """L{channelSettings} resolves what a channel needs."""

    def setUp(self) -> None:
        """Have a state directory."""
        self.home = Path(self.mktemp())
        self.patch(os, "environ", os.environ | {"AESM_HOME": str(self.home)})

    def test_given(self) -> None:
        """What is given is taken, and no file is touched."""
        settings = channelSettings(
            "x.key",
            STREAM,
            key=CLIENT_KEY,
            name="n",
            psk=b"p" * 32,
            suites=defaultSuites()[:1],
        )
        self.assertEqual(settings.staticKey, CLIENT_KEY.raw)
        self.assertEqual((settings.name, settings.psk), ("n", b"p" * 32))
        self.assertIs(settings.layer, STREAM)
        self.assertEqual(len(settings.suites), 1)
        self.assertFalse(self.home.exists())

    def test_defaults(self) -> None:
        """The key is made in the state directory, once."""
        first, second = (
            channelSettings("x.key", STREAM),
            channelSettings("x.key", STREAM),
        )
        self.assertEqual(first.staticKey, second.staticKey)
        self.assertEqual(PrivateKey.load(self.home / "x.key").raw, first.staticKey)
        self.assertEqual((first.name, first.psk), ("aesm", None))
        self.assertEqual(first.suites, defaultSuites())

    def test_psk(self) -> None:
        """A pre-shared key may be a file."""
        psk = PSK.generate()
        path = Path(self.mktemp())
        psk.save(path)
        for given in (path, str(path), psk):
            self.assertEqual(
                channelSettings("x", STREAM, key=CLIENT_KEY, psk=given).psk, psk
            )

    def test_wrongTypes(self) -> None:
        """What is of the wrong type is named."""
        key: Any = b"k" * 32
        name: Any = b"aesm"
        psk: Any = bytearray(32)
        with self.assertRaisesRegex(TypeError, "key must be a PrivateKey, not bytes"):
            channelSettings("x", STREAM, key=key)
        with self.assertRaisesRegex(TypeError, "name must be str, not bytes"):
            channelSettings("x", STREAM, key=CLIENT_KEY, name=name)
        with self.assertRaisesRegex(TypeError, "psk must be 32 bytes or a path"):
            channelSettings("x", STREAM, key=CLIENT_KEY, psk=psk)

    def test_noSuch(self) -> None:
        """A name that is misspelt is not as if there were no such option."""
        options: dict[str, Any] = {"key": CLIENT_KEY, "pks": b"k" * 32}
        with self.assertRaisesRegex(TypeError, "there is no option 'pks' here"):
            channelSettings("x", STREAM, **options)

    def test_wrongValues(self) -> None:
        """What cannot be is refused."""
        wrong: list[dict[str, Any]] = [
            {"psk": b"short"},
            {"name": "n" * 256},
            {"suites": []},
            {"suites": "Noise_XX_25519_AESGCM_SHA256"},
            {"suites": ["Noise_NN_25519_AESGCM_SHA256"]},
        ]
        for options in wrong:
            self.assertRaises(
                ValueError, channelSettings, "x", STREAM, key=CLIENT_KEY, **options
            )
        self.assertRaises(
            KeyFileError,
            channelSettings,
            "x",
            STREAM,
            key=CLIENT_KEY,
            psk="/nowhere/psk",
        )


class AgentTests(SynchronousTestCase):
    """L{AGENT} says what we are."""

    def test_agent(self) -> None:
        """Software and version."""
        self.assertEqual(AGENT, f"aesm/{aesm.__version__}")
