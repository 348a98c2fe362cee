"""
From what users type to what the layers below take: the options that mean the
same in every face (C{name}, C{key}, C{psk}, ...) are resolved here, once::

    settings = channelSettings("server.key", key=None, name="aesm", psk="psk.txt")

Every wrong value is a C{TypeError} or C{ValueError} at once, that says what
would be right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from zope.interface import implementer

from aesm import __version__
from aesm.authorized import AuthorizedKeys
from aesm.core.settings import ChannelSettings, defaultSuites
from aesm.interfaces import (
    IClientPolicy,
    IMessageHandler,
    IMessageHandlerMaker,
    ITrustPolicy,
)
from aesm.keys import PSK, PrivateKey, PublicKey, stateDirectory
from aesm.trust import KnownServers

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress, IReactorTime

    from aesm.registry import Connections

__all__ = [
    "ClientCheck",
    "Path",
    "agent",
    "channelSettings",
    "clientPolicy",
    "messageHandler",
    "nextKeyOf",
    "reactorOr",
    "trustPolicy",
]

Path = str | os.PathLike[str]

ClientCheck = Callable[[PublicKey, "IAddress"], Any]


def channelSettings(
    keyFile: str,
    *,
    key: PrivateKey | None = None,
    name: str = "aesm",
    psk: bytes | Path | None = None,
    suites: Sequence[str] | None = None,
) -> ChannelSettings:
    """
    Resolve what a secure channel needs.

    @param keyFile: the file in the state directory that holds the key if no
        C{key} is given; it is made if it is not there.
    @param key: our own key.
    @param name: the application name that both sides share.
    @param psk: the pre-shared key, 32 bytes, or the path of its file.
    @param suites: Noise protocol names: a client offers the first, a server
        takes any; None for the defaults.
    @return: settings for all connections.
    @raise KeyFileError: a file cannot be used; says why.
    @raise TypeError: an option is of the wrong type.
    @raise ValueError: an option has a value that it cannot have.
    """
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
    )


def reactorOr(reactor: IReactorTime | None) -> IReactorTime:
    """
    Resolve a C{reactor} option.

    @param reactor: what is given, or None for the one that is installed.
    """
    if reactor is None:
        from twisted.internet import reactor as installed

        reactor = cast("IReactorTime", installed)
    return reactor


def nextKeyOf(keyFile: Path) -> PublicKey | None:
    """
    Look for the key that a server will have after its present one, as
    C{aesm keygen --next} makes it.

    @param keyFile: the file of its present key.
    @return: the public half of the key in C{FILE.next}, or None.
    @raise KeyFileError: that file cannot be used; says why.
    """
    path = f"{os.fspath(keyFile)}.next"
    return PrivateKey.load(path).publicKey if os.path.lexists(path) else None


def agent() -> str:
    """
    Say what we are, for the peer's log.

    @return: software and version.
    """
    return f"aesm/{__version__}"


def messageHandler(handler: object, connections: Connections) -> IMessageHandler | None:
    """
    Resolve a server's C{handler} option.

    @param handler: an L{IMessageHandler}, an L{IMessageHandlerMaker}, or None.
    @param connections: the server's registry, for a maker.
    @return: the handler, or None.
    @raise TypeError: it is something else.
    """
    if IMessageHandlerMaker.providedBy(handler):
        handler = IMessageHandlerMaker(handler).makeHandler(connections)
    if handler is None:
        return None
    if not IMessageHandler.providedBy(handler):
        raise TypeError(
            f"handler must provide IMessageHandler, not {type(handler).__name__}: "
            "decorate its class with @implementer(IMessageHandler)"
        )
    return IMessageHandler(handler)


def trustPolicy(trust: object) -> ITrustPolicy:
    """
    Resolve a client's C{trust} option.

    @param trust: an L{ITrustPolicy}, or None for L{KnownServers} in the state
        directory.
    @return: the policy.
    @raise TypeError: it is something else.
    """
    if trust is None:
        trust = KnownServers()
    if not ITrustPolicy.providedBy(trust):
        raise TypeError(
            f"trust must provide ITrustPolicy, not {type(trust).__name__}: "
            "use Pinned(key), KnownServers() or AnyServer()"
        )
    return ITrustPolicy(trust)


def clientPolicy(authorizedKeys: object) -> IClientPolicy | None:
    """
    Resolve a server's C{authorizedKeys} option.

    @param authorizedKeys: the path of a file, an L{IClientPolicy}, a callable
        with the signature of its C{checkClient}, or None to let all in.
    @return: the policy, or None.
    @raise KeyFileError: the file cannot be used; says which line is bad.
    @raise TypeError: it is something else.
    """
    if authorizedKeys is None:
        return None
    if isinstance(authorizedKeys, str | os.PathLike):
        return AuthorizedKeys(authorizedKeys)
    if IClientPolicy.providedBy(authorizedKeys):
        return IClientPolicy(authorizedKeys)
    if callable(authorizedKeys):
        return _CallablePolicy(authorizedKeys)
    raise TypeError(
        "authorizedKeys must be a path, an IClientPolicy or a callable, not "
        f"{type(authorizedKeys).__name__}"
    )


@implementer(IClientPolicy)
class _CallablePolicy:
    """
    A function that decides on clients.
    """

    def __init__(self, check: ClientCheck) -> None:
        """
        @param check: as L{IClientPolicy.checkClient}.
        """
        self._check = check

    def checkClient(self, publicKey: PublicKey, address: IAddress) -> Any:
        """
        Ask the function.

        @param publicKey: the client's key.
        @param address: where it comes from.
        @return: what the function says.
        @see: L{IClientPolicy}
        """
        return self._check(publicKey, address)
