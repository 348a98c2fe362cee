"""
C{aesm:} endpoint strings, for whatever takes an endpoint's string::

    twistd web --listen 'aesm:tcp\\:8443' --path .
    serverFromString(reactor, r"aesm:endpoint=tcp\\:8443:authorizedKeys=clients")
    clientFromString(reactor, r"aesm:tcp\\:example.org\\:8443:pinned=mTqS...=")

The endpoint inside is the first argument, or C{endpoint}.  Its own colons are
written C{\\:}, and where it comes first its C{=} are written C{\\=}.  The
keywords are

  - C{key}, C{psk}: the files of our own key and of the pre-shared key;
  - C{name}: the application name that both sides share;
  - for a server C{authorizedKeys}, a file, and the numbers C{maxConnections},
    C{maxConnectionsPerHost} and C{handshakesPerHost};
  - for a client C{knownServers}, a file, or C{pinned}: the server's public
    key, or several with commas in between.

Secrets are named by file: a string is seen by all who can list processes.

C{websocket:} strings are for pages in browsers.  Before any other server endpoint they
mean that one in WebSockets, and a port alone is one of TCP::

    twistd aesm --listen websocket:8766:interface=127.0.0.1:path=/aesm
    twistd aesm --listen 'websocket:unix:/run/aesm/web:origin=https\\://chat.example'

C{path} is where they are, C{/} without it; C{origin} whose pages may open them, with
commas between several, and without it those of the host that they ask for.

C{reuseport:} strings are ports of TCP that several processes share, such as the nodes
of a cluster::

    twistd aesm --listen 'reuseport:8765:interface=\\:\\:'

C{interface} is an address; without it they are on all of IPv4.

Nothing heavy is loaded until a string is parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import (
    IReactorTime,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from twisted.python.reflect import namedAny
from zope.interface import implementer

from aesm.interfaces import IMessageHandler, IMessageHandlerMaker

if TYPE_CHECKING:
    from twisted.internet.interfaces import (
        IReactorCore,
        IStreamClientEndpoint,
        IStreamServerEndpoint,
    )

    from aesm.server.registry import Connections

__all__ = [
    "ClientParser",
    "HandlerMaker",
    "ReusePortParser",
    "ServerParser",
    "WebSocketParser",
]

PREFIX = "aesm"

# The keywords of a string.
_BOTH = ("endpoint", "key", "psk", "name")
_NUMBERS = {
    "maxConnections": int,
    "maxConnectionsPerHost": int,
    "handshakesPerHost": float,
}
_SERVER = (*_BOTH, "authorizedKeys", *_NUMBERS)
_CLIENT = (*_BOTH, "knownServers", "pinned")

# What the header Origin of RFC 6454 can be, but for "null": any page can send that.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,]+")


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ServerParser:
    """Reads server endpoints."""

    prefix = PREFIX

    def parseStreamServer(  # type: ignore[override]  # no word is taken
        self, reactor: IReactorCore, /, *args: str, **kwargs: str
    ) -> IStreamServerEndpoint:
        """
        Make the endpoint that a string means.

        @raise KeyFileError: a file cannot be used; says why.
        @raise ValueError: the string is wrong; says how to put it right.
        """
        endpoint, options = _options(_SERVER, args, kwargs)

        # Here, not above: whoever asks Twisted for its plugins, C{twistd --help} for
        # one, loads this module.
        from aesm.secure.endpoints import wrapServerEndpoint
        from aesm.secure.listening import serverEndpoint

        numbers = {
            word: _number(word, options.pop(word))
            for word in _NUMBERS
            if word in options
        }
        return wrapServerEndpoint(
            serverEndpoint(reactor, endpoint),
            reactor=IReactorTime(reactor),
            **numbers,
            **_loadKey(options),
        )


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ClientParser:
    """Reads client endpoints."""

    prefix = PREFIX

    def parseStreamClient(  # type: ignore[override]  # no word is taken
        self, reactor: IReactorCore, /, *args: str, **kwargs: str
    ) -> IStreamClientEndpoint:
        """Make the endpoint that a string means; raises as L{ServerParser}."""
        endpoint, options = _options(_CLIENT, args, kwargs)
        knownServers = options.pop("knownServers", None)
        pinned = options.pop("pinned", None)
        if knownServers is not None and pinned is not None:
            raise ValueError(
                "aesm: either pinned= says which key the server has, or knownServers= "
                "where that is remembered"
            )

        from aesm.secure.endpoints import wrapClientEndpoint
        from aesm.trust.servers import KnownServers, Pinned

        return wrapClientEndpoint(
            endpoint,
            trust=KnownServers(knownServers)
            if pinned is None
            else Pinned(*pinned.split(",")),
            reactor=IReactorTime(reactor),
            **_loadKey(options),
        )


def _options(
    known: tuple[str, ...], args: tuple[str, ...], kwargs: dict[str, str]
) -> tuple[str, dict[str, Any]]:
    """Check what a string has: the endpoint inside, and the other keywords."""
    for word, value in kwargs.items():
        if word not in known:
            raise ValueError(f"aesm: {_unknown(word, known)}")
        if not value and word != "name":
            raise ValueError(f"aesm: {word}= is empty")
    given = [*args, *([kwargs["endpoint"]] if "endpoint" in kwargs else [])]
    if not any(given):
        raise ValueError(
            r"aesm: the endpoint inside is missing: write aesm:endpoint=tcp\:8443, or "
            r"aesm:tcp\:8443"
        )
    if len(given) > 1:
        raise ValueError(
            f"aesm: one endpoint goes inside, not {' and '.join(map(repr, given))}; "
            r"its own colons are written \: as in aesm:tcp\:8443"
        )
    return given[0], {word: kwargs[word] for word in kwargs if word != "endpoint"}


def _number(word: str, value: str) -> Any:
    """Read the number of a keyword."""
    try:
        return _NUMBERS[word](value)
    except ValueError:
        what = "a whole number" if _NUMBERS[word] is int else "a number"
        raise ValueError(f"aesm: {word}= must be {what}, not {value!r}") from None


def _unknown(word: str, known: tuple[str, ...]) -> str:
    """Say what is wrong with a keyword, and what would be right."""
    if ":" in word:
        # Twisted has split "tcp\:host=x\:1" at its = first.
        return (
            f"{word!r} is no keyword: in an endpoint that comes first a = is written "
            r"\=, or put endpoint= before it"
        )
    if word in (*_SERVER, *_CLIENT):
        side = "servers" if word in _SERVER else "clients"
        return f"the keyword {word} is for {side} only"
    lower = {name.lower(): name for name in known}
    close = get_close_matches(word.lower().replace("_", ""), lower, 1)
    hint = f"did you mean {lower[close[0]]}?" if close else f"use {', '.join(known)}"
    return f"there is no keyword {word!r}: {hint}"


def _loadKey(options: dict[str, Any]) -> dict[str, Any]:
    """Turn options as in a string into those of L{aesm.secure}, and load the key."""
    from aesm.trust.keys import PrivateKey

    if "key" in options:
        return {**options, "key": PrivateKey.load(options["key"])}
    return options


@implementer(IPlugin, IStreamServerEndpointStringParser)
class WebSocketParser:
    """Reads endpoints for pages in browsers."""

    prefix = "websocket"

    def parseStreamServer(  # type: ignore[override]  # no word is taken
        self, reactor: IReactorCore, /, *args: str, **kwargs: str
    ) -> IStreamServerEndpoint:
        """
        Make the endpoint that a string means.

        @raise ValueError: the string is wrong, or wsproto is missing; says how to put
            it right.
        """
        path = kwargs.pop("path", "/")
        listed = kwargs.pop("origin", None)
        origins = None if listed is None else listed.lower().split(",")
        if not path.startswith("/"):
            raise ValueError(f"websocket: path= begins with /, unlike {path!r}")
        for origin in origins or []:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "websocket: origin= is what browsers say a page is from, such as "
                    rf"https\://chat.example, and not {origin!r}"
                )
        if not any(args):
            raise ValueError(
                "websocket: say where, such as websocket:8766:interface=127.0.0.1"
            )
        if args[0].isdecimal():
            args = "tcp", *args

        from twisted.internet.endpoints import quoteStringArgument

        words = [quoteStringArgument(word) for word in args]
        words += [f"{word}={quoteStringArgument(kwargs[word])}" for word in kwargs]
        try:
            from aesm.secure.websocket import WebSocketServerEndpoint
        except ModuleNotFoundError as error:
            raise ValueError(
                f"websocket: there is no {error.name}: pip install 'aesm[web]'"
            ) from None
        from aesm.secure.listening import serverEndpoint

        return WebSocketServerEndpoint(
            IReactorTime(reactor),
            serverEndpoint(reactor, ":".join(words)),
            path,
            origins,
        )


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ReusePortParser:
    """Reads endpoints of ports that several processes share."""

    prefix = "reuseport"

    def parseStreamServer(  # type: ignore[override]  # no word is taken
        self, reactor: IReactorCore, /, *args: str, **kwargs: str
    ) -> IStreamServerEndpoint:
        """
        Make the endpoint that a string means.

        @raise TypeError: the string has a word too many, or no port.
        @raise ValueError: the string is wrong, or the system cannot do it.
        """
        return self._parse(reactor, *args, **kwargs)

    def _parse(
        self, reactor: IReactorCore, port: str, interface: str = ""
    ) -> IStreamServerEndpoint:
        """Make the endpoint of a port and an address."""
        from aesm.secure.listening import ReusePortEndpoint

        if not port.isdecimal() or int(port) >= 1 << 16:
            raise ValueError(f"reuseport: a port is 0 to 65535, not {port!r}")
        try:
            return ReusePortEndpoint(reactor, int(port), interface)
        except ValueError as error:
            raise ValueError(f"reuseport: {error}") from None


@implementer(IPlugin, IMessageHandlerMaker)
@dataclass(frozen=True)
class HandlerMaker:
    """
    Makes handlers, and loads their module when it makes the first.

    @ivar name: what the operator types.
    @ivar description: one line for C{--help}.
    @ivar factory: the full name of what is called with the server's registry of
        connections and returns the handler, or None.
    """

    name: str
    description: str
    factory: str

    def makeHandler(self, connections: Connections) -> IMessageHandler | None:
        """
        Make the handler of one server.

        @return: the handler, or None to leave packets in their streams.
        @see: L{IMessageHandlerMaker.makeHandler}
        """
        made = namedAny(self.factory)(connections)
        return cast("IMessageHandler | None", made)
