"""
Listening, with room for all who come at once, and also where a server that was killed
has left its UNIX socket::

    endpoint = serverEndpoint(reactor, "tcp:8765")
    port = await listenOn(endpoint, factory)

Twisted's lock beside the socket names the process that has it.  That of a process that
is gone Twisted takes over by itself; but one that names ourselves, as in a container
where the server always has the same PID, or another program that has got the PID since,
would keep the server from starting for ever.  So whether anybody listens is asked at
the socket itself.

A server that takes over from a running one listens on the same sockets; C{canInherit}
says where that is possible::

    endpoint = inheritedEndpoint(reactor, "tcp:8765", socket.AF_INET, descriptor)

Several processes may listen on one port, each with a socket of its own::

    endpoint = ReusePortEndpoint(reactor, 8765)

When no file is free, Twisted closes those who come, with a line for each.  That is told
by our factories instead, which count and thin out what they say of strangers.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import time
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.protocols.haproxy import proxyEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from aesm.secure.factory import SecureFactory
from aesm.secure.refusals import Kind, Refused

_log = Logger(namespace="aesm.secure")

BACKLOG = 1024  # connections that wait to be accepted; Twisted's default is 50
_QUEUE = re.compile(r"^((?:haproxy:)?(?:tcp|tcp6|ssl|unix):)")
_PLAIN = re.compile(
    r"^(websocket:)?((haproxy:)?(tcp|tcp6|unix|systemd|reuseport):|(?<=:)\d+)"
)
_PORT = re.compile(
    r"(?:haproxy:)?(?:tcp6?|ssl):(?:(?:.*:)?port=)?(-?[0-9]+)(?::|$)", re.DOTALL
)
STARTUP = 1.0  # seconds in which a server that has its socket's name listens at it


def serverEndpoint(reactor: object, text: str) -> IStreamServerEndpoint:
    """
    Parse a server endpoint's string; where it does not say how many connections may
    wait to be accepted, all clients of a server that was started again may.

    @raise ValueError: its port is none, which Twisted would say when it listens.
    @see: C{twisted.internet.endpoints.serverFromString}
    """
    port = _PORT.match(text)
    if port is not None and not 0 <= int(port[1]) < 1 << 16:
        raise ValueError(f"a port is 0 to 65535, not {port[1]}")
    # Of two values the last one counts, and that is not ours.
    with suppress(TypeError):  # it has one that is not named
        given = _QUEUE.sub(rf"\1backlog={BACKLOG}:", text)
        return IStreamServerEndpoint(serverFromString(reactor, given))
    return IStreamServerEndpoint(serverFromString(reactor, text))


def canInherit(text: str) -> bool:
    """
    Tell whether another process can listen on the same socket, by what an endpoint's
    string says: that nothing is between it and our factory but what we can put there.
    """
    return _PLAIN.match(text) is not None


def inheritedEndpoint(
    reactor: Any, text: str, family: int, descriptor: int
) -> IStreamServerEndpoint:
    """
    Make an endpoint of a socket that another process listens on, and may go on to.

    @param text: that process's string for it, for which C{canInherit} is true.
    @param family: the socket's.
    @param descriptor: the socket, which is ours.
    """
    kind, _, rest = text.partition(":")
    if kind == "websocket":
        inside = inheritedEndpoint(reactor, rest, family, descriptor)
        given: Any = serverEndpoint(reactor, text)
        return IStreamServerEndpoint(given.around(inside))
    endpoint = _InheritedEndpoint(reactor, family, descriptor)
    if kind == "haproxy":
        return IStreamServerEndpoint(proxyEndpoint(endpoint))
    return endpoint


class _InheritedPort(unix.Port):
    """A UNIX socket that is not ours alone: others use it, and its name, further."""

    _shouldShutdown = False  # as with adoptStreamPort, of TCP

    def connectionLost(self, reason: Failure) -> None:
        """It is closed."""
        tcp.Port.connectionLost(self, reason)


@implementer(IStreamServerEndpoint)
class _InheritedEndpoint:
    """A socket that listens already."""

    def __init__(self, reactor: Any, family: int, descriptor: int) -> None:
        """@param descriptor: is ours."""
        self._reactor = reactor
        self._family = family
        self._descriptor = descriptor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen."""
        descriptor = self._descriptor
        os.set_inheritable(descriptor, False)
        if self._family == socket.AF_UNIX:
            # As adoptStreamPort, which would open the socket to everybody, though.
            port = _InheritedPort._fromListeningDescriptor(
                self._reactor, descriptor, protocolFactory
            )
            with socket.socket(fileno=os.dup(descriptor)) as asking:
                mode = os.stat(asking.getsockname()).st_mode
            if stat.S_ISSOCK(mode):
                port.mode = stat.S_IMODE(mode)
            port.backlog = BACKLOG
            port.startListening()
        else:
            port = self._reactor.adoptStreamPort(
                descriptor, self._family, protocolFactory
            )
        os.close(descriptor)
        return succeed(port)


