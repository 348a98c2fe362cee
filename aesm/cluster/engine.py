"""
The connection of a node to the engine::

    engine = Engine(reactor, address, "chat", node, password=password)
    engine.up, engine.down = goOn, stop
    engine.start().addCallback(begin)
    engine.call(COMMIT, node, 1).addCallbacks(go, tryAgain)   # now, or a failure
    engine.stop()

It comes back by itself.  Nothing is queued here: what is called while there is no
connection fails, as does what had no reply when one was lost, executed or not.  Whoever
calls has to say the same again, and a script has to know that it was said before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from aesm.cluster.scripts import FORMAT, JOIN, Script
from aesm.cluster.sentinel import SentinelEndpoint
from aesm.errors import SpoolError
from aesm.messages.deferred import ignore

if TYPE_CHECKING:
    from twisted.internet.interfaces import (
        IAddress,
        IReactorTime,
        IStreamClientEndpoint,
    )

    from aesm.cluster.address import EngineAddress

SYNC = ("primary", "replica", "disk")  # who has what is committed

REPLY_TIMEOUT = 5.0  # seconds until a connection on which no reply comes is given up
WAIT_MILLIS = 2000  # for a replica: less, or a slow one would cost the connection
RETRY = 1.0  # seconds until the next attempt to connect, at first
MAX_RETRY = 5.0
OLDEST = (6, 2)  # the version that the scripts are written for

# Replies that are no verdict: the engine is a replica, starts, waits for its replicas,
# is busy, has no room, cannot write its file.
LATER = {"READONLY", "LOADING", "NOREPLICAS", "BUSY", "OOM", "MISCONF"}

# Replies after which another connection may be one to another engine, or to a node that
# knows more.
_RECONNECT = {"READONLY", "EPOCH", "NOAUTH"}

# Of what an engine that is full says of a script, whichever version it is.
_FULL = "OOM command not allowed"

# What to do about others.
_HINTS = {
    "NOAUTH": " Write its password into a file of mode 0600, and name that: "
    "clusterPassword (--cluster-password)",
    "FORMAT": ": all nodes of a cluster need one version of aesm, and one clusterKey "
    "(--cluster-key) or none; else take another clusterName (--cluster-name)",
}

_log = Logger(namespace="aesm.cluster")


class EngineFull(SpoolError):
    """An engine has no room: nothing of what it was told is done."""


class Engine:
    """
    A node's connection to the engine, as long as there is one, and the next.

    @ivar up: called once it can be used, with whether all that was in it is lost.
    @ivar down: called when it cannot be used any more.
    @ivar failure: why it cannot be used now, or None.
    @ivar node: what this node is called; empty for who only looks on.
    @ivar info: what the engine says of itself, by its own names.
    @ivar process: what only this process is called.
    @ivar line: the same, of the connection.
    @ivar history: of the engine: another one, if it may lack what it said that it had.
    @ivar clock: keeps time.
    @ivar mark: as L{Clear<aesm.cluster.sealing.Clear>}, of who seals what is told it.
    @ivar size: the bytes of all that it has, as it said last.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        address: EngineAddress,
        cluster: str,
        node: str,
        *,
        password: str | None = None,
        sync: str = "primary",
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        """
        @param reactor: connects, and keeps time.
        @param address: where it is.
        @param cluster: what the cluster is called.
        @param node: what this node is called, as no other is or was; empty to look on,
            which has to be of a cluster that there is.
        @param password: what the engine asks for.
        @param sync: C{"primary"} if it is enough that the engine has it, C{"replica"}
            if one of its replicas must, C{"disk"} if its disk must.
        @param endpoint: how to reach it; None to go by the address.
        @raise ImportError: the extra "cluster" is not installed.
        """
        self.node = node
        self.up: Callable[[bool], object] = ignore
        self.down: Callable[[], object] = ignore
        self.failure: SpoolError | None = SpoolError(f"not connected to {address}")
        self.clock = reactor
        self.mark = ""
        self.size = 0
        self._address = address
        self._cluster = cluster
        self._prefix = f"{{aesm:{cluster}}}:"
        self._password = password
        self._sync = sync
        self._epoch: bytes | None = None
        self.process = secrets.token_hex(16)
        self.line = ""
        self.history = ""
        self.info: dict[str, str] = {}
        self._protocol: Any = None  # the one that can be used
        self._started: Deferred[None] | None = None
        if endpoint is not None:
            self._endpoint = endpoint
        elif address.hasSentinels:
            self._endpoint = SentinelEndpoint(self._askSentinel, address, reactor)
        else:
            self._endpoint = address.endpoint(reactor)
        self._service = self.dialler(
            "RedisProtocol", self._connected, self._disconnected
        )

    @property
    def epoch(self) -> str:
        """What the engine calls its data, until it loses them; empty at first."""
        return (self._epoch or b"").decode()

    def describe(self) -> dict[str, str]:
        """Say which cluster it is, which node this one, and what it waits for."""
        return {
            "name": self._cluster,
            "node": self.node,
            "engine": str(self._address),
            "sync": self._sync,
        }

    def key(self, name: str) -> str:
        """Tell what something of our cluster is called in the engine."""
        return self._prefix + name

    def dialler(
        self,
        kind: str,
        connected: Callable[[Any], object],
        disconnected: Callable[[Any], object],
    ) -> ClientService:
        """
        Make what connects, again and again; it is not started.

        @param kind: the protocol, of txredisapi.
        @param connected: called with one that is connected.
        @param disconnected: called with it when it is not any more.
        """
        factory = _EngineFactory(self.clock, kind, connected, disconnected)
        policy = backoffPolicy(RETRY, MAX_RETRY)
        return ClientService(self._endpoint, factory, policy, clock=self.clock)

    async def login(self, protocol: Any) -> None:
        """Say over a connection who we are."""
        if self._password is not None:
            user = () if self._address.user is None else (self._address.user,)
            await self.execute(protocol, "AUTH", *user, self._password)

    async def _askSentinel(
        self, sentinel: IStreamClientEndpoint, name: str
    ) -> tuple[str, int]:
        """Ask a sentinel where the primary is; C{SpoolError} if it cannot say."""
        # Here, because the import installs a reactor.
        from txredisapi import RedisError

        factory = _EngineFactory(self.clock, "RedisProtocol", ignore, ignore)
        asking = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        try:
            protocol: Any = await sentinel.connect(factory)
            try:
                try:
                    found = await self.execute(protocol, *asking)
                except RedisError as error:
                    if not str(error).startswith("NOAUTH"):
                        raise
                    await self.login(protocol)
                    found = await self.execute(protocol, *asking)
            finally:
                protocol.transport.loseConnection()
        except (RedisError, ConnectError, DNSLookupError, ConnectionClosed) as error:
            raise SpoolError(str(error)) from error
        if found is None:
            raise SpoolError(f"it knows no {name}")
        host, port = found
        return host.decode(), int(port)

    def start(self) -> Deferred[None]:
        """
        Connect, again and again.

        @return: fires once it can be used; fails with L{SpoolError} if it cannot be
            reached at first, or is not fit for it, and then no more is tried.
        """
        if self._password is None and not self._address.isLocal:
            _log.warn(
                "{address} asks for no password: whoever reaches it can read, and "
                "write, what all clients are sent",
                address=str(self._address),
            )
        started = self._started = Deferred(self._ebCancelled)
        # Before it can have failed.
        self._service.whenConnected(failAfterFailures=1).addErrback(self._ebReached)
        self._service.startService()
        return started

    def _ebCancelled(self, started: Deferred[None]) -> None:
        """Who starts it does not want it any more."""
        self.stop()

    def stop(self) -> Deferred[None]:
        """
        Disconnect.

        @return: fires when that is done; at once if it is being stopped already.
        """
        self._started = None
        if not self._service.running:
            return succeed(None)
        stopped = self._service.stopService()
        return succeed(None) if stopped is None else stopped

    def call(self, script: Script, *arguments: object) -> Deferred[Any]:
        """
        Run a script, now.

        @param arguments: behind the epoch.
        @return: fires with its reply, once as many have it as are to; fails with
            L{SpoolError} if nobody knows whether it was run, or if it was not; with
            L{EngineFull} if it was not, for want of room.
        """
        protocol = self._protocol
        if protocol is None:
            return fail(SpoolError(str(self.failure)))
        done = self._run(protocol, script, self._epoch, *arguments)
        if script.isDurable and self._sync == "replica":
            done.addCallback(self._cbRun, protocol)
        return done.addErrback(self._ebCall, protocol)

    def _run(self, protocol: Any, script: Script, *arguments: object) -> Deferred[Any]:
        """Run a script, also where the engine does not have it yet."""
        rest = (1, self._prefix, *arguments)
        done: Deferred[Any] = self.execute(protocol, "EVALSHA", script.digest, *rest)
        return done.addErrback(self._ebUnknown, protocol, script, rest)

    def measure(self) -> Deferred[None]:
        """
        Have it say how much it has.

        @return: fires with nothing, whatever comes of it.
        """
        protocol = self._protocol
        if protocol is None:
            return succeed(None)
        asked = self.execute(protocol, "INFO", "memory")
        return asked.addCallbacks(self._cbMeasured, lambda failure: None)

    def _cbMeasured(self, info: bytes) -> None:
        """Note how much it has."""
        self.size = int(_parsed(info).get("used_memory", 0))

    def execute(self, protocol: Any, *command: object) -> Deferred[Any]:
        """Send a command."""
        if not protocol.connected:
            return fail(self._error("the connection is lost"))
        return cast("Deferred[Any]", protocol.execute_command(*command))

    def _ebUnknown(
        self, failure: Failure, protocol: Any, script: Script, rest: tuple[object, ...]
    ) -> Failure | Deferred[Any]:
        """If the engine does not have a script, hand it over."""
        if _codeOf(failure) != "NOSCRIPT":
            return failure
        return self.execute(protocol, "EVAL", script.source, *rest)

    def _cbRun(self, reply: Any, protocol: Any) -> Deferred[Any]:
        """Wait until a replica has what was written."""
        waited = self.execute(protocol, "WAIT", 1, WAIT_MILLIS)
        return waited.addCallback(self._cbWaited, reply)

    def _cbWaited(self, replicas: int, reply: Any) -> Any:
        """
        Take a reply, if it will survive the engine.

        @raise SpoolError: it may not.  It is not enough that there is no replica now.
        """
        if replicas < 1:
            raise self._error("NOREPLICAS none of its replicas has it yet")
        return reply

    def _ebCall(self, failure: Failure, protocol: Any) -> Failure:
        """Say of a call that failed what to do."""
        if failure.check(SpoolError, CancelledError):
            return failure
        if _codeOf(failure) in _RECONNECT:
            protocol.transport.loseConnection()
        error = self._error(failure.getErrorMessage())
        isFull = _FULL in str(error)
        return Failure(EngineFull(str(error)) if isFull else error)

    def _error(self, reason: str) -> SpoolError:
        """Make the error for what cannot be done now."""
        return SpoolError(
            f"the engine at {self._address} does not take it: {reason}; try again when "
            "it does"
        )

    # The life of a connection

    def _connected(self, protocol: Any) -> None:
        """There is a connection: see that the engine is fit, and join the cluster."""
        prepared = Deferred.fromCoroutine(self._prepare(protocol))
        prepared.addCallbacks(
            self._cbPrepared,
            self._ebPrepared,
            callbackArgs=(protocol,),
            errbackArgs=(protocol,),
        )

    def _disconnected(self, protocol: Any) -> None:
        """There is none any more."""
        if protocol is self._protocol:
            self._protocol = None
            self.failure = SpoolError(f"the connection to {self._address} is lost")
            if self._service.running:
                reason = str(self.failure)
                _log.error("{reason}; nothing more is accepted", reason=reason)
            self.down()

    async def _prepare(self, protocol: Any) -> bytes:
        """Log in, look, and join; gives the epoch, or C{SpoolError}: it is not fit."""
        await self.login(protocol)
        info = self.info = _parsed(await self.execute(protocol, "INFO"))
        if not self.node:
            return await self._epochOf(protocol)
        self.size = int(info.get("used_memory", 0))
        version = info.get("redis_version", "0")
        if tuple(map(int, version.split(".")[:2])) < OLDEST:
            raise self._unfit(f"it is Redis {version}: use 6.2 or later, or Valkey")
        policy = info.get("maxmemory_policy")
        if policy != "noeviction":
            raise self._unfit(
                f"its maxmemory-policy is {policy}, so that it forgets sessions when "
                "it is full: set noeviction"
            )
        if self._sync == "disk":
            found = await self.execute(protocol, "CONFIG", "GET", "appendfsync")
            if info.get("aof_enabled") != "1" or list(found)[1:] != [b"always"]:
                raise self._unfit(
                    "what it has does not survive a loss of power: set appendonly yes "
                    "and appendfsync always"
                )
        self.line = secrets.token_hex(8)
        layout = f"{FORMAT} {self.mark}".rstrip()
        said = (self.node, secrets.token_hex(16), layout, self.process, self.line)
        epoch = await self._run(protocol, JOIN, *said)
        # Asked behind what only a primary does: a replica that becomes one has another.
        more = _parsed(await self.execute(protocol, "INFO", "replication"))
        self.history = f"{info.get('run_id')}:{more.get('master_replid')}"
        return cast("bytes", epoch)

    async def runIdOf(self, protocol: Any) -> str | None:
        """Tell which process a connection is to, by the engine's own name for it."""
        info = await self.execute(protocol, "INFO", "server")
        return _parsed(info).get("run_id")

    async def _epochOf(self, protocol: Any) -> bytes:
        """Tell a cluster's epoch; C{SpoolError} if we can make nothing of it."""
        meta = self.key("meta")
        found = await self.execute(protocol, "HMGET", meta, "format", "epoch")
        if found[0] is None:
            raise self._unfit("it has no cluster of this name")
        if found[0].split()[0] != b"%d" % FORMAT:
            raise self._unfit("its cluster is of another version of aesm")
        return cast("bytes", found[1])

    def _unfit(self, reason: str) -> SpoolError:
        """Make the error for an engine that is not fit."""
        return SpoolError(f"cannot use the engine at {self._address}: {reason}")

    def _cbPrepared(self, epoch: bytes, protocol: Any) -> None:
        """It can be used."""
        if not protocol.connected:
            return
        isLost = self._epoch not in (None, epoch)
        self._epoch, self._protocol, self.failure = epoch, protocol, None
        if isLost:
            _log.error(
                "the engine at {address} has lost all that it had: its sessions are "
                "over",
                address=str(self._address),
            )
        else:
            _log.info("connected to {address}", address=str(self._address))
        started, self._started = self._started, None
        self.up(isLost)
        if started is not None:
            started.callback(None)

    def _ebPrepared(self, failure: Failure, protocol: Any) -> None:
        """It cannot be used: try again later, unless it is a first time."""
        protocol.transport.loseConnection()
        if protocol.lost is not None and not protocol.lost.check(ConnectionClosed):
            failure = protocol.lost  # TLS says why
        code, former = _codeOf(failure), str(self.failure)
        if failure.check(SpoolError):
            self.failure = cast("SpoolError", failure.value)
        else:
            self.failure = self._unfit(failure.getErrorMessage() + _HINTS.get(code, ""))
        isFinal = code not in LATER and not failure.check(*_CONNECTION)
        if isFinal and self._started is not None:
            self._giveUp()
        elif former != str(self.failure):  # it is tried again soon
            _log.error("{reason}", reason=str(self.failure))

    def _ebReached(self, failure: Failure) -> None:
        """Nobody is there at the first attempt."""
        if self._started is not None:
            self.failure = self._unfit(failure.getErrorMessage())
            # The service, which tells us, has to settle before it can be stopped.
            self.clock.callLater(0, self._giveUp)

    def _giveUp(self) -> None:
        """Tell who starts it, if somebody does."""
        started = self._started
        if started is not None:
            failure = SpoolError(str(self.failure))
            self.stop().addCallback(lambda nothing: started.errback(failure))


