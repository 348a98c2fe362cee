"""
The options of a secure channel (C{name}, C{key}, C{psk}, C{suites}), which mean the
same in every interface, resolved into settings::

    settings = channelSettings("server.key", Layer.STREAM, name="aesm", psk="psk.txt")

Every wrong value is a C{TypeError} or C{ValueError} at once, that says what
would be right.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack, cast

from aesm._version import __version__
from aesm.core.channel.settings import ChannelSettings, Layer, defaultSuites
from aesm.secure.clock import steady
from aesm.trust.files import AnyPath, stateDirectory
from aesm.trust.keys import PSK, PrivateKey

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


_E = TypeVar("_E")


class ChannelOptions(TypedDict, total=False):
    """
    The options of a secure channel, the same for every interface.

    @ivar key: our own key; None for the state directory's.
    @ivar name: the application name that both sides share, C{"aesm"} by default.
    @ivar psk: the pre-shared key, 32 bytes, or the path of its file.
    @ivar suites: Noise protocol names: a client offers the first, a server takes any;
        None for the defaults.
    """

    key: PrivateKey | None
    name: str
    psk: bytes | AnyPath | None
    suites: Sequence[str] | None


CHANNEL_OPTIONS = ChannelOptions.__optional_keys__
AGENT = f"aesm/{__version__}"  # our software and version, for the peer's log


def checkNames(options: Iterable[str], known: Collection[str]) -> None:
    """
    Check what options are called, before one that is misspelt counts as not given.

    @param known: those that there are.
    @raise TypeError: there is no such.
    """
    for name in options:
        if name not in known:
            raise TypeError(f"there is no option {name!r} here")


def endpointOf(interface: type[_E], endpoint: object) -> _E:
    """
    Adapt an endpoint.

    @param interface: which of Twisted's it is to have.
    @raise TypeError: it is none.
    """
    made: _E | None = cast(Any, interface)(endpoint, None)
    if made is None:
        raise TypeError(
            f"an endpoint is a string such as tcp:127.0.0.1:8765, or has "
            f"{interface.__name__}; not {endpoint!r}"
        )
    return made


def channelSettings(
    keyFile: str, layer: Layer, **options: Unpack[ChannelOptions]
) -> ChannelSettings:
    """
    Resolve the options of a secure channel.

    @param keyFile: the file in the state directory that holds the key if no
        C{key} is given; it is created if there is none.
    @param layer: what is to run on the channel, which is for no user to choose.
    @return: settings for all connections.
    @raise KeyFileError: a file cannot be used; says why.
    @raise TypeError: an option is of the wrong type, or there is no such.
    @raise ValueError: an option has a value that it cannot have.
    """
    checkNames(options, CHANNEL_OPTIONS)
    key, psk = options.get("key"), options.get("psk")
    name, suites = options.get("name", "aesm"), options.get("suites")
    if key is None:
        key = PrivateKey.loadOrCreate(stateDirectory() / keyFile)
    if not isinstance(key, PrivateKey):
        raise TypeError(
            f"key must be a PrivateKey, not {type(key).__name__}: "
            "use PrivateKey.load(path)"
        )
    if not isinstance(name, str):
        raise TypeError(f"name must be str, not {type(name).__name__}")
    if isinstance(psk, str | os.PathLike):
        psk = PSK.load(psk)
    if psk is not None and not isinstance(psk, bytes):
        raise TypeError(f"psk must be 32 bytes or a path, not {type(psk).__name__}")
    return ChannelSettings(
        staticKey=key.raw,
        keyPair=key.keyPair,
        name=name,
        psk=psk,
        suites=defaultSuites() if suites is None else tuple(suites),
        layer=layer,
    )


def reactorOr(reactor: IReactorTime | None) -> IReactorTime:
    """
    Resolve a C{reactor} option, None being the installed reactor, and have it keep
    time by the monotonic clock.
    """
    if reactor is None:
        # Here, because the import installs a reactor.
        from twisted.internet import reactor as installed

        reactor = cast("IReactorTime", installed)
    return steady(reactor)
