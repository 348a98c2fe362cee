"""
Where an engine is, as users write it::

    EngineAddress.parse("redis://10.0.0.5:6379")          # TCP
    EngineAddress.parse("rediss://aesm@redis.example")    # TLS, and a user's name
    EngineAddress.parse("redis+unix:///run/redis/redis.sock")

Passwords are in files, since who can list processes reads command lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint

__all__ = ["EngineAddress"]

PORT = 6379
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_EXAMPLES = "redis://HOST:PORT, rediss://HOST:PORT, redis+unix:///PATH"


class EngineAddress(NamedTuple):
    """
    Where an engine is.

    @ivar scheme: how it is reached.
    @ivar host: for TCP and TLS.
    @ivar port: for TCP and TLS.
    @ivar path: of a UNIX socket.
    @ivar user: whom the engine knows us as, or None for its default.
    """

    scheme: str
    host: str
    port: int
    path: str
    user: str | None

    @classmethod
    def parse(cls, url: str) -> EngineAddress:
        """
        Read a URL.

        @raise ValueError: it is none of these; says what would be right.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no URL: {error}; use {_EXAMPLES}") from None
        if parts.password is not None:
            raise ValueError(
                "an engine's URL has no password, which others could read: write it "
                "into a file of mode 0600, and name that"
            )
        path = unquote(parts.path)
        if parts.query or parts.fragment:
            raise ValueError(f"{url!r} has more than an address; use {_EXAMPLES}")
        user = None if parts.username is None else unquote(parts.username)
        match parts.scheme:
            case "redis" | "rediss" if parts.hostname and path in ("", "/"):
                return cls(
                    parts.scheme,
                    parts.hostname,
                    PORT if port is None else port,
                    "",
                    user,
                )
            case "redis+unix" if not parts.hostname and path.startswith("/"):
                return cls(parts.scheme, "", 0, path, user)
        raise ValueError(f"{url!r} is not where an engine can be; use {_EXAMPLES}")

    def __str__(self) -> str:
        """Write it as a URL, without the user's name."""
        if self.scheme == "redis+unix":
            return f"redis+unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def isLocal(self) -> bool:
        """Whether only this machine can reach it by this address."""
        return self.scheme == "redis+unix" or self.host in LOOPBACK

    def endpoint(self, reactor: object) -> IStreamClientEndpoint:
        """
        Make what connects to it.

        @param reactor: what connects.
        @raise ImportError: TLS needs pyOpenSSL and service_identity.
        """
        if self.scheme == "redis+unix":
            return UNIXClientEndpoint(reactor, self.path)
        tcp = HostnameEndpoint(reactor, self.host, self.port)
        if self.scheme == "redis":
            return tcp
        # Here, because the import needs pyOpenSSL.
        from twisted.internet.ssl import optionsForClientTLS

        return wrapClientTLS(optionsForClientTLS(self.host), tcp)