# Of txredisapi, whose import installs a reactor.
_CONNECTION = ("txredisapi.ConnectionError",)


class _EngineFactory(Factory):
    """Makes connections, and tells of them."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        kind: str,
        connected: Callable[[Any], object],
        disconnected: Callable[[Any], object],
    ) -> None:
        """@raise ImportError: the extra "cluster" is not installed."""
        # Here, because the import installs a reactor.
        import txredisapi
        from hiredis import pack_command

        self._clock = clock
        self._protocol, self._pack = getattr(txredisapi, kind), pack_command
        self._connected, self._disconnected = connected, disconnected

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make one connection."""
        pack = self._pack
        protocol = self._protocol(
            charset=None, convertNumbers=False, replyTimeout=REPLY_TIMEOUT
        )
        protocol.callLater = self._clock.callLater
        # It tells nobody why it is lost.
        protocol.lost, lose = None, protocol.connectionLost

        def connectionLost(why: Failure) -> None:
            """Note why."""
            protocol.lost = why
            lose(why)

        protocol.connectionLost = connectionLost
        # Its own takes longer for a large batch than the engine for all of it; and it
        # looks at each part of a reply, to leave it as it is.
        protocol._build_command = lambda *command: pack(command)
        protocol.tryConvertData = lambda data: data
        protocol.whenConnected().addCallback(self._connected)
        protocol.whenDisconnected().addCallback(self._disconnected)
        return protocol


def _codeOf(failure: Failure) -> str:
    """Tell how the engine calls what is wrong; empty if that is not what it says."""
    if failure.check("txredisapi.ResponseError") is None:
        return ""
    return failure.getErrorMessage().partition(" ")[0]


def _parsed(info: bytes) -> dict[str, str]:
    """Read what an engine says of itself."""
    lines = info.decode("utf-8", "replace").splitlines()
    return {key: value for key, _, value in (line.partition(":") for line in lines)}
