"""
C{twistd aesm --handler chat}: the rules of L{aesm.chat.rules} on a server's
connections.

C{--handler chat-free-names} is the same, but for the names of those whose keys have
one: see L{freeNames}.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from time import time_ns
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from aesm.chat.replica import ChatReplica, Event
from aesm.chat.rules import GUARDED
from aesm.errors import AESMError, CloseCode, ConnectionClosed
from aesm.interfaces import MessageHandler
from aesm.secure.options import reactorOr
from aesm.trust.keys import PublicKey

if TYPE_CHECKING:
    from aesm.messages.connection import Connection
    from aesm.messages.stream import Packet
    from aesm.server.registry import Connections
    from aesm.store.interface import Rows

AWAY_DELAY = 10.0  # seconds until others notice that somebody is cut off

# One process, or several
#
# What clients do is an event.  Where this process is the only one, it acts on it at
# once, and sends what comes of it.  Else it writes it to the log of all processes, each
# of which acts on it when it is told; what comes of it the log sends, and so it tells
# of who is gone for good, which no single process knows.
#
# An event is written with its session as the cause: not at all, if that is another
# process's by then, to which the line comes again; and it counts as handled in the same
# transaction, so that it is said once, whoever dies.  That is why a line waits for what
# is before it, to be told and to be read, and not for its own answers.


class ChatHandler(MessageHandler):
    """
    A chat for all clients of a server.

    @cvar messagesPerKey: lines that it takes of one key, a second.
    @cvar bytesPerKey: the same in bytes.
    @cvar clientsTogether: that it has to know all clients.
    @ivar replica: the chat, which is the same in all processes.
    """

    clientsTogether = True
    messagesPerKey = 50
    bytesPerKey = 1 << 18

    def __init__(
        self,
        connections: Connections,
        clock: IReactorTime | None = None,
        freeNames: bool = False,
    ) -> None:
        """
        @param connections: the server's registry, which knows who is an operator.
        @param clock: keeps time; None for the installed reactor.
        @param freeNames: whether who has a key with a name may choose another one.
        """
        self.replica = ChatReplica(freeNames, self._rewound)
        self._connections = connections
        self._clock = reactorOr(clock)
        self._members: dict[str, Connection] = {}
        # Of those who are cut off and not missed yet.
        self._missing: dict[Connection, IDelayedCall] = {}
        # Until what somebody said last is told here.
        self._telling: dict[Connection, Deferred[None]] = {}

    def connectionAccepted(self, connection: Connection) -> None:
        """Give somebody the name that goes with their key, or ask for one."""
        self._members[connection.session.name] = connection
        self._introduce(connection)

    async def packetReceived(self, connection: Connection, packet: Packet) -> None:
        """Act on a line, once there is room for more answers to whom it is from."""
        # Only who writes waits: one who does not read the answers is held back, and
        # the others are not.
        telling = self._telling.get(connection)
        if telling is not None:
            await telling  # there is no answer before
        with suppress(ConnectionClosed):
            await connection.drain()
            text = packet.data if isinstance(packet.data, str) else None
            self._happens("line", connection, text)

    def connectionDetached(self, connection: Connection, reason: AESMError) -> None:
        """Let nobody notice that somebody was cut off, for a while."""
        self._missing[connection] = self._clock.callLater(
            AWAY_DELAY, self._missed, connection
        )

    def connectionAttached(self, connection: Connection) -> None:
        """Bring somebody back to where they were, unless they may not come."""
        chat = self.replica.chat
        if chat.isBanned(str(connection.peer)):  # since another process had them
            self._close(connection)
        # They may be away since then, too; or it may not be told yet that they are.
        elif not self._found(connection) or chat.isAway(connection.session.name):
            self._happens("back", connection)

    def connectionLost(self, connection: Connection, reason: AESMError) -> None:
        """Tell the others that somebody is gone, but not why."""
        self._found(connection)
        self._telling.pop(connection, None)
        name = connection.session.name
        del self._members[name]
        if self._connections.log is None:
            self._deliver(self.replica.gone(name))

    def _happens(
        self, what: str, connection: Connection, text: str | None = None
    ) -> None:
        """Have an event acted upon; C{text} is None for what is no text."""
        peer, name = connection.peer, connection.session.name
        isOperator = self._connections.isOperator(peer)
        sends = isOperator and any(word in (text or "") for word in GUARDED)
        event = Event(
            *(what, name, str(peer), connection.peerName or "", isOperator, text),
            self._operators() if sends else {},
        )
        log = self._connections.log
        if log is not None:
            told = log.tell(self.replica.encode(event), connection)
            self._telling[connection] = told
        else:
            self._deliver(self.replica.happened(event, time_ns() // 1000))

    def _introduce(self, connection: Connection) -> None:
        """Have the chat know somebody; it may do so already from another process."""
        if self.replica.chat.keyOf(connection.session.name) != str(connection.peer):
            self._happens("joined", connection)

    def _rewound(self) -> None:
        """The chat is older than it was: say again what it may not know."""
        for name, connection in self._members.items():
            self._introduce(connection)
            if connection.isAttached:
                if self.replica.chat.isAway(name):
                    self._happens("back", connection)
            elif connection not in self._missing:
                self._happens("away", connection)

    def _operators(self) -> Mapping[str, bool]:
        """Say who is an operator by now, and who is no more, of those in the chat."""
        isOperator, marks = self._connections.isOperator, self.replica.chat.marks()
        now = {key: isOperator(PublicKey.fromText(key)) for key in marks}
        return dict(now.items() - marks.items())

    def _deliver(self, rows: Rows) -> None:
        """
        Send lines, and wait for nobody: clients that are too slow are closed with 4000,
        and those that do not take messages of that size with 1009.
        """
        for line, names in rows:
            members = [self._members[name] for name in names if name in self._members]
            if line is not None:
                self._connections.sendAll(line, to=members)
                continue
            for connection in members:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        """Close somebody who is banned."""
        connection.closeWith(CloseCode.NOT_ALLOWED, "banned from the chat")

    def _missed(self, connection: Connection) -> None:
        """Tell the others that somebody is away."""
        del self._missing[connection]
        self._happens("away", connection)

    def _found(self, connection: Connection) -> bool:
        """Miss somebody no longer; tell whether the others have not noticed."""
        timer = self._missing.pop(connection, None)
        if timer is not None:
            timer.cancel()
        return timer is not None


def freeNames(connections: Connections) -> ChatHandler:
    """Make a chat, on a server's registry, in which all may choose their names."""
    return ChatHandler(connections, freeNames=True)
