"""
What goes on in a server, as what JSON can say::

    overview = Overview(server)
    overview.totals()                                # a dict
    list(overview.rows(overview.lagging(20)))        # a dict for each connection
    overview.find("alice")                           # the connections of a name

The names and units are an interface: docs/operating.md lists them.  Totals cost the
same with any number of connections.  Rows are made as they are asked for, so that
whoever wants thousands of them takes some in each turn of the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from heapq import nsmallest
from itertools import islice
from time import time
from typing import Any

from aesm._version import __version__
from aesm.core.messages.frames import MESSAGE_OVERHEAD
from aesm.messages.address import Address, addressText
from aesm.messages.connection import Connection
from aesm.secure.refusals import Kind
from aesm.server.factory import MAX_AGENT
from aesm.server.service import Server
from aesm.trust.keys import PublicKey

# Of waits, those that are told apart: from 64 microseconds to 67 seconds.
SHORTEST, LONGEST = 6, 26  # powers of two
NEVER = 1 << 64  # microseconds: behind all times at which something was sent


class Overview:
    """Looks at one server, and changes nothing."""

    def __init__(self, server: Server) -> None:
        """@param server: need not have started."""
        self._server = server
        self._manager = server.factory.manager

    def totals(self) -> dict[str, Any]:
        """Say what goes on in the server as a whole."""
        server, manager = self._server, self._manager
        places, traffic, store = server.factory.places, manager.traffic, manager.store
        now, started, waiting = time(), manager.started, len(manager.sessions)
        refusals, cluster = server.connections.refusals, server.connections.ofCluster
        return {
            "version": __version__,
            "pid": os.getpid(),
            "key": str(server.publicKey),
            "listening": [addressText(each) for each in server.addresses],
            "time": now,
            "uptime": 0.0
            if started is None
            else server.factory.clock.seconds() - started,
            "stopping": server.factory.isStopping,
            "connections": len(server.connections) - waiting,
            "waiting": waiting,
            "handshakes": places.pending,
            "places": places.maxConnections,
            "placesTaken": places.taken,
            "messagesIn": traffic.messagesIn,
            "bytesIn": _bytes(traffic.costIn, traffic.messagesIn),
            "messagesOut": traffic.messagesOut,
            "bytesOut": _bytes(traffic.costOut, traffic.messagesOut),
            "lateAnswers": traffic.lateAnswers,
            "buffered": manager.budget.used,
            "totalBuffer": manager.budget.bound,
            "spool": None
            if store is None or cluster is not None
            else {
                "bytes": store.size,
                "failure": None if store.failure is None else str(store.failure),
            },
            "cluster": None if cluster is None else cluster.describe(),
            "refusals": {str(kind): refusals[kind] for kind in Kind},
            "acknowledged": _histogram(
                traffic.acknowledged, traffic.acknowledgedMicros
            ),
            "roundTrips": _histogram(traffic.roundTrips, traffic.roundTripMicros),
        }

    def rows(self, connections: Iterable[Connection]) -> Iterator[dict[str, Any]]:
        """
        Say what goes on with each of some connections, as it is when that is asked for.

        @param connections: those that are gone by then are left out.
        """
        listed = self._server.connections
        for connection in connections:
            if listed.get(connection.address) is connection:
                yield self._row(connection)

    def all(self) -> Iterable[Connection]:
        """List the connections, those that wait for their client too, by age."""
        return self._server.connections.values()

    def lagging(self, most: int) -> list[Connection]:
        """
        List so many connections, first those whose oldest message has waited longest
        for its acknowledgement, then those of which most is unread.
        """
        # One pass without calls: there may be tens of thousands, of which few lag.
        waits = []
        for number, connection in enumerate(self.all()):
            session = connection.session
            oldest, inbox = session.outbox.oldest, session.inbox
            if oldest or inbox.takenCost != inbox.receivedCost:
                unread = inbox.receivedCost - inbox.takenCost
                waits.append((oldest or NEVER, -unread, number, connection))
        lagging = dict.fromkeys(each for *_, each in nsmallest(most, waits))
        others = (each for each in self.all() if each not in lagging)
        return [*lagging, *islice(others, most - len(lagging))]

    def find(self, who: str) -> list[Connection]:
        """
        List the connections that somebody means.

        @param who: a client's name in the authorized keys, its public key, its address
            as in the log, or a session's name.
        """
        connections = self._server.connections
        with suppress(ValueError):
            return connections.byPeer(PublicKey.fromText(who))
        host, _, port = who.rpartition(":")
        address: Address = (host, int(port)) if port.isdecimal() else who
        found = connections.get(address)
        if found is not None:
            return [found]
        return [
            each
            for each in connections.values()
            if who in (each.peerName, each.session.name)
        ]

    def _row(self, connection: Connection) -> dict[str, Any]:
        """Say what goes on with one connection."""
        session, conversation = connection.session, connection.conversation
        outbox, inbox, stream = session.outbox, session.inbox, connection.retrieved
        done, oldest = outbox.acknowledged, outbox.oldest
        waiting = 0 if outbox.dropped else outbox.count - done
        unread = inbox.received - inbox.keptCount + len(stream)
        idle = roundTrip = None
        if conversation is not None:
            idle = self._server.factory.clock.seconds() - conversation.lastHeard
            roundTrip = conversation.roundTrip.seconds
        return {
            "address": addressText(connection.address),
            "name": connection.peerName,
            "key": str(connection.peer),
            "agent": outbox.peer.agent[:MAX_AGENT],
            "suite": connection.suite,
            "session": session.name,
            "state": connection.state.value,
            "since": connection.since,
            "grace": self._manager.sessions.graceLeft(connection),
            "idle": idle,
            "roundTrip": roundTrip,
            "messagesIn": inbox.received,
            "bytesIn": _bytes(inbox.receivedCost, inbox.received),
            "messagesOut": done,
            "bytesOut": _bytes(outbox.acknowledgedCost, done),
            "unacknowledged": waiting,
            "unacknowledgedBytes": _bytes(outbox.keptCost, waiting),
            "oldestUnacknowledged": max(0.0, time() - oldest / 1e6) if oldest else None,
            "unread": unread,
            "unreadBytes": _bytes(inbox.untaken - stream.unreported, unread),
        }


def _bytes(cost: int, messages: int) -> int:
    """Tell how many bytes the bodies of messages have, by what they cost."""
    return max(0, cost - MESSAGE_OVERHEAD * messages)


def _histogram(counts: list[int], micros: int) -> dict[str, Any]:
    """Write a histogram, from counts by the bits of microseconds."""
    buckets = [
        [2**power / 1e6, sum(counts[: power + 1])]
        for power in range(SHORTEST, LONGEST + 1)
    ]
    return {"count": sum(counts), "seconds": micros / 1e6, "buckets": buckets}
