"""
What C{twistd aesm} runs, once its options are found to be right::

    AESMService(reactor, factory, endpoints).setServiceParent(application)

It adds to a L{Server} what an operator needs: that a port in use is one line and
the end, what to type at a client, SIGHUP, and the activity log.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import FileLogObserver, LogEvent, Logger, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.errors import SpoolError
from aesm.server.factory import AESMServerFactory
from aesm.server.service import Server
from aesm.text import escape

__all__ = ["AESMService", "activityLine", "clientLine"]

_log = Logger(namespace="aesm.daemon")

EVERYWHERE = ("0.0.0.0", r"\:\:")  # where a port listens that any address reaches
ACTIVITY_FIELDS = ("time", "event", "accepted", "address", "peer", "reason")


class AESMService(Service):
    """
    A server for operators, which ends the process if it cannot listen.

    @ivar server: the server.
    """

    def __init__(
        self,
        reactor: Any,
        factory: AESMServerFactory,
        endpoints: Mapping[str, IStreamServerEndpoint],
        *,
        activityLog: TextIO | None = None,
        clientOptions: Sequence[str] = (),
    ) -> None:
        """
        @param reactor: what the server runs in.
        @param factory: of its connections.
        @param endpoints: where to listen, by what the operator calls them.
        @param activityLog: where clients' coming and going is written to.
        @param clientOptions: what a client must give beside the endpoint.
        """
        self._reactor = reactor
        self._factory = factory
        self._activityLog = activityLog
        self._clientOptions = clientOptions
        self._places = [_ReportingEndpoint(*place) for place in endpoints.items()]
        self.server = Server(*self._places, factory=factory)
        self._failed = False  # to listen
        self._late = False  # whether the reactor has to be stopped for that
        self._hangUp: Any = None  # the former handler of SIGHUP
        self._activity: FileLogObserver | None = None

    def privilegedStartService(self) -> None:
        """
        Listen, before C{twistd} gives away what rights it has.

        @raise SystemExit: it cannot listen somewhere; the log says why.
        """
        if self._activityLog is not None:
            self._activity = FileLogObserver(self._activityLog, activityLine)
            globalLogPublisher.addObserver(self._activity)
        starting = self.server.start()
        starting.addCallbacks(self._cbListening, self._ebCannotListen)
        self._late = True
        if self._failed:
            raise SystemExit(1)

    def startService(self) -> None:
        """
        Listen, unless that is done, and heed SIGHUP.

        @raise SystemExit: it cannot listen somewhere; the log says why.
        """
        if not self.server.running:
            self.privilegedStartService()
        super().startService()
        self._hangUp = signal.signal(signal.SIGHUP, self._hungUp)

    def stopService(self) -> Deferred[None]:
        """
        Stop in order.

        @return: fires when all clients are gone, which is bounded in time.
        """
        super().stopService()
        if self._hangUp is not None:
            signal.signal(signal.SIGHUP, self._hangUp)
            self._hangUp = None
        stopped = self.server.stop()
        stopped.addErrback(Failure.trap, SpoolError)  # it was logged
        return stopped.addCallback(self._cbStopped)

    def _cbListening(self, server: Server) -> None:
        """
        Have clients told where to find the server, once the reactor runs.
        """
        for place in self._places:
            line = clientLine(
                place.port.getHost(), str(server.publicKey), self._clientOptions
            )
            if line is not None:
                # Not before: who starts us waits for this line, and may send a
                # signal then.  Twisted and startService heed those by now; until
                # then SIGTERM and SIGHUP kill the process.
                self._reactor.callWhenRunning(
                    _log.info, "clients connect with: {line}", line=line
                )

    def _ebCannotListen(self, failure: Failure) -> None:
        """
        End the server, unless that is why it does not listen.

        @param failure: has been logged.
        """
        if not failure.check(CancelledError):
            self._failed = True
            if self._late:
                self._reactor.stop()

    def _hungUp(self, number: int, frame: object) -> None:
        """
        Read the authorized keys again.

        @param number: the signal's.
        @param frame: where it came.
        """
        self._reactor.callFromThread(self._factory.reloadKeys)

    def _cbStopped(self, result: object) -> None:
        """
        Close the activity log, behind the last client.

        @param result: nothing.
        """
        if self._activity is not None:
            globalLogPublisher.removeObserver(self._activity)


def activityLine(event: LogEvent) -> str | None:
    """
    Write an entry of the activity log for C{--activity-log}.

    @param event: anything that is logged.
    @return: a line of JSON, or None if the event is none.
    """
    if event.get("log_namespace") != "aesm.activity" or "event" not in event:
        return None
    return json.dumps({field: event[field] for field in ACTIVITY_FIELDS}) + "\n"


def clientLine(address: IAddress, publicKey: str, options: Sequence[str]) -> str | None:
    """
    Write what to type at a client.

    @param address: where a port listens.
    @param publicKey: the server's.
    @param options: more that a client must give.
    @return: a line for a shell, with C{HOST} for the host if the port listens on
        all addresses; None if clients do not connect to what it listens on.
    """
    if isinstance(address, IPv4Address | IPv6Address):
        host = quoteStringArgument(address.host)
        endpoint = f"tcp:{'HOST' if host in EVERYWHERE else host}:{address.port}"
    elif isinstance(address, UNIXAddress) and address.name is not None:
        path = os.path.abspath(os.fsdecode(address.name))
        endpoint = f"unix:{quoteStringArgument(path)}"
    else:
        return None
    command = ["aesm", "connect", endpoint, *options, "--pin", publicKey]
    return shlex.join(command)


@implementer(IStreamServerEndpoint)
class _ReportingEndpoint:
    """
    An endpoint that says why it cannot listen.

    @ivar port: what listens, once it does.
    """

    def __init__(self, text: str, endpoint: IStreamServerEndpoint) -> None:
        """
        @param text: what the operator calls it.
        @param endpoint: the endpoint.
        """
        self.port: IListeningPort
        self._text = text
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen.

        @param protocolFactory: builds the protocols.
        @return: as the endpoint.
        @see: C{twisted.internet.interfaces.IStreamServerEndpoint}
        """
        listening = maybeDeferred(self._endpoint.listen, protocolFactory)
        return listening.addCallbacks(self._cbListening, self._ebCannotListen)

    def _cbListening(self, port: IListeningPort) -> IListeningPort:
        """
        Take note of the port.

        @param port: what listens.
        @return: the same.
        """
        self.port = port
        return port

    def _ebCannotListen(self, failure: Failure) -> Failure:
        """
        Say why it cannot listen, unless it was told not to.

        @param failure: why.
        @return: the same.
        """
        if not failure.check(CancelledError):
            _log.critical(
                "cannot listen on {endpoint}: {reason}; name another endpoint with "
                "--listen, or end what uses this one",
                endpoint=self._text,
                reason=escape(failure.getErrorMessage()).rstrip("."),
            )
        return failure
