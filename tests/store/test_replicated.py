"""Tests for L{aesm.store.replicated}, with several servers that share a store."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, cast

from zope.interface import implementer

from aesm import Connection, Packet
from aesm.interfaces import IMessageHandlerMaker, MessageHandler
from aesm.server.registry import Connections
from aesm.store.interface import IReplica, Rows
from tests.store.test_log import LogTestCase


@implementer(IReplica)
class Roll:
    """
    Who is there, in the order in which they came, and how much was said: all that are
    there are told who comes, says something and is gone, by which number in the
    conversation.

    @ivar times: when something was said.
    @ivar rewinds: how often the log went back.
    """

    def __init__(self) -> None:
        """Begin with nobody."""
        self.there: list[str] = []
        self.number = 0
        self.times: list[int] = []
        self.rewinds = 0

    def apply(self, data: bytes, micros: int) -> Rows:
        """Somebody comes, or says something, or is sent away."""
        self.times.append(micros)
        what, name, words = data.decode().split(" ", 2)
        if words.startswith("raise"):
            raise {"raise": KeyError, "raise other": ValueError}[words]("of mine")
        if what == "come" and name not in self.there:
            self.there.append(name)
        elif what == "come":
            return []
        rows = self._tell(f"{what} {words}")
        if what == "say":
            rows.insert(0, ("you say", [name]))
        if what == "away" and name in self.there:
            self.there.remove(name)
            rows += [(None, [name]), ("never", [name])]
        return rows

    def gone(self, name: str) -> Rows:
        """Somebody is gone."""
        if name not in self.there:
            return []
        self.there.remove(name)
        return self._tell("gone")

    def _tell(self, words: str) -> list[tuple[str | None, Collection[str]]]:
        """Tell all."""
        self.number += 1
        return [(f"{self.number} {words} {len(self.there)}", list(self.there))]

    def snapshot(self) -> bytes:
        """Say the state."""
        return json.dumps([self.there, self.number]).encode()

    def restore(self, data: bytes | None) -> None:
        """Have another one."""
        if data == b"other":
            raise ValueError("of another version")
        self.there, self.number = [[], 0] if data is None else json.loads(data)

    def rewound(self) -> None:
        """Count."""
        self.rewinds += 1


@implementer(IMessageHandlerMaker)
class Caller(MessageHandler):
    """A handler that says all that happens to its replica."""

    name = description = ""
    clientsTogether = True
    connections: Connections

    def makeHandler(self, connections: Connections) -> Caller:
        """Be the handler."""
        handler = Caller()
        handler.connections = connections
        handler.replica = Roll()
        return handler

    replica: Roll

    def _tell(self, connection: Connection, what: str, words: str) -> Any:
        """Tell the replicas."""
        event = f"{what} {connection.session.name} {words}"
        assert self.connections.log is not None
        return self.connections.log.tell(event.encode(), connection)

    def connectionAccepted(self, connection: Connection) -> None:
        """Somebody has come."""
        if connection.session.name not in self.replica.there:
            self._tell(connection, "come", "")

    def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Somebody says something: to all, by the log alone; or is sent away."""
        data = cast(str, packet.data)
        if data.startswith("all"):
            self.connections.sendAll(data)
        else:
            self._tell(connection, "away" if data == "away" else "say", data)


class ReplicaTestCase(LogTestCase):
    """Servers whose handlers have replicas."""

    def begin(self, **options: Any) -> None:
        """Start servers, and clients in turns."""
        super().begin(**({"handler": Caller()} | options))

    def roll(self, node: int) -> Roll:
        """Find the replica of a server."""
        handler = cast(Any, self.servers[node].factory.manager.handler)
        roll: Roll = handler.replica
        return roll

    def states(self) -> list[Any]:
        """List the states of all."""
        return [self.roll(node).snapshot() for node in range(self.nodes)]

    def same(self) -> None:
        """Check that all have the same state."""
        states = self.states()
        self.assertEqual(states, [states[0]] * self.nodes)


class EventTests(ReplicaTestCase):
    """What is told because something has happened."""

    def test_all(self) -> None:
        """All servers have the same state, and all clients are told the same."""
        self.begin()
        self.clients[1].sendData("hello")
        self.settle()
        self.same()
        got = self.take()
        self.assertEqual([each[-1] for each in got], ["5 say hello 4"] * 4)
        self.assertEqual(got[1][-2:], ["you say", "5 say hello 4"])
        self.assertEqual(got[0][:2], ["1 come  1", "2 come  2"])
        self.assertEqual(len(self.shelf.log), 5)
        for name in self.shelf.sessions.values():
            self.assertEqual(name.outgoing, [])
