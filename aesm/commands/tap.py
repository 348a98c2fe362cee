"""
C{twistd aesm}: a server for operators, see C{twistd aesm --help}.

L{ServerOptions}, which C{aesm serve} has as well, checks everything that can be
checked before the server runs, the files included, so that what is wrong is one
line.  What runs then is an L{AESMService}.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.plugin import getPlugins
from twisted.python import usage

from aesm.commands.activity import ActivityFile
from aesm.commands.command import NotUsable, parameter
from aesm.commands.control import CONTROL_FILE
from aesm.commands.daemon import AESMService
from aesm.commands.options import (
    CLUSTER_OPTIONS,
    DEFAULT_LISTEN,
    DEFAULT_NAME,
    NAME_OPTION,
    inCode,
    inOptions,
    listenEndpoint,
    ownKey,
)
from aesm.core.messages.hello import DEFAULT_HEARTBEAT, DEFAULT_MAX_MESSAGE
from aesm.errors import KeyFileError, SpoolError
from aesm.interfaces import IMessageHandlerMaker
from aesm.secure.factory import HANDSHAKE_TIMEOUT
from aesm.secure.listening import serverEndpoint
from aesm.secure.openfiles import raiseFileLimit
from aesm.secure.places import MAX_CONNECTIONS
from aesm.server.draining import DRAIN_RATE
from aesm.server.factory import AESMServerFactory
from aesm.server.sessions import SESSION_GRACE
from aesm.store.sqlite import MAX_SIZE, SpoolFile
from aesm.text import escape
from aesm.trust.files import expanded, stateDirectory
from aesm.trust.keys import nextKeyOf

_log = Logger(namespace="aesm.control")

_NUMBERS = {
    "max-connections": int,
    "max-connections-per-host": int,
    "messages-per-key": float,
    "bytes-per-key": float,
    "max-message": int,
    "heartbeat": float,
    "session-grace": float,
    "drain-rate": float,
    "handshake-timeout": float,
    "spool-max": int,
}


class ServerOptions(usage.Options):
    """
    The options of a server, whatever starts it.

    @ivar endpoints: where it is to listen: by the operator's strings.
    @ivar activityLog: what writes it, or None.
    @ivar control: the path of the control socket, or None.
    @ivar status: where the status page is, or None.
    @ivar handover: the path of the socket at which one server takes over from another;
        None without a spool.
    """

    synopsis = "[options]"
    optFlags = [
        [
            "upgrade",
            None,
            "Take over from the server that runs with this --spool, if there is one; "
            "its clients do not notice.",
        ],
        ["no-control", None, "Have no control socket."],
        [
            "status-anyone",
            None,
            "Let other machines see the status page, too, which asks nobody who they "
            "are.",
        ],
    ]
    optParameters = [
        NAME_OPTION,
        parameter("key", "File of the server's key, as aesm keygen makes it."),
        parameter("psk", "File of a pre-shared key, which clients must have too."),
        parameter(
            "authorized-keys",
            "File of the clients to let in, one 'KEY NAME' a line; SIGHUP reads it "
            "again at once.",
        ),
        parameter("handler", "What to do with messages; see below.", "relay"),
        parameter(
            "max-connections",
            "Connections in all. [default: as many as the limit on open files allows, "
            f"at most {MAX_CONNECTIONS}]",
        ),
        parameter(
            "max-connections-per-host",
            "Connections of one host. [default: a quarter of those in all]",
        ),
        parameter(
            "messages-per-key",
            "Messages of one key, a second, for the handler. [default: the handler's]",
        ),
        parameter(
            "bytes-per-key",
            "Bytes of these messages, a second. [default: the handler's]",
        ),
        parameter("max-message", "Bytes of the largest message.", DEFAULT_MAX_MESSAGE),
        parameter("heartbeat", "Seconds between signs of life.", DEFAULT_HEARTBEAT),
        parameter("handshake-timeout", "Seconds to get in.", HANDSHAKE_TIMEOUT),
        parameter(
            "session-grace",
            "Seconds that a client whose connection is cut has to come back.",
            SESSION_GRACE,
        ),
        parameter(
            "drain-rate",
            "Clients a second that are told to go on at other nodes of the cluster "
            "when this one ends.",
            DRAIN_RATE,
        ),
        parameter(
            "spool",
            "File in which sessions and their messages outlive this process.",
        ),
        parameter(
            "spool-sync",
            "What the spool survives; normal: that the process is killed, full: a loss "
            "of power.",
            "normal",
        ),
        parameter("spool-max", "Bytes that the spool may have.", MAX_SIZE),
        *CLUSTER_OPTIONS,
        parameter(
            "cluster-sync",
            "What has what is acknowledged: primary, replica or disk.",
            "primary",
        ),
        parameter(
            "cluster-key",
            "File of a key, as aesm psk makes it, that seals what is there.",
        ),
        parameter(
            "node",
            "What this node is called. [default: the name of this machine]",
        ),
        parameter(
            "activity-log",
            "File to append clients' coming and going to, opened anew at SIGHUP; - for "
            "standard output.",
        ),
        parameter(
            "control",
            "Socket at which `aesm status` and others find the server. [default: "
            f"{CONTROL_FILE} in the state directory]",
        ),
        parameter(
            "status",
            "Endpoint of a page that shows how the server is, and of /metrics, such as "
            "tcp:9100:interface=127.0.0.1 or unix:PATH.",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self.factory: AESMServerFactory
        self.endpoints: dict[str, IStreamServerEndpoint] = {}
        self.activityLog: ActivityFile | None = None
        self.control: str | None = None
        self.status: IStreamServerEndpoint | None = None
        self.handover: str | None = None

    @property
    def longdesc(self) -> str:
        """What C{--help} says below the options."""
        handlers = "; ".join(
            f"{name}: {maker.description}" for name, maker in sorted(_makers().items())
        )
        return (
            f"Without --listen the server listens on {DEFAULT_LISTEN}.  The handlers "
            f"are: {handlers}.  If it crashes no core is dumped, unless the "
            "environment has AESM_CORE_DUMPS=1."
        )

    def opt_listen(self, endpoint: str) -> None:
        """Listen on this Twisted endpoint; may be given several times."""
        self["listen"].append(endpoint)

    def postOptions(self) -> None:
        """Check the options, and make of them what the service needs."""
        # From makeService an error would be a traceback, and from the service that
        # twistd has put into the background only a line in its log.
        key, clients, spool = self["key"], self["authorized-keys"], self["spool"]
        numbers: dict[str, Any] = {
            inCode(name): self._number(name)
            for name in _NUMBERS
            if self[name] is not None
        }
        raiseFileLimit()
        try:
            self.control = self._controlSocket()
            self.factory = AESMServerFactory(
                name=self["name"],
                key=ownKey(key),
                nextKey=None if key is None else nextKeyOf(key),
                psk=self["psk"],
                # twistd changes its directory later.
                authorizedKeys=None if clients is None else _absolute(clients),
                handler=self._maker(),
                spool=None if spool is None else _absolute(spool),
                spoolSync=self["spool-sync"],
                cluster=self["cluster"],
                clusterName=self["cluster-name"],
                clusterPassword=self["cluster-password"],
                clusterSync=self["cluster-sync"],
                clusterKey=self["cluster-key"],
                node=self["node"],
                **numbers,
            )
        except KeyFileError as error:
            raise NotUsable(inOptions(str(error), self)) from None
        except ValueError as error:
            raise usage.UsageError(inOptions(str(error), self)) from None
        if spool is not None:
            self.handover = _absolute(f"{spool}.handover")
            if not (self["upgrade"] and _answers(self.handover)):
                _checkSpool(spool)
        elif self["upgrade"] and self["cluster"] is not None:
            raise usage.UsageError(
                "--upgrade: restart the nodes of a --cluster one by one; their clients "
                "go on at others"
            )
        elif self["upgrade"]:
            raise usage.UsageError(
                "--upgrade needs the --spool of the server that runs: what it has in "
                "memory no other process can have"
            )
        for text in self["listen"] or [DEFAULT_LISTEN]:
            self.endpoints[text] = listenEndpoint("listen", text, serverEndpoint)
        if self["status"] is not None:
            self.status = listenEndpoint("status", self["status"], _statusEndpoint)
        elif self["status-anyone"]:
            raise usage.UsageError("--status-anyone: say where, with --status")
        if self["activity-log"] is not None:
            self.activityLog = self._openLog(self["activity-log"])

    def clientOptions(self) -> list[str]:
        """Say what C{aesm connect} must be given to be understood by this server."""
        name = [] if self["name"] == DEFAULT_NAME else ["--name", self["name"]]
        return name + ([] if self["psk"] is None else ["--psk", self["psk"]])

    def _maker(self) -> IMessageHandlerMaker:
        """Find the maker of handlers."""
        makers = _makers()
        if self["handler"] not in makers:
            raise usage.UsageError(
                f"there is no --handler {self['handler']!r}; name one of "
                + ", ".join(sorted(makers))
            )
        return makers[self["handler"]]

    def _controlSocket(self) -> str | None:
        """Say where the control socket is to be."""
        given = self["control"]
        if self["no-control"]:
            if given is not None:
                raise usage.UsageError("--control and --no-control: give one of them")
            return None
        if given is not None:
            return _absolute(given)
        try:
            return _absolute(str(stateDirectory() / CONTROL_FILE))
        except KeyFileError as error:  # it serves clients all the same
            _log.warn(
                "no control socket: {reason}; or name the socket with --control PATH",
                reason=escape(str(error)),
            )
            return None

    def _number(self, option: str) -> int | float:
        """Read a number, the range of which the factory checks."""
        kind: type[int] | type[float] = _NUMBERS[option]
        try:
            return kind(self[option])
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise usage.UsageError(
                f"--{option} must be {what}, not {self[option]!r}"
            ) from None

    def _openLog(self, path: str) -> ActivityFile:
        """Open the activity log."""
        # Only twistd has this option: what else runs us does not leave.
        leaves = self.parent is not None and not self.parent.get("nodaemon", True)
        if path == "-" and leaves:
            raise usage.UsageError(
                "--activity-log -: in the background there is no standard output; name "
                "a file, or run twistd in the foreground, with -n"
            )
        try:
            return ActivityFile(path)
        except KeyFileError as error:
            raise NotUsable(f"--activity-log: {escape(str(error))}") from None


class Options(ServerOptions):
    """The options of C{twistd aesm}."""

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse, for C{twistd} or for anybody else.

        @param options: what follows C{twistd aesm}; None for the process's own.
        @raise usage.UsageError: an option is wrong.
        @raise SystemExit: it is wrong and it is C{twistd} that asks, which would
            hide what is wrong below a page of help and, before Twisted 26, end
            with status 0.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(f"twistd aesm: {error}") from None


def makeService(options: ServerOptions) -> AESMService:
    """Make the service that the options ask for."""
    from twisted.internet import reactor

    return AESMService(
        reactor,
        options.factory,
        options.endpoints,
        activityLog=options.activityLog,
        clientOptions=options.clientOptions(),
        control=options.control,
        needsControl=options["control"] is not None,
        status=options.status,
        statusForAnyone=bool(options["status-anyone"]),
        handover=options.handover,
        upgrade=bool(options["upgrade"]),
    )


def _makers() -> dict[str, IMessageHandlerMaker]:
    """Find the plugins that make handlers."""
    return {maker.name: maker for maker in getPlugins(IMessageHandlerMaker)}


def _statusEndpoint(reactor: object, text: str) -> IStreamServerEndpoint:
    """Parse the endpoint of a status page; a UNIX socket is to be its owner's alone."""
    # Unless the string says another mode: of two values the last one counts.
    return serverEndpoint(reactor, re.sub("^unix:", "unix:mode=600:", text))


def _absolute(path: str) -> str:
    """Make a path that means the same when C{twistd} has changed its directory."""
    return os.path.abspath(expanded(path))


def _checkSpool(path: str) -> None:
    """See whether a spool can be opened, while the operator looks on."""
    try:
        SpoolFile(expanded(path), full=False).close()
    except SpoolError as error:
        raise NotUsable(f"--spool: {escape(str(error))}") from None


def _answers(path: str) -> bool:
    """Tell whether a server can be taken over from at a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(path)
        except OSError:
            return False
        return True
