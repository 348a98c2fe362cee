"""
What C{twistd aesm} and C{aesm serve} run, once the options are found to be right::

    AESMService(reactor, factory, endpoints).setServiceParent(application)

It adds to a L{Server} what an operator needs: that a port in use is one line and
the end, what to type at a client, SIGHUP, the control socket, the status page, the
activity log, what systemd is told, no core dumps, and that a new process can take over
(L{aesm.server.handover}).
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import (
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    connectProtocol,
    quoteStringArgument,
)
from twisted.internet.error import ConnectError, ReactorNotRunning
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.commands.activity import ActivityFile
from aesm.commands.coredumps import dumpNoCore
from aesm.commands.systemd import Notifier
from aesm.secure.listening import canInherit, inheritedEndpoint, listenOn
from aesm.server.factory import AESMServerFactory
from aesm.server.handover import Predecessor
from aesm.server.service import Server, tellNotWritten
from aesm.status.actions import Actions
from aesm.status.control import ControlSocket
from aesm.status.overview import Overview
from aesm.text import escape

if TYPE_CHECKING:
    from aesm.status.site import StatusPage

_log = Logger(namespace="aesm.daemon")

EVERYWHERE = ("0.0.0.0", r"\:\:")  # where a port listens that any address reaches


class CannotListen(SystemExit, Exception):
    """The end of the process, with its status."""

    # twistd in the background tells who started it of an Exception only: one that is
    # none leaves that waiting for ever, and the pid file behind.  In the foreground
    # this is a SystemExit, without a traceback.

    def __str__(self) -> str:
        """Say what C{twistd} has room for."""
        return "the server cannot listen"


class AESMService(Service):
    """
    A server for operators, which ends the process if it cannot listen.

    @ivar failed: whether it could not listen, or not write all to its spool.
    """

    def __init__(
        self,
        reactor: Any,
        factory: AESMServerFactory,
        endpoints: Mapping[str, IStreamServerEndpoint],
        *,
        activityLog: ActivityFile | None = None,
        clientOptions: Sequence[str] = (),
        control: str | None = None,
        needsControl: bool = False,
        status: IStreamServerEndpoint | None = None,
        statusForAnyone: bool = False,
        handover: str | None = None,
        upgrade: bool = False,
    ) -> None:
        """
        @param endpoints: where to listen, by what the operator calls them.
        @param handover: the path of the UNIX socket at which a new process may take
            over; None if there is no spool.
        @param upgrade: whether to take over from the process that listens there.
        @param clientOptions: what a client must give beside the endpoint.
        @param control: the path of the control socket; None for none.
        @param needsControl: whether there is no server without it.
        @param status: where the status page is; None for none.
        @param statusForAnyone: whether other machines may see it.
        """
        self._reactor = reactor
        self._factory = factory
        self._activityLog = activityLog
        self._clientOptions = clientOptions
        self._endpoints = [_ReportingEndpoint(*each) for each in endpoints.items()]
        self.server = Server(*self._endpoints, factory=factory)
        cluster = factory.connections.ofCluster
        if cluster is not None:
            cluster.drained = partial(self._drain, 0.0, "drained by the cluster")
        self._control: ControlSocket | None = None
        if control is not None:
            actions = Actions(self.server, self._reload, self._drain)
            self._control = ControlSocket(reactor, control, actions, needsControl)
        self._page: StatusPage | None = None
        if status is not None:
            # Only here: a web server is much to load for who has no use for it.
            from aesm.status.site import StatusPage

            overview = Overview(self.server)
            self._page = StatusPage(reactor, status, overview, statusForAnyone)
        self._notifier = Notifier(reactor, self._describe)
        self._handover = handover
        self._isHeir = upgrade  # to somebody who is still there
        self._isReplaced = False
        self._predecessor: Predecessor | None = None
        self._inheriting: Deferred[Any] | None = None
        self._heirs: IListeningPort | None = None  # where they call
        self._successors = factory.successors(self)
        self._lent: list[Any] = []  # ports
        self.failed = False
        self._isStarting = True  # so that there is no reactor to be stopped
        self._formerHangUp: Any = None  # the handler of SIGHUP before ours

    def privilegedStartService(self) -> None:
        """Heed SIGHUP and listen, before C{twistd} gives away what rights it has."""
        # Before it listens: whoever sees the port may send one, and nobody has asked
        # for it to be the end.
        if self._formerHangUp is None:
            self._formerHangUp = signal.signal(signal.SIGHUP, self._hungUp)
        if self._activityLog is not None:
            globalLogPublisher.addObserver(self._activityLog)
        if self._isHeir:
            self._inheriting = self._inherit()
            starting = self._inheriting.addCallback(lambda nothing: self.server.start())
            starting.addCallbacks(self._cbListening, self._ebCannotListen)
        else:
            self._openForOperators().addErrback(self._ebCannotListen)
            if not self.failed:
                starting = self.server.start()
                starting.addCallbacks(self._cbListening, self._ebCannotListen)
        # Ports fail to listen at once, and twistd would go into the background and
        # run the reactor all the same; other endpoints may take their time, and a
        # reactor that runs by then is stopped.
        self._isStarting = False
        if self.failed:
            self._heedNoHangUp()
            self._closeForOperators()
            # Ports are closed, and what UNIX sockets are called is removed, in the
            # reactor's next turn: it has none but this.
            self._reactor.iterate(0)
            raise CannotListen(1)

    def startService(self) -> None:
        """Heed SIGHUP and listen, unless that is done."""
        # Not earlier: when twistd gives away its rights the system forgets this.
        dumpNoCore()
        if not self.server.running and self._inheriting is None:
            self.privilegedStartService()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when all clients are gone, which is bounded in time."""
        super().stopService()
        self._notifier.stopping(self._factory.draining.time())
        if self._inheriting is not None:
            self._inheriting.cancel()
            self._inheriting = None
        self._acceptNobody()
        if self._heirs is not None:
            self._heirs.stopListening()
            self._heirs = None
        stopped = self.server.stop()
        stopped.addErrback(self._ebNotWritten)
        # Behind the clients: until then one may ask how far it is.
        stopped.addCallback(self._closeForOperators)
        return stopped.addCallback(self._cbStopped)

    # Host, for a successor

    def lend(self) -> list[dict[str, Any]]:
        """Have the sockets used by another process, too."""
        self._lent = self.server.lend()
        if self._activityLog is not None:
            self._activityLog.reopen()  # what the new process goes on in
        return [
            {
                "endpoint": endpoint.text,
                "family": int(endpoint.port.socket.family),
                "descriptor": endpoint.port.socket.fileno(),
            }
            for endpoint in self._endpoints
            if canInherit(endpoint.text)
        ]

    def pause(self) -> Deferred[None]:
        """Accept nobody any more, and leave operators to the new process."""
        self._acceptNobody()
        return self._closeForOperators()

    def _acceptNobody(self) -> None:
        """Leave whoever comes to the process that has the sockets, too."""
        for port in self._lent:
            port.stopReading()

    def resume(self) -> None:
        """Accept again."""
        ports, self._lent = self._lent, []
        self.server.takeBack(ports)
        for port in ports:
            port.startReading()
        self._openForOperators().addErrback(self._ebNotOpened)

    def retire(self) -> None:
        """End."""
        self._isReplaced = True
        self._reactor.stop()

    # Heir

    def _inherit(self) -> Deferred[None]:
        """Take over from the process that runs, if any; fires when we can listen."""
        predecessor = self._predecessor = self._factory.predecessor(self._gone)
        endpoint = UNIXClientEndpoint(self._reactor, cast(str, self._handover))
        connecting: Deferred[Any] = connectProtocol(endpoint, predecessor)
        return connecting.addCallbacks(
            lambda protocol: protocol.takeOver().addCallbacks(
                self._cbInherited, self._ebNothing
            ),
            self._ebNobody,
        )

    def _cbInherited(self, sockets: list[dict[str, Any]]) -> None:
        """Listen where we inherit from the process that runs."""
        lent = {each["endpoint"]: each for each in sockets}
        for endpoint in self._endpoints:
            each = lent.pop(endpoint.text, None)
            if each is not None:
                endpoint.inherit(
                    inheritedEndpoint(
                        self._reactor,
                        endpoint.text,
                        each["family"],
                        each["descriptor"],
                    )
                )
        for each in lent.values():
            os.close(each["descriptor"])

    def _ebNobody(self, failure: Failure) -> Deferred[None]:
        """Nobody is there from whom to take over."""
        failure.trap(ConnectError)
        _log.info("no server runs from which to take over: this one begins")
        self._isHeir = False
        return self._openForOperators()

    def _ebNothing(self, failure: Failure) -> Failure:
        """We inherit nothing."""
        _log.critical("cannot take over: {reason}", reason=failure.getErrorMessage())
        return failure

    def _gone(self, isOurs: bool) -> None:
        """The former process is gone, whether we have taken over from it or not."""
        self._isHeir = False
        if isOurs:
            self._awaitHeirs()
        elif self.running and not self.failed:
            _log.critical("the running server has broken off: this one ends")
            self._reactor.stop()

    def _awaitHeirs(self) -> None:
        """Let a new process take over from this one."""
        if self._handover is None or not self.running:
            return
        endpoint = UNIXServerEndpoint(
            self._reactor, self._handover, mode=0o600, wantPID=True
        )
        listening = listenOn(endpoint, self._successors)
        listening.addCallbacks(self._cbHeirs, self._ebNoHeirs)

    def _cbHeirs(self, port: IListeningPort) -> None:
        """Remember where heirs call."""
        self._heirs = port

    def _ebNoHeirs(self, failure: Failure) -> None:
        """Go on without heirs."""
        _log.warn(
            "no new process can take over from this one: {reason}",
            reason=escape(failure.getErrorMessage()),
        )

    # Parts

    def _cbListening(self, server: Server) -> None:
        """Begin the activity log, and tell who has to know that we listen."""
        if self._activityLog is not None:
            self._activityLog.started(upgrade=self._isHeir)
        self._inheriting = None
        if self._isHeir and self._predecessor is not None:
            accepting = self._predecessor.accepting()
            accepting.addCallbacks(self._cbAccepting, self._ebBrokenOff)
        else:
            self._reactor.callWhenRunning(self._awaitHeirs)
        for endpoint in self._endpoints:
            if endpoint.text.startswith("websocket:"):
                continue  # none that is started in a terminal
            line = clientLine(
                endpoint.port.getHost(), str(server.publicKey), self._clientOptions
            )
            if line is not None:
                # Not before: who starts us waits for this line, and may send a
                # signal then.  Twisted heeds SIGTERM by now; until then it kills the
                # process.
                self._reactor.callWhenRunning(
                    _log.info, "clients connect with: {line}", line=line
                )
        self._reactor.callWhenRunning(self._ready)

    def _ready(self) -> None:
        """Say that all endpoints listen, unless the server is stopped by now."""
        if self.server.running:
            self._notifier.ready()

    def _cbAccepting(self, answer: object) -> None:
        """Operators ask the former process no more, but this one."""
        self._openForOperators().addErrback(self._ebNotOpened)

    def _ebBrokenOff(self, failure: Failure) -> None:
        """What follows from that is for C{_gone}."""

    def _ebCannotListen(self, failure: Failure) -> None:
        """End the server, unless that is why it does not listen."""
        if not failure.check(CancelledError):
            self.failed = True
            if not self._isStarting:
                self._reactor.stop()

    def _hungUp(self, number: int, frame: object) -> None:
        """Read the authorized keys again, and open the activity log anew."""
        # A signal comes between any two instructions, and the factory may be at work.
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        """Do what SIGHUP asks for."""
        self._notifier.reloading()
        if self._activityLog is not None:
            self._activityLog.reopen()
        self._factory.reloadKeys()
        self._notifier.reloaded()

    def _describe(self) -> str:
        """Say how the server is doing, for C{systemctl status}."""
        return (
            f"connections: {len(self._factory.connections)}, of which "
            f"{self._factory.waiting} wait for their clients to come back"
        )

    def _drain(self, over: float, reason: str) -> None:
        """End the server, clients first, as L{aesm.status.actions.Drain}."""
        self._notifier.stopping(self._factory.draining.time(over))
        drained = self.server.stop(reason, spread=over)
        drained.addErrback(self._ebNotWritten)
        drained.addCallback(self._cbDrained)

    def _cbDrained(self, result: object) -> None:
        """End the process, unless it does."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _openForOperators(self) -> Deferred[None]:
        """Open the control socket and the status page; the log says why not."""
        opening = [each.open() for each in (self._control, self._page) if each]
        opened = gatherResults(opening, consumeErrors=True)
        return opened.addCallback(lambda results: None)

    def _ebNotOpened(self, failure: Failure) -> None:
        """Go on all the same: clients are there, and the log has said why."""

    def _closeForOperators(self, result: object = None) -> Deferred[None]:
        """Close them; fires when all who are there have their answers."""
        closing = [each.close() for each in (self._control, self._page) if each]
        return gatherResults(closing).addCallback(lambda results: None)

    def _heedNoHangUp(self) -> None:
        """Leave SIGHUP to whom it was."""
        if self._formerHangUp is not None:
            signal.signal(signal.SIGHUP, self._formerHangUp)
            self._formerHangUp = None

    def _ebNotWritten(self, failure: Failure) -> None:
        """Say that the spool, or the engine, lacks something, and take note."""
        tellNotWritten(failure)
        self.failed = True

    def _cbStopped(self, result: object) -> None:
        """End the activity log, behind the last client."""
        for other in (self._successors, self._predecessor):
            if other is not None:
                other.end()
        # Not earlier: a SIGHUP while clients are told would be a sudden end.
        self._heedNoHangUp()
        self._notifier.stopped()
        if self._activityLog is not None:
            globalLogPublisher.removeObserver(self._activityLog)
            self._activityLog.ended(upgrade=self._isReplaced)


def clientLine(address: IAddress, publicKey: str, options: Sequence[str]) -> str | None:
    """
    Write what to type at a client.

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
    """An endpoint that says why it cannot listen, and keeps what listens."""

    def __init__(self, text: str, endpoint: IStreamServerEndpoint) -> None:
        self.port: Any
        self.text = text
        self._endpoint = endpoint

    def inherit(self, endpoint: IStreamServerEndpoint) -> None:
        """Listen at another endpoint, which has the socket already."""
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen."""
        listening = listenOn(self._endpoint, protocolFactory)
        return listening.addCallbacks(self._cbListening, self._ebCannotListen)

    def _cbListening(self, port: IListeningPort) -> IListeningPort:
        """Take note of the port."""
        self.port = port
        return port

    def _ebCannotListen(self, failure: Failure) -> Failure:
        """Say why it cannot listen, unless it was told not to."""
        if not failure.check(CancelledError):
            _log.critical(
                "cannot listen on {endpoint}: {reason}; name another endpoint with "
                "--listen, or end what uses this one",
                endpoint=self.text,
                reason=escape(failure.getErrorMessage()).rstrip("."),
            )
        return failure
