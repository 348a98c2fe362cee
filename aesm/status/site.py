"""
The status page, over HTTP::

    page = StatusPage(reactor, "tcp:9100:interface=127.0.0.1", overview)
    page.open()
    page.close()

    /                  for people
    /metrics           for Prometheus
    /connections.json  for programs
    /healthz           for load balancers and supervisors

It only tells: there is nothing to be done here that changes the server.  It tells who
may reach it, who asks nothing more of them; so it is for this machine, and a browser of
this machine is not to be led here by a stranger's page (DNS rebinding), which is why it
looks at the host that it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from itertools import chain

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.template import flatten

from aesm.messages.address import addressOf, addressText
from aesm.secure.listening import listenOn
from aesm.status.metrics import CONTENT_TYPE, exposition
from aesm.status.overview import Overview
from aesm.status.page import STYLE, statusPage
from aesm.status.pieces import Pieces, joined
from aesm.text import asciiJSON, escape

_log = Logger(namespace="aesm.status")

MAX_CLIENTS = 64  # connections at a time
PATIENCE = 30  # seconds for a request
SHOWN = 100  # connections on the page
MAX_BODY = 65_536  # bytes that are read only to be thrown away

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "aesm",
    "X-Content-Type-Options": "nosniff",
}
_TEXT = "text/plain; charset=utf-8"
_LATER: int = NOT_DONE_YET  # which Twisted does not annotate


class StatusPage:
    """Where the status page is."""

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamServerEndpoint,
        overview: Overview,
        anyone: bool = False,
    ) -> None:
        """@param anyone: whether other machines may ask, too."""
        self._endpoint = endpoint
        self._anyone = anyone
        self._site = StatusSite(reactor, overview, anyone)
        self._port: IListeningPort | None = None

    def open(self) -> Deferred[None]:
        """Listen; fires once it does, or fails, and the log says why."""
        if self._port is not None:  # a process that was not replaced after all
            return succeed(None)
        opening = listenOn(self._endpoint, self._site).addCallback(self._cbListening)
        return opening.addErrback(self._ebCannotListen)

    def _cbListening(self, port: IListeningPort) -> None:
        """Take note of the port, unless strangers would reach it."""
        address = port.getHost()
        if not self._anyone and not _isPrivate(address):
            port.stopListening()
            raise ValueError(
                f"other machines reach {addressText(addressOf(address, 0))}, and it "
                "asks nobody who they are; give it interface=127.0.0.1, or say "
                "--status-anyone, too"
            )
        self._port = port
        if isinstance(address, IPv4Address | IPv6Address):
            host = f"[{address.host}]" if ":" in address.host else address.host
            _log.info("status page at http://{at}/", at=f"{host}:{address.port}")

    def _ebCannotListen(self, failure: Failure) -> Failure:
        """Say why there is none."""
        _log.critical(
            "no status page: {reason}",
            reason=escape(failure.getErrorMessage()).rstrip("."),
        )
        return failure

    def close(self) -> Deferred[None]:
        """Be there no more; fires when somebody else can listen there."""
        port, self._port = self._port, None
        for protocol in list(self._site.protocols):
            protocol.abortConnection()
        if port is None:
            return succeed(None)
        closed = maybeDeferred(port.stopListening)
        return closed.addCallback(lambda nothing: None)


def _isPrivate(address: IAddress) -> bool:
    """Tell whether only this machine reaches what listens at an address."""
    if isinstance(address, IPv4Address | IPv6Address):
        return ip_address(address.host).is_loopback
    return isinstance(address, UNIXAddress)


class _Request(Request):
    """A request whose body nobody reads."""

    def gotLength(self, length: int | None) -> None:
        """Hang up if there is much of it, or nobody knows how much."""
        super().gotLength(0)
        if length is None or length > MAX_BODY:
            self.loseConnection()

    def handleContentChunk(self, data: bytes) -> None:
        """Keep nothing of it."""


class StatusSite(WrappingFactory):
    """What listens."""

    noisy = False

    def __init__(
        self, clock: IReactorTime, overview: Overview, anyone: bool = False
    ) -> None:
        """@param anyone: whether to answer by whatever name it is asked for."""
        resource = _Resource(overview, anyone)
        site = Site(resource, _Request, timeout=PATIENCE, reactor=clock)
        site.log = _logNothing  # type: ignore[method-assign]
        site.noisy = False
        super().__init__(site)

    def buildProtocol(  # type: ignore[override]  # None is what Factory's may return
        self, addr: IAddress | None
    ) -> ProtocolWrapper | None:
        """@return: for one client; None if there are too many."""
        if len(self.protocols) >= MAX_CLIENTS:
            return None
        return super().buildProtocol(addr)


def _logNothing(request: HTTPRequest) -> None:
    """Write no line for each scrape."""


class _Resource(Resource):
    """All that there is."""

    isLeaf = True

    def __init__(self, overview: Overview, anyone: bool) -> None:
        super().__init__()
        self._overview = overview
        self._anyone = anyone
        self._pages: dict[bytes, Callable[[Request], int]] = {
            b"/": self._page,
            b"/style.css": self._style,
            b"/metrics": self._metrics,
            b"/connections.json": self._connections,
            b"/healthz": self._health,
        }

    def render(self, request: Request) -> int:
        """Answer."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        if not self._isForUs(request):
            return _say(
                request,
                421,
                "ask for it by a name of this machine, such as localhost, or start "
                "the server with --status-anyone",
            )
        page = self._pages.get(request.path)
        if page is None:
            return _say(request, 404, "there is no such page; / has them all")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return _say(request, 405, "there is nothing to be done here, only told")
        return page(request)

    def _isForUs(self, request: Request) -> bool:
        """Tell whether a request names this machine as everybody may who is on it."""
        if self._anyone or isinstance(request.getHost(), UNIXAddress):
            return True
        host = request.getRequestHostname().decode("ascii", "replace").strip("[]")
        try:
            return host.lower() == "localhost" or ip_address(host).is_loopback
        except ValueError:
            return False

    def _page(self, request: Request) -> int:
        """Show it to people."""
        query = _argument(request, b"q")
        overview = self._overview
        found = overview.find(query) if query else overview.lagging(SHOWN)
        page = statusPage(
            overview.totals(),
            list(overview.rows(found[:SHOWN])),
            query=query,
            paused=_argument(request, b"refresh") == "off",
        )
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        pieces = [b"<!DOCTYPE html>\n"]
        flattened: Deferred[None] = flatten(request, page, pieces.append)
        flattened.addCallback(lambda done: _send(request, b"".join(pieces)))
        flattened.addErrback(request.processingFailed)
        return _LATER

    def _style(self, request: Request) -> int:
        """Give the page its looks."""
        request.setHeader("Content-Type", "text/css; charset=utf-8")
        request.setHeader("Cache-Control", "max-age=3600")
        return _send(request, STYLE.encode("ascii"))

    def _metrics(self, request: Request) -> int:
        """Tell Prometheus."""
        request.setHeader("Content-Type", CONTENT_TYPE)
        return _send(request, exposition(self._overview.totals()).encode("ascii"))

    def _connections(self, request: Request) -> int:
        """Tell programs."""
        request.setHeader("Content-Type", "application/json")
        overview = self._overview
        rows = map(asciiJSON, overview.rows(overview.all()))
        beginning = f'{{"server": {asciiJSON(overview.totals())}, "connections": ['
        pieces = chain([beginning], joined(rows), ["]}\n"])
        if request.method == b"HEAD":
            return _send(request, b"")
        finish = partial(_finish, request)
        request.registerProducer(Pieces(pieces, request.write, finish), False)
        return _LATER

    def _health(self, request: Request) -> int:
        """Tell who starts servers, and sends clients to them."""
        totals = self._overview.totals()
        if totals["stopping"]:
            return _say(request, 503, "stopping")
        if not totals["listening"]:
            return _say(request, 503, "not listening")
        for store in ("spool", "cluster"):
            if totals[store] is not None and totals[store]["failure"] is not None:
                reason = escape(totals[store]["failure"])
                return _say(request, 503, f"the {store} cannot be written: {reason}")
        return _say(request, 200, "ok")


def _finish(request: Request) -> None:
    """End an answer that was written in pieces."""
    request.unregisterProducer()
    request.finish()


def _argument(request: Request, name: bytes) -> str:
    """Read what a form sends."""
    arguments: dict[bytes, list[bytes]] = request.args or {}
    return arguments.get(name, [b""])[0].decode("utf-8", "replace").strip()


def _say(request: Request, code: int, text: str) -> int:
    """Answer in a line."""
    request.setResponseCode(code, b"Misdirected Request" if code == 421 else None)
    request.setHeader("Content-Type", _TEXT)
    return _send(request, f"{text}\n".encode())


def _send(request: Request, body: bytes) -> int:
    """Answer."""
    request.setHeader("Content-Length", str(len(body)))
    if request.method != b"HEAD":
        request.write(body)
    request.finish()
    return _LATER
