"""
Tests for L{aesm.messages.states}: every state of the shells, and whatever can happen
in it.
"""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from aesm.core.messages.conversation import Conversation
from aesm.core.messages.hello import ConversationSettings
from aesm.core.messages.session import Session
from aesm.messages.connection import Connection
from aesm.messages.owner import ConnectionOwner
from aesm.messages.protocol import AESMProtocol
from aesm.messages.states import (
    CARRIER_TRANSITIONS,
    CONNECTION_TRANSITIONS,
    CarrierState,
    ConnectionState,
)
from aesm.trust.keys import PublicKey


def makeConnection() -> Connection:
    """Make a connection under which there is no transport."""
    return Connection(
        ConnectionOwner(),
        Session(1000, 1000),
        address="peer-1",
        peer=PublicKey(b"\1" * 32),
        peerName=None,
        receiveBuffer=1000,
    )


def makeProtocol() -> AESMProtocol:
    """Make a client's protocol, before the WELCOME."""
    clock: Any = Clock()
    return AESMProtocol(
        ConnectionOwner(), Conversation(ConversationSettings(), 0.0), clock
    )


class TableTests(SynchronousTestCase):
    """The tables are complete: what is not in them is refused."""

    def walk(self, table: dict[Any, Any], states: type[Enum], make: Any) -> None:
        """
        Try every input in every state.

        @param table: the transitions.
        @param states: all of the states.
        @param make: makes what has the state.
        """
        for state, what in product(states, {what for _, what in table}):
            thing = make()
            thing.state = state
            if (state, what) in table:
                thing._move(what)
                self.assertIs(thing.state, table[state, what])
            else:
                self.assertRaises(KeyError, thing._move, what)
                self.assertIs(thing.state, state)

    def ends(self, table: dict[Any, Any], states: type[Enum]) -> set[Enum]:
        """Find the states out of which nothing leads."""
        return set(states) - {state for state, _ in table}

    def test_carrier(self) -> None:
        """A protocol's: from everywhere there is a way to its end, and none back."""
        self.walk(CARRIER_TRANSITIONS, CarrierState, makeProtocol)
        self.assertEqual(
            self.ends(CARRIER_TRANSITIONS, CarrierState), {CarrierState.GONE}
        )
        for state in set(CarrierState) - {CarrierState.GONE}:
            self.assertIs(CARRIER_TRANSITIONS[state, "gone"], CarrierState.GONE)

    def test_connection(self) -> None:
        """A connection's: the same."""
        self.walk(CONNECTION_TRANSITIONS, ConnectionState, makeConnection)
        over = ConnectionState.OVER
        self.assertEqual(self.ends(CONNECTION_TRANSITIONS, ConnectionState), {over})
        for state in set(ConnectionState) - {over}:
            self.assertIs(CONNECTION_TRANSITIONS[state, "finished"], over)

    def test_finalStays(self) -> None:
        """A session that ends with its transport is not kept, whatever happens yet."""
        ending = {CarrierState.FINAL, CarrierState.DEAF}
        for (state, what), after in CARRIER_TRANSITIONS.items():
            if state in ending and what != "gone":
                self.assertIn(after, ending)
