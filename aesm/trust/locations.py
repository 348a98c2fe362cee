"""
What a server is called in the known servers: what the user dialled, so that a
name stays the same when its address changes.
"""

from __future__ import annotations

import re

from twisted.internet.interfaces import IAddress

__all__ = ["locationOf", "locationOfAddress"]

_FIELD = re.compile(r"(?:[^:\\]|\\.)*", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_NETWORK = ("tcp", "tls", "ssl")


def locationOf(endpoint: str) -> str:
    """
    Name what a client endpoint's string dials.

    @param endpoint: such as C{"tcp:example.org:8765"}.
    @return: C{"host:port"} (an IPv6 address in brackets), C{"unix:/path"}, or
        the string itself where it dials neither.
    @see: C{twisted.internet.endpoints.clientFromString}
    """
    kind, *fields = _split(endpoint)
    matches = [match for match in map(_NAMED.fullmatch, fields) if match]
    named = {match[1]: match[2] for match in matches}
    given = [field for field in fields if not _NAMED.fullmatch(field)]
    if kind.lower() in _NETWORK:
        host = named.get("host") or "".join(given[:1])
        return _join(host, named.get("port") or "".join(given[1:2]))
    if kind.lower() == "unix":
        return f"unix:{named.get('path') or ''.join(given[:1])}"
    return endpoint


def locationOfAddress(address: IAddress) -> str:
    """
    Name the peer of a transport, where nothing better is known.

    @param address: the transport's peer.
    @return: C{"host:port"}, C{"unix:/path"}, or what the address says of itself.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is not None and port is not None:
        return _join(str(host), str(port))
    name = getattr(address, "name", None)
    return f"unix:{name.decode()}" if isinstance(name, bytes) else str(address)


def _split(endpoint: str) -> list[str]:
    """
    Split an endpoint's string into its fields.

    @param endpoint: the string; a backslash takes the next character as it is.
    @return: the fields, without the backslashes.
    """
    fields, position = [], 0
    while position <= len(endpoint):
        match = _FIELD.match(endpoint, position)
        end = match.end() if match else position
        fields.append(_ESCAPE.sub(r"\1", endpoint[position:end]))
        position = end + 1
    return fields


def _join(host: str, port: str) -> str:
    """
    Write host and port as one.

    @param host: a name or an address.
    @param port: its number.
    @return: C{"host:port"}, the host in lower case.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host.lower()}:{port}"
