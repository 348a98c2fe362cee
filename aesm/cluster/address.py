"""
Where an engine is, as users write it::

    EngineAddress.parse("redis://10.0.0.5:6379")          # TCP
    EngineAddress.parse("rediss://aesm@redis.example")    # TLS, and a user's name
    EngineAddress.parse("redis+unix:///run/redis/redis.sock")
    EngineAddress.parse("redis+sentinel://s1,s2,s3/mymaster")    # or rediss+sentinel

Passwords are in files, since who can list processes reads command lines.  TLS trusts
whom the system trusts; C{SSL_CERT_FILE} names another file.
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

PORT, SENTINEL_PORT = 6379, 26379
CONNECT_TIMEOUT = 5.0  # seconds
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_EXAMPLES = (
    "redis://HOST:PORT, rediss://HOST:PORT, redis+unix:///PATH, "
    "redis+sentinel://HOST,HOST,HOST/NAME"
)


class EngineAddress(NamedTuple):
    """
    Where an engine is.

    @ivar scheme: how it is reached.
    @ivar hosts: hosts and ports: one for TCP and TLS, or those of sentinels.
    @ivar path: of a UNIX socket; or the name by which sentinels know it.
    @ivar user: whom the engine knows us as, or None for its default.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    user: str | None

    @classmethod
    def parse(cls, url: str) -> EngineAddress:
        """
        Read a URL.

        @raise ValueError: it is none of these; says what would be right.
        """
        scheme, _, rest = url.partition("://")
        address, slash, path = rest.partition("/")
        user, at, names = address.rpartition("@")
        if ":" in user:
            raise ValueError(
                "an engine's URL has no password, which others could read: write it "
                "into a file of mode 0600, and name that"
            )
        if set(rest) & set("?#"):
            raise ValueError(f"{url!r} has more than an address; use {_EXAMPLES}")
        hasSentinels = scheme in ("redis+sentinel", "rediss+sentinel")
        usual = SENTINEL_PORT if hasSentinels else PORT
        try:
            hosts = tuple(_host(name, usual) for name in names.split(",") if names)
        except ValueError as error:
            raise ValueError(f"{url!r} is no URL: {error}; use {_EXAMPLES}") from None
        path = unquote(path)
        if scheme == "redis+unix":
            isRight, path = bool(slash and path and not hosts), f"/{path}"
        elif hasSentinels:
            isRight = bool(hosts and path and "/" not in path)
        else:
            isRight = scheme in ("redis", "rediss") and len(hosts) == 1 and not path
        if not isRight:
            raise ValueError(f"{url!r} is not where an engine can be; use {_EXAMPLES}")
        return cls(scheme, hosts, path, unquote(user) if at else None)

    def __str__(self) -> str:
        """Write it as a URL, without the user's name."""
        if self.scheme == "redis+unix":
            return f"redis+unix://{self.path}"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in self.hosts
        )
        return f"{self.scheme}://{hosts}" + (f"/{self.path}" if self.path else "")

    @property
    def hasSentinels(self) -> bool:
        """Whether others have to be asked where it is."""
        return self.scheme.endswith("+sentinel")

    @property
    def isLocal(self) -> bool:
        """Whether only this machine can reach it by this address."""
        return all(host in LOOPBACK for host, _ in self.hosts)

    def endpoint(self, reactor: object) -> IStreamClientEndpoint:
        """Make what connects to it; C{ImportError} if TLS lacks what it needs."""
        if self.scheme == "redis+unix":
            return UNIXClientEndpoint(reactor, self.path, CONNECT_TIMEOUT)
        return self.endpointAt(reactor, *self.hosts[0])

    def endpointAt(
        self, reactor: object, host: str, port: int
    ) -> IStreamClientEndpoint:
        """
        Make what connects to a host, in the way that the address says.

        @param reactor: what connects.
        @raise ImportError: as C{endpoint}.
        """
        tcp = HostnameEndpoint(reactor, host, port, CONNECT_TIMEOUT)
        if not self.scheme.startswith("rediss"):
            return tcp
        # Here, because the import needs pyOpenSSL.
        from twisted.internet.ssl import optionsForClientTLS

        return wrapClientTLS(optionsForClientTLS(host), tcp)


def _host(name: str, usual: int) -> tuple[str, int]:
    """Read a host and a port; C{ValueError} if it is none."""
    parts = urlsplit(f"//{name}")
    if not parts.hostname:
        raise ValueError(f"{name!r} is no host")
    return parts.hostname, usual if parts.port is None else parts.port
