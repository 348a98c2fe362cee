"""
Who is connected, what came, and what happened: the original module's data
structures, as plain objects that a server I{has}::

    connections.activity()                       # the oldest entry of the log
    address, packet = connections.getDataOrdinal()
    address, packet = await connections.get()    # once there is one
    connections[address]["data"].getData()

Nothing in here receives, and what is sent goes to several: C{sendAll}.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import (
    Callable,
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from contextlib import suppress
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aesm.messages.address import Address, addressText
from aesm.messages.owner import KindOf, itself
from aesm.messages.stream import Arrivals, Packet, isHeldHere
from aesm.server.awaited import Awaited, Soon
from aesm.server.broadcast import Broadcast, Peers

if TYPE_CHECKING:
    from aesm.core.messages.batch import Message
    from aesm.errors import ConnectionClosed
    from aesm.messages.connection import Connection
    from aesm.server.cluster import Cluster
    from aesm.store.log import Log
    from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.activity")

_T = TypeVar("_T")

MAX_ACTIVITY = 10_000  # entries of the activity log

_NOTHING = Packet(0.0, cast(Any, None))
_NO_ADDRESS = object()  # none was given: None can be looked for

_OF_STRANGERS = ("refused", "probed")  # events that any stranger can cause


class Activity(tuple[Address, bool, float]):
    """
    One entry of the activity log: C{(address, accepted, time)}.

    @ivar event: C{"accepted"}, C{"refused"}, C{"lost"}, or C{"probed"} for who has
        closed without a word.
    @ivar reason: why, in words.
    @ivar peer: the peer's public key, or None if it has proved none.
    @ivar times: how often it happened: 1, but for refusals of a host that are told
        together, where the address is the host alone.
    """

    times: int
    event: str
    reason: str
    peer: PublicKey | None

    def __new__(
        cls,
        address: Address,
        event: str,
        time: float,
        reason: str = "",
        peer: PublicKey | None = None,
        times: int = 1,
    ) -> Activity:
        self = super().__new__(cls, (address, event == "accepted", time))
        self.times = times
        self.event = event
        self.reason = reason
        self.peer = peer
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """Be copied and pickled, by any protocol, as what makes an equal one."""
        # A tuple's own way gives C{__new__} the tuple, which is not what it takes.
        made = self[0], self.event, self[2], self.reason, self.peer, self.times
        return type(self), made, self.__dict__

    def __repr__(self) -> str:
        """Show the event, the reason and the peer as well."""
        return f"Activity{tuple(self)!r}<{self.event}: {self.reason!r}, {self.peer}>"


class Connections(Mapping[Address, "Connection"]):
    """
    The connections of a server, by address and in the order of acceptance, and its
    activity log.

    @ivar lock: guards the order of arrival and all streams.
    @ivar arrivals: packets that are not taken, in the order of arrival.
    @ivar packets: those who wait for one of these.
    @ivar entries: those who wait for an entry of the activity log.
    @ivar listed: how many connections were ever listed, again or for the first time.
    @ivar activityDropped: how many entries of the full log were dropped.
    @ivar ofCluster: all nodes of the cluster, if there is one.
    @ivar isOperator: tells whether a public key is marked as an operator's, now, in
        the server's file of authorized keys.
    @ivar refusals: how many clients were not let in, by the L{Kind
        <aesm.secure.refusals.Kind>} of reason, such as C{"not-authorized"}.
    """

    # Of who waits; L{aesm.blocking.threaded} has another.
    awaited: type[Awaited[Any]] = Awaited
    # Of which class connections are, as a L{ConnectionOwner} has it; the same.
    kindOf: KindOf = staticmethod(itself)

    def __init__(
        self,
        isOperator: Callable[[PublicKey], bool] = lambda publicKey: False,
        soon: Soon = lambda function: function(),
    ) -> None:
        """Start with nobody; C{soon} calls a function in another turn."""
        self.isOperator = isOperator
        self.lock = RLock()
        self.arrivals: Arrivals = Arrivals()
        self.activityDropped = 0
        self.listed = 0
        self.refusals: Counter[str] = Counter()
        self.ofCluster: Cluster | None = None
        self._broadcast = Broadcast(self)
        self._numbers = count(2)  # of the strings that C{nameFor} makes up
        self._byAddress: dict[Address, Connection] = {}
        self._byPeer: dict[PublicKey, dict[Connection, None]] = {}
        # Numbered.  Those of strangers are apart, since they make room first.
        self._activity: deque[tuple[int, Activity]] = deque()
        self._refused: deque[tuple[int, Activity]] = deque()
        self._numbered = count()
        self.packets: Awaited[tuple[Address, Packet]] = self.awaited(
            self._takePacket, soon
        )
        self.entries: Awaited[Activity] = self.awaited(self.activity, soon)

    # What users call

    def activity(self) -> Activity | None:
        """
        Take the oldest entry of the activity log.

        @return: the entry, or None if all are taken.
        """
        # No lock: a signal handler that waits for the reactor may come in between.
        while logs := [log for log in (self._activity, self._refused) if log]:
            with suppress(IndexError):  # another thread took it
                return min(logs, key=_oldest).popleft()[1]
        return None

    def getDataOrdinal(self, oldToNew: bool = True) -> tuple[Address | None, Packet]:
        """
        Take one packet of all connections, in the order of their arrival.

        @param oldToNew: True takes the oldest, False the newest.
        @return: whose it is, and the packet; C{(None, Packet(0.0, None))} if
            there is none now.
        """
        if isHeldHere(self.lock):
            return None, _NOTHING
        with self.lock:
            ends = self.arrivals if oldToNew else reversed(self.arrivals)
            arrival = next(iter(ends), None)
            if arrival is None:
                return None, _NOTHING
            stream = arrival.stream
            packet, cost = stream.pop(newest=not oldToNew)
        address = cast("Connection", stream.owner).address
        stream.tell(cost)  # without the lock: it calls others
        return address, packet

    def sendAll(
        self, data: Message, to: Peers | None = None, exclude: Peers = ()
    ) -> Deferred[int]:
        """
        Send a message to every peer, or to several, in the reactor's thread.  A peer
        whose send buffer is full is closed with code 4000 and never waited for; on a
        server with a handler, one that takes no messages of that size with code 1009.
        For one whose connection is cut the message is kept, and neither waited for nor
        counted.

        @param data: C{str} for a TEXT message, bytes for a BINARY one.
        @param to: who gets it, connections or addresses; None for all.
        @param exclude: who of them does not, connections or addresses.
        @return: fires with the number of peers that have it, once each has it, is away
            or is gone.
        @raise TypeError: C{data} is neither text nor bytes, or C{to} or C{exclude} has
            something else.
        @raise ValueError: the text cannot be written in UTF-8.
        """
        return self._broadcast.send(data, to, exclude)

    @property
    def log(self) -> Log | None:
        """What is told the clients of all nodes of a cluster; None without one."""
        return self._broadcast.log

    @log.setter
    def log(self, log: Log | None) -> None:
        """Have such a one, or none."""
        self._broadcast.log = log

    @overload
    def get(self) -> Deferred[tuple[Address, Packet]]: ...

    @overload
    def get(self, address: Address, default: None = None) -> Connection | None: ...

    @overload
    def get(self, address: Address, default: Connection | _T) -> Connection | _T: ...

    def get(self, address: Any = _NO_ADDRESS, default: Any = None) -> Any:
        """
        Take the oldest packet of all connections, once there is one.

        With an address it finds a connection, as any mapping does.

        @return: fires with C{(address, packet)}; fails with L{ConnectionClosed
            <aesm.errors.ConnectionClosed>} once the server has stopped and all is
            taken.  Cancelling it takes nothing.
        """
        if address is not _NO_ADDRESS:
            return super().get(address, default)
        if self.arrivals.arrived is None:
            self.arrivals.arrived = self.packets.serve
        return self.packets.get()

    def waitForActivity(self) -> Deferred[Activity]:
        """
        Take the oldest entry of the activity log, once there is one.  What happens
        between two calls stays in the log, so that none is missed.

        @return: fires with the entry; fails with L{ConnectionClosed
            <aesm.errors.ConnectionClosed>} once the server has stopped and all are
            taken.  Cancelling it takes nothing.
        """
        return self.entries.get()

    @property
    def peers(self) -> KeysView[PublicKey]:
        """The keys that have connections."""
        return self._byPeer.keys()

    @property
    def cluster(self) -> Cluster:
        """
        All nodes of the cluster, as one server.

        @raise RuntimeError: sessions are not kept in an engine.
        """
        if self.ofCluster is None:
            raise RuntimeError("there is no cluster: sessions are in no engine")
        return self.ofCluster

    def byPeer(self, publicKey: PublicKey) -> list[Connection]:
        """
        List the connections of one key, the oldest first.

        @return: a list of its own, empty if there are none.
        """
        return list(self._byPeer.get(publicKey, ()))

    def __getitem__(self, address: Address) -> Connection:
        """
        Find a connection.

        @param address: C{(host, port)}, or the connection's string.
        @raise KeyError: there is none.
        """
        return self._byAddress[address]

    def __iter__(self) -> Iterator[Address]:
        """List the addresses that are there now."""
        return iter(list(self._byAddress))

    def values(self) -> ValuesView[Connection]:
        """List the connections that are there now."""
        return dict(self._byAddress).values()

    def items(self) -> ItemsView[Address, Connection]:
        """List the addresses and connections that are there now."""
        return dict(self._byAddress).items()

    def __len__(self) -> int:
        """Count the connections."""
        return len(self._byAddress)

    # What the factory calls

    def begin(self) -> None:
        """The server listens: packets and entries may come."""
        self.packets.begin()
        self.entries.begin()

    def end(self, reason: ConnectionClosed) -> None:
        """The server has stopped: tell who waits."""
        if self.ofCluster is not None:
            self.ofCluster.end(reason)
        self.packets.end(reason)
        self.entries.end(reason)

    def nameFor(self, address: Address) -> Address:
        """
        Name a connection that is let in.

        @return: the address it comes from, or a string of its own if an open one has
            that.
        """
        # Two that are open may come from one address: when a client calls from one port
        # at two ports of ours, or two forwarders name the same client.
        former = self._byAddress.get(address)
        if former is None or former.isOver:
            return address
        return f"{':'.join(map(str, address))}-{next(self._numbers)}"

    def add(self, connection: Connection) -> None:
        """List a new connection."""
        # One that is over and still listed for its unread packets makes room;
        # C{getDataOrdinal} finds these all the same.
        former = self._byAddress.pop(connection.address, None)
        if former is not None:
            self._forgetPeer(former)
        self.listed += 1
        self._byAddress[connection.address] = connection
        self._byPeer.setdefault(connection.peer, {})[connection] = None

    def move(self, connection: Connection, address: Address) -> None:
        """List a connection under the address that its client has come back from."""
        if connection.address != address:
            self.discard(connection)
            connection.address = self.nameFor(address)
            self.add(connection)

    def left(self, connection: Connection) -> None:
        """A connection is over, and listed until all that is unread is taken."""
        if self.ofCluster is not None:
            self.ofCluster.forget(connection)

    def discard(self, connection: Connection) -> None:
        """List a connection no more, if it is listed."""
        if self._byAddress.get(connection.address) is connection:
            del self._byAddress[connection.address]
            self._forgetPeer(connection)

    def record(
        self,
        address: Address,
        event: str,
        time: float,
        reason: str,
        peer: PublicKey | None = None,
        times: int = 1,
        **details: Any,
    ) -> None:
        """
        Write one entry into the activity log and the log.

        @param event: as L{Activity} has it.
        @param time: when, Unix seconds.
        @param reason: why, in words; nothing of the peer's that is not escaped.
        @param times: how often that happened.
        @param details: more fields for the log.
        """
        entry = Activity(address, event, time, reason, peer, times)
        log = self._refused if event in _OF_STRANGERS else self._activity
        log.append((next(self._numbered), entry))
        if len(self._activity) + len(self._refused) > MAX_ACTIVITY:
            self._dropOldest()
        self.entries.serveSoon()
        (_log.warn if event == "refused" else _log.info)(
            "{event} {address} ({peer}): {reason}",
            event=event,
            address=addressText(address),
            accepted=event == "accepted",
            time=time,
            reason=reason,
            peer=None if peer is None else str(peer),
            times=times,
            **details,
        )

    def _takePacket(self) -> tuple[Address, Packet] | None:
        """Take the oldest packet, if there is one."""
        address, packet = self.getDataOrdinal()
        return None if address is None else (address, packet)

    def _dropOldest(self) -> None:
        """Make room in the activity log."""
        try:
            (self._refused or self._activity).popleft()
        except IndexError:
            return  # another thread took all
        if not self.activityDropped:
            _log.warn(
                "the activity log has {bound} entries that nobody takes: from now on "
                "the oldest are dropped, refusals first (they are all in this log)",
                bound=MAX_ACTIVITY,
            )
        self.activityDropped += 1

    def _forgetPeer(self, connection: Connection) -> None:
        """Take a connection out of those of its key."""
        connections = self._byPeer[connection.peer]
        del connections[connection]
        if not connections:
            del self._byPeer[connection.peer]


def _oldest(log: deque[tuple[int, Activity]]) -> int:
    """Number the first entry of a log that has one."""
    return log[0][0]