@implementer(IStreamServerEndpoint)
class ReusePortEndpoint:
    """
    A TCP port that other processes of the same user may listen on, too, if they ask
    for that as well: the system hands each new connection to one of them.
    """

    def __init__(self, reactor: Any, port: int, interface: str = "") -> None:
        """
        @param interface: an address, or empty for all of IPv4.
        @raise ValueError: it is no address, or the system cannot do it.
        """
        if not hasattr(socket, "SO_REUSEPORT"):
            raise ValueError("this system has no port that several processes share")
        try:
            found = socket.getaddrinfo(
                interface or "0.0.0.0",
                port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_NUMERICHOST,
            )
        except (OSError, OverflowError):
            raise ValueError(f"{interface!r} is not an address") from None
        self._family: int = found[0][0]
        self._address: Any = found[0][4]
        self._reactor = reactor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen.

        @return: fires with the port, or fails with C{CannotListenError}, also if a
            process listens there that does not share it.
        @see: C{twisted.internet.interfaces.IStreamServerEndpoint}
        """
        # Not by Twisted's reusePort, which those of before 25.5 do not have.
        with socket.socket(self._family) as ours:
            try:
                for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                    ours.setsockopt(socket.SOL_SOCKET, option, 1)
                ours.bind(self._address)
                ours.listen(BACKLOG)
            except OSError as error:
                host, port = self._address[:2]
                return fail(CannotListenError(host, port, error))
            ours.setblocking(False)
            return succeed(
                self._reactor.adoptStreamPort(
                    ours.fileno(), self._family, protocolFactory
                )
            )


def listenOn(
    endpoint: IStreamServerEndpoint, factory: IProtocolFactory
) -> Deferred[IListeningPort]:
    """Listen, and take a UNIX socket over that nobody listens at any more."""
    listening = maybeDeferred(endpoint.listen, factory)
    listening.addErrback(_ebCannotListen, endpoint, factory)
    listening.addErrback(_ebUnclear)
    return listening.addCallback(_cbListening, factory)


def _cbListening(port: IListeningPort, factory: IProtocolFactory) -> IListeningPort:
    """
    Hear what a port says of whom it could not accept, and have it close whatever was
    done to its name.
    """
    if isinstance(port, unix.Port):
        closed = partial(_closed, port, port.connectionLost)
        setattr(port, "connectionLost", closed)  # noqa: B010
    logger = getattr(port, "_logger", None)  # as all ports of Twisted have it
    if isinstance(logger, Logger) and isinstance(factory, SecureFactory):
        observer = cast(ILogObserver, partial(_portSays, factory, logger.observer))
        setattr(port, "_logger", Logger(logger.namespace, observer=observer))  # noqa: B010
    return port


def _closed(
    port: unix.Port, close: Callable[[Failure], object], reason: Failure
) -> None:
    """
    Close a UNIX socket, also if its name or its lock is gone: Twisted, which removes
    them first, would leave it open, and what waits for it waiting.
    """
    try:
        close(reason)
    except (OSError, ValueError):
        if port.lockFile is not None:
            with suppress(OSError, ValueError):
                port.lockFile.unlock()
        tcp.Port.connectionLost(port, reason)


def _portSays(factory: SecureFactory, others: ILogObserver, event: LogEvent) -> None:
    """Hand on what a port logs, to others if it is not about accepting."""
    reason = event.get("acceptError", "EMFILE")
    if "acceptError" in event or "address" in event:
        factory.cannotAccept(
            _addressIn(event.get("address")),
            Refused(
                f"the system has no connection for us ({reason}): raise the limit on "
                "open files (ulimit -n, LimitNOFILE=), or lower maxConnections "
                "(--max-connections)",
                Kind.NO_FILES,
            ),
        )
    elif "EMFILE" not in str(event.get("log_format")):  # else this is what it did
        others(event)


def _addressIn(name: object) -> IAddress:
    """Make an address of what a socket calls its peer."""
    if not isinstance(name, tuple):
        return UNIXAddress(None)
    kind = IPv6Address if ":" in name[0] else IPv4Address
    return kind("TCP", *name[:2])


def _ebCannotListen(
    failure: Failure, endpoint: IStreamServerEndpoint, factory: IProtocolFactory
) -> Deferred[IListeningPort]:
    """Listen once more if only what a killed server has left is in the way."""
    # The lock of another user's process raises PermissionError, which names no path.
    failure.trap(CannotListenError, PermissionError)
    path: object = getattr(failure.value, "port", getattr(endpoint, "_address", None))
    if not isinstance(path, str | bytes):
        return fail(failure)
    name = os.fsencode(path)
    if isinstance(getattr(failure.value, "socketError", None), OSError):
        # Twisted had the lock when the socket could not be bound, and leaves it.
        _unlock(name)
    if not _isAbandoned(name):
        return fail(failure)
    _log.info(
        "nobody listens at {path} any more: it is taken over", path=os.fsdecode(path)
    )
    with suppress(OSError):
        _remove(name)
        return maybeDeferred(endpoint.listen, factory)
    return fail(failure)


def _ebUnclear(failure: Failure) -> Failure:
    """Say of a UNIX socket that cannot be there why, by the path that was named."""
    error: Any = failure.value
    lock, path = getattr(error, "filename2", None), getattr(error, "port", None)
    if lock is not None:
        # Of the lock, which leads to our PID: nobody has named either.
        name = os.fsdecode(lock).removesuffix(".lock")
        return Failure(OSError(error.errno, error.strerror, name))
    if isinstance(path, str | bytes):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                reason = OSError(errno.EEXIST, "there is something that is no socket")
                return Failure(CannotListenError(error.interface, path, reason))
    return failure


def _unlock(path: bytes) -> None:
    """Remove the lock of a UNIX socket, if it is ours and there is no such socket."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # another port of ours may have it
    if _locker(path) == os.getpid():
        with suppress(OSError):
            os.unlink(path + b".lock")


def _isAbandoned(path: bytes) -> bool:
    """Tell whether nobody listens at a UNIX socket, nor is about to."""
    try:
        found = os.lstat(path)
    except OSError:
        return _locker(path) == os.getpid()
    if not stat.S_ISSOCK(found.st_mode) or not _refuses(path):
        return False
    # We are not about to listen ourselves.  Another server may be between its bind and
    # its listen; the clock may have been set since.
    return _locker(path) == os.getpid() or abs(time() - found.st_mtime) > STARTUP


def _refuses(path: bytes) -> bool:
    """Tell whether nobody listens at a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)  # with its queue full it is alive, too
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def _locker(path: bytes) -> int | None:
    """Tell whose PID is in the lock of a UNIX socket; None if there is none."""
    try:
        return int(os.readlink(path + b".lock"))
    except (OSError, ValueError):
        return None


def _remove(path: bytes) -> None:
    """Remove a UNIX socket and its lock."""
    for each in (path + b".lock", path):
        with suppress(FileNotFoundError):
            os.unlink(each)
