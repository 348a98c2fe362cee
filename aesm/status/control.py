"""
The control socket of a server: where its operator asks what goes on, and has things
done, as L{aesm.status.actions} does them.  docs/operating.md describes it for
programs::

    control = ControlSocket(reactor, path, actions, needed=False)
    control.open()
    control.close()

Requests and answers are JSON, an object a line.  Whoever may open the socket may do all
of it: its owner, and root.  An answer that is long is written as it is taken, a piece
in each turn of the event loop, so that neither a slow reader nor thousands of
connections hold up anybody.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger, LogLevel
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from aesm.secure.listening import listenOn
from aesm.status.actions import CannotDo, Operator
from aesm.status.pieces import Pieces
from aesm.text import escape
from aesm.trust.files import checkDirectory

_log = Logger(namespace="aesm.control")

MAX_LINE = 8192  # bytes of a request
MAX_CLIENTS = 16  # that are connected at a time
PATIENCE = 60.0  # seconds for the next request, or to take a piece of an answer
CLOSING = 1.0  # seconds to take what is left of an answer when the server ends
_CREDENTIALS = struct.Struct("3i")  # of unix(7): pid, uid, gid


class Performer(Interface):
    """What does what is asked for."""

    def perform(self, by: Operator, request: object) -> Iterator[str]:
        """
        Do it.

        @return: the answer, in pieces.
        @raise CannotDo: that is not possible.
        """


class ControlProtocol(LineReceiver, TimeoutMixin):
    """Answers one operator's requests, one after the other."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE
    transport: Any
    factory: ControlFactory

    def callLater(self, delay: float, function: Any, *arguments: Any) -> Any:
        """Keep time by the server's clock, for C{TimeoutMixin}."""
        return self.factory.clock.callLater(delay, function, *arguments)

    def connectionMade(self) -> None:
        """Wait for a request, unless too many do."""
        self.setTimeout(PATIENCE)
        if not self.factory.entered(self):
            self._end(f"there are {MAX_CLIENTS} others here: end some of them")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Forget it."""
        self.setTimeout(None)
        self.factory.left(self)

    def timeoutConnection(self) -> None:
        """Cut off who says, or takes, nothing."""
        self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        """Answer a request; the next one waits meanwhile."""
        try:
            pieces = self.factory.actions.perform(self._operator(), json.loads(line))
        except (ValueError, RecursionError):
            pieces = _error("a request is an object of JSON, on a line of its own")
        except CannotDo as error:
            pieces = _error(str(error))
        self.pauseProducing()
        answer = Pieces(chain(pieces, ["\n"]), self._write, self._answered)
        self.transport.registerProducer(answer, False)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse what is no request."""
        self._end(f"a request has at most {MAX_LINE} bytes")

    def _write(self, data: bytes) -> None:
        """Write a piece of an answer, since those before it are taken."""
        self.resetTimeout()
        self.transport.write(data)

    def _answered(self) -> None:
        """An answer is written and taken: go on with the next request."""
        self.resetTimeout()
        self.transport.unregisterProducer()
        self.resumeProducing()

    def _end(self, why: str) -> None:
        """Say why not, and no more."""
        self.transport.write("".join([*_error(why), "\n"]).encode("ascii"))
        self.transport.loseConnection()

    def _operator(self) -> Operator:
        """Ask the system who is at the other end."""
        if not hasattr(socket, "SO_PEERCRED"):
            return Operator(None, None)
        peer = self.transport.getHandle().getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, uid, _ = _CREDENTIALS.unpack(peer)
        return Operator(uid, pid)


class ControlFactory(Factory):
    """Those who are at the control socket; C{actions} does what they ask for."""

    noisy = False

    def __init__(self, clock: IReactorTime, actions: Performer) -> None:
        self.clock = clock
        self.actions = actions
        self._clients: dict[ControlProtocol, None] = {}
        self._gone: list[Deferred[None]] = []  # fire once nobody is there

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """@return: for one operator."""
        protocol = ControlProtocol()
        protocol.factory = self
        return protocol

    def entered(self, client: ControlProtocol) -> bool:
        """Count one, if there is room."""
        self._clients[client] = None
        return len(self._clients) <= MAX_CLIENTS

    def left(self, client: ControlProtocol) -> None:
        """Count one no more."""
        del self._clients[client]
        if not self._clients:
            while self._gone:
                self._gone.pop().callback(None)

    def end(self) -> Deferred[None]:
        """Send all away, once they have their answers, in a bounded time."""
        if not self._clients:
            return succeed(None)
        for client in list(self._clients):
            client.transport.loseConnection()
        gone: Deferred[None] = Deferred(self._gone.remove)
        self._gone.append(gone)
        return gone.addTimeout(CLOSING, self.clock, self._abortAll)

    def _abortAll(self, cancelled: object, timeout: float) -> None:
        """Wait no longer for anybody."""
        for client in list(self._clients):
            client.transport.abortConnection()


class ControlSocket:
    """Where operators come in."""

    def __init__(
        self, reactor: Any, path: str, actions: Performer, needed: bool
    ) -> None:
        """@param needed: whether it is an error if it cannot be."""
        self._reactor = reactor
        self._path = Path(path)
        self._needed = needed
        self._factory = ControlFactory(reactor, actions)
        self._port: IListeningPort | None = None

    def open(self) -> Deferred[None]:
        """
        Listen; a socket that a killed server has left is taken over, one of a server
        that runs is not.

        @return: fires once it listens, or if it cannot and is not needed; fails if it
            is. The log says why.
        """
        if self._port is not None:  # a process that was not replaced after all
            return succeed(None)
        # Another server of the same user has the same default.  That need not keep it
        # from running; whoever names a socket wants that one.
        opening = maybeDeferred(self._listen)
        return opening.addCallbacks(self._cbListening, self._ebCannotListen)

    def _listen(self) -> Deferred[IListeningPort]:
        """Listen, where others cannot put something else in the socket's place."""
        checkDirectory(self._path.parent)
        endpoint = UNIXServerEndpoint(
            self._reactor, os.fspath(self._path), mode=0o600, wantPID=True
        )
        return listenOn(endpoint, self._factory)

    def _cbListening(self, port: IListeningPort) -> None:
        """Take note of the port."""
        self._port = port

    def _ebCannotListen(self, failure: Failure) -> Failure | None:
        """Say that there is no socket, and what to do about it."""
        _log.emit(
            LogLevel.critical if self._needed else LogLevel.warn,
            "no control socket {path}: {reason}; if another server has it, give this "
            "one its own with --control PATH, or none with --no-control",
            path=escape(os.fspath(self._path)),
            reason=escape(failure.getErrorMessage()).rstrip("."),
        )
        return failure if self._needed else None

    def close(self) -> Deferred[None]:
        """Remove the socket, and send away who is there, in a bounded time."""
        port, self._port = self._port, None
        closed = None if port is None else maybeDeferred(port.stopListening)
        ended = self._factory.end()
        return ended if closed is None else closed.addCallback(lambda nothing: ended)


def _error(why: str) -> Iterator[str]:
    """Make the answer to what was not done."""
    return iter([json.dumps({"error": why})])
