"""
Locations: what a server is called in the known servers.

::

    locationOf("tcp:Example.org:8765")       # "example.org:8765"
    locationOf("Example.org")                # the same
    locationOf("unix:/run/my server")        # "unix:/run/my server"
    quoteLocation("unix:/run/my server")     # "unix:/run/my%20server", in the file

It is what the user dialled, so that it stays the same when a name's address
changes, without what does not matter to where it is, such as a timeout: other
options for the same server must not make it a stranger.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote, unquote

from twisted.internet.interfaces import IAddress

DEFAULT_PORT = 8765

# What an endpoint's string consists of: its kind in lower case, its positional and its
# named arguments.
Fields = tuple[str, list[str], dict[str, str]]

_FIELD = re.compile(r"(?:[^:\\]|\\.)*", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NAMED = re.compile(r"([A-Za-z]+)=(.*)", re.DOTALL)
_NETWORK = ("tcp", "tls", "ssl")

# What is no endpoint string: a host, in brackets if one likes, and perhaps a port.
_BRACKETS = re.compile(r"(tcp:)?\[([0-9A-Fa-f:.]+(?:%[^\]]+)?)\](:.*)?", re.DOTALL)
_HOST = re.compile(r"([^\s:/=\\\[\]]+)(?::([0-9]+))?")

# The printable ASCII that a location may have as it is in a file: all but the
# blank, "#" and "%".
_PLAIN = "!\"$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def locationOf(endpoint: str, fields: Fields | None = None) -> str:
    """
    Name what a client endpoint's string dials.

    @param endpoint: such as C{"tcp:example.org:8765"}.
    @param fields: its L{fieldsOf}, for whoever has them.
    @return: C{"host:port"} (an IPv6 address in brackets), C{"unix:/path"}, or
        the string itself where it dials neither.
    @see: C{twisted.internet.endpoints.clientFromString}
    """
    kind, given, named = fieldsOf(endpoint) if fields is None else fields
    if kind in _NETWORK:
        host = named.get("host") or "".join(given[:1])
        return _join(host, named.get("port") or "".join(given[1:2]))
    if kind == "unix":
        return f"unix:{named.get('path') or ''.join(given[:1])}"
    return endpoint


def fieldsOf(endpoint: str) -> Fields:
    """Take a client endpoint's string to pieces; what is none is a host, and a port."""
    match = _BRACKETS.fullmatch(endpoint)
    if match is not None:
        rest = _split(match[3][1:]) if match[3] else []
        fields = [match[2], *(rest or ([] if match[1] else [str(DEFAULT_PORT)]))]
        kind = "tcp"
    elif (match := _hostIn(endpoint)) is not None:
        kind, fields = "tcp", [match[1], match[2] or str(DEFAULT_PORT)]
    elif isinstance(_addressIn(endpoint), IPv6Address):
        kind, fields = "tcp", [endpoint, str(DEFAULT_PORT)]
    else:
        kind, *fields = _split(endpoint)
    matches = [match for match in map(_NAMED.fullmatch, fields) if match]
    named = {match[1]: match[2] for match in matches}
    given = [field for field in fields if not _NAMED.fullmatch(field)]
    return kind.lower(), given, named


def _hostIn(text: str) -> re.Match[str] | None:
    """See whether this is C{HOST} or C{HOST:PORT}, and not C{unix:8765}."""
    match = _HOST.fullmatch(text)
    if match is None or match[2] is None:
        return match
    # Only here it matters which kinds of endpoints there are.
    from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
    from twisted.plugin import getPlugins

    plugins = getPlugins(IStreamClientEndpointStringParserWithReactor)
    kinds = {*_NETWORK, "unix", *(plugin.prefix for plugin in plugins)}
    return None if match[1].lower() in kinds else match


@lru_cache(maxsize=1024)
def canonicalHost(host: str) -> str:
    """
    Write a host the one way that it is written everywhere: an IP address as
    L{canonicalAddress}, a name in lower case and without the dot of the root.

    @see: RFC 4343, on the case of names
    """
    return (
        host.lower().removesuffix(".")
        if _addressIn(host) is None
        else (canonicalAddress(host))
    )


@lru_cache(maxsize=1024)  # each connection asks several times
def canonicalAddress(host: str) -> str:
    """
    Write an IP address the one way that it is written everywhere; what is none is left
    alone.

    @see: RFC 5952, section 5 for IPv4 addresses within IPv6
    """
    address = _addressIn(host)
    if address is None:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    text = str(address) if mapped is None else f"::ffff:{mapped}"
    text += "".join(host.partition("%")[1:])
    return host if text == host else text  # one string less for each connection


def _addressIn(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is, without its zone, or None."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


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
    """Split an endpoint's string at its colons, and undo backslashes."""
    # Twisted's own parser is private.
    fields, position = [], 0
    while position <= len(endpoint):
        match = _FIELD.match(endpoint, position)
        end = match.end() if match else position
        fields.append(_ESCAPE.sub(r"\1", endpoint[position:end]))
        position = end + 1
    return fields


def _join(host: str, port: str) -> str:
    """Write host and port as one, an IPv6 address in brackets."""
    host = canonicalHost(host)
    port = str(int(port)) if port.isdecimal() else port
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def quoteLocation(location: str) -> str:
    """
    Write a location as one word of ASCII, for a line of a file.

    @param location: any printable text.
    @raise ValueError: it is empty, or has control, format or other characters that
        do not print.
    @see: RFC 3986 section 2.1
    """
    if not location or not location.isprintable():
        raise ValueError(f"a location is printable text, not {location!r}")
    return quote(location, safe=_PLAIN)


def unquoteLocation(word: str) -> str:
    """
    Read a location from a line of a file.

    @param word: as L{quoteLocation} or somebody's hand has written it.
    @raise ValueError: it is not percent-encoded UTF-8, or no location.
    """
    location = unquote(word, errors="strict")
    quoteLocation(location)  # as we would write it
    return canonicalLocation(location)


def canonicalLocation(location: str) -> str:
    """
    Write a location the one way that it is written everywhere, as L{locationOf} does;
    what is no host and port is left alone.
    """
    host, colon, port = location.rpartition(":")
    if colon and port.isdecimal() and not location.startswith("unix:"):
        return _join(host.removeprefix("[").removesuffix("]"), port)
    return location
