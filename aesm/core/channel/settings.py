"""
What one side brings to a secure channel: its static key, the application
name, a pre-shared key, the suites that it knows, and what is to run on it::

    settings = ChannelSettings(staticKey=key, suites=defaultSuites())

Everything is checked here, once, so that no connection can fail over it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial

from aesm.core.channel.framing import frame
from aesm.noise import KEYLEN, HandshakeState, KeyPair, hybridSupported

MAX_NAME = 255  # bytes of the application name in UTF-8, docs/protocol.md, section 3

SUITES = (  # in the default order of preference, docs/protocol.md, section 2
    "Noise_XXhfs_25519+MLKEM768_AESGCM_SHA256",
    "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256",
    "Noise_XX_25519_AESGCM_SHA256",
    "Noise_XX_25519_ChaChaPoly_SHA256",
)


class Layer(Enum):
    """
    What runs on a channel.  The value is what offers of it begin with.

    @see: docs/protocol.md, section 2
    """

    STREAM = "AESM/1 stream "
    MESSAGES = "AESM/1 "

    @classmethod
    def of(cls, offer: str) -> Layer | None:
        """Tell what an offer is for, known or not; None if it is no AESM/1."""
        # In the order above, since the one value begins the other.
        return next((layer for layer in cls if offer.startswith(layer.value)), None)


def withPSK(suite: str) -> str:
    """
    Name the variant of a suite that mixes in a pre-shared key.

    @param suite: a Noise protocol name, with C{psk0} or without.
    @see: docs/protocol.md, section 2
    """
    pattern = suite.split("_")[1]
    modified = {"XX": "XXpsk0", "XXhfs": "XXhfs+psk0"}.get(pattern, pattern)
    return suite.replace(f"_{pattern}_", f"_{modified}_", 1)


_PSK_SUITES = tuple(map(withPSK, SUITES))


def defaultSuites() -> tuple[str, ...]:
    """
    List the suites that this machine can do, the preferred one first.

    @return: Noise protocol names without C{psk0}.
    """
    return SUITES if hybridSupported() else SUITES[2:]


@dataclass(frozen=True)
class ChannelSettings:
    """
    What one side of a channel brings along; checked, and the same for all
    connections of a factory.

    @ivar staticKey: our own static private key, 32 bytes.
    @ivar name: the application name that both sides share, at most 255 bytes
        in UTF-8.
    @ivar psk: the pre-shared key, 32 bytes, or None.
    @ivar suites: Noise protocol names out of L{SUITES}: a client offers the
        first, a server takes any.  With a C{psk} their C{psk0} variants are
        meant, also where C{psk0} is not written.
    @ivar layer: what runs on the channel.
    @ivar keyPair: the pair of C{staticKey}; None computes it, which takes as long as
        a step of a handshake.
    @ivar publicKey: our own static public key, 32 bytes.
    """

    staticKey: bytes = field(repr=False)
    name: str = "aesm"
    psk: bytes | None = field(default=None, repr=False)
    suites: tuple[str, ...] = field(default_factory=defaultSuites)
    layer: Layer = Layer.MESSAGES
    keyPair: KeyPair | None = field(default=None, repr=False, compare=False)
    publicKey: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Check everything, so that no connection can fail over it later."""
        pair = self.keyPair or KeyPair.fromBytes(self.staticKey)
        object.__setattr__(self, "keyPair", pair)
        object.__setattr__(self, "publicKey", pair.public)
        if len(self.name.encode("utf-8")) > MAX_NAME:
            raise ValueError(f"name is longer than {MAX_NAME} bytes: {self.name!r}")
        if self.psk is not None and len(self.psk) != KEYLEN:
            raise ValueError(f"psk must be {KEYLEN} bytes, not {len(self.psk)}")
        if isinstance(self.suites, str) or not self.suites:
            raise ValueError("suites must be a sequence of Noise protocol names")
        known = SUITES if self.psk is None else SUITES + _PSK_SUITES
        for suite in self.suites:
            if suite not in known:
                hint = " (which needs a psk)" if suite in _PSK_SUITES else ""
                raise ValueError(
                    f"unknown suite {suite!r}{hint}; known: {', '.join(known)}"
                )
            if "hfs" in suite and not hybridSupported():
                raise ValueError(
                    f"suite {suite!r} needs ML-KEM-768, which the OpenSSL of this "
                    f"cryptography package lacks; use {SUITES[2]!r}"
                )
        if self.psk is not None:
            object.__setattr__(self, "suites", tuple(map(withPSK, self.suites)))

    @cached_property
    def offers(self) -> dict[bytes, str]:
        """What is offered for each of our suites, the preferred one first."""
        return {f"{self.layer.value}{suite}".encode(): suite for suite in self.suites}

    @cached_property
    def handshakes(self) -> dict[str, Callable[..., HandshakeState]]:
        """
        What starts a handshake with each of our suites, given C{initiator}.

        @see: docs/protocol.md, section 3
        """
        # The offer is in the prologue, so that who alters it, to have a weaker suite
        # chosen or another layer reached, makes the handshake fail; so is the name,
        # which is sent nowhere.
        name = frame(self.name.encode())
        psks = () if self.psk is None else (self.psk,)
        given = partial(HandshakeState, s=self.keyPair, psks=psks)
        return {
            suite: partial(given, suite, prologue=frame(offer) + name)
            for offer, suite in self.offers.items()
        }
