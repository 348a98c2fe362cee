"""
What an operator can ask of a running server, and have it do::

    actions = Actions(server, reload, drain)
    actions.perform(by, {"command": "kick", "who": "alice"})

An answer is an object of JSON in pieces, so that one that is long can be written as it
is made.  Whatever changes something is a line in the log, with who it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol

from twisted.logger import Logger

from aesm.core.messages.frames import MAX_AFTER
from aesm.errors import AESMError, CloseCode
from aesm.messages.connection import Connection
from aesm.server.service import Server
from aesm.status.overview import Overview
from aesm.status.pieces import joined
from aesm.text import asciiJSON
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PublicKey

_log = Logger(namespace="aesm.control")

DRAIN = 30.0  # seconds within which clients come back, unless somebody says otherwise
LONGEST_DRAIN = MAX_AFTER / 1000  # seconds

_NUMBER = (int, float)
# What each command needs, and what it may have.
_FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "status": ({}, {"who": str, "most": int}),
    "kick": ({"who": str}, {"reason": str}),
    "authorize": ({"key": str, "name": str}, {}),
    "revoke": ({"who": str}, {}),
    "reload": ({}, {}),
    "drain": ({}, {"over": _NUMBER}),
}


class CannotDo(Exception):
    """What was asked for cannot be done; says why."""


class Operator(NamedTuple):
    """
    Who asks.

    @ivar uid: the user; None where the system does not say.
    @ivar pid: the process, or None.
    """

    uid: int | None
    pid: int | None

    def __str__(self) -> str:
        """Say who it is, for those who are told."""
        return "an operator" if self.uid is None else f"uid {self.uid}"


class Drain(Protocol):
    """Ends the server, clients first."""

    def __call__(self, over: float, reason: str) -> None:
        """
        @param over: seconds within which clients are to come back, here or elsewhere.
        @param reason: words for them.
        """


class Actions:
    """What can be asked of one server."""

    def __init__(
        self, server: Server, reload: Callable[[], object], drain: Drain
    ) -> None:
        self._server = server
        self._overview = Overview(server)
        self._reload = reload
        self._drain = drain

    def perform(self, by: Operator, request: object) -> Iterator[str]:
        """
        Do what somebody asks for.

        @param request: an object of JSON with a C{"command"}, and what that needs.
        @return: an object of JSON, in pieces.
        @raise CannotDo: it makes no sense, or cannot be done.
        """
        fields = dict(request) if isinstance(request, dict) else {}
        command = fields.pop("command", None)
        if command not in _FIELDS:
            raise CannotDo(f'give one of {", ".join(_FIELDS)} as "command"')
        needed, allowed = _FIELDS[command]
        missing = needed.keys() - fields
        if missing:
            raise CannotDo(f"{command}: {', '.join(sorted(missing))} is missing")
        for name, value in fields.items():
            kind = (needed | allowed).get(name)
            # It may be meant to do something: better not done than done without.
            if kind is None:
                raise CannotDo(f"{command} has no {name!r}")
            if not isinstance(value, kind) or isinstance(value, bool):
                raise CannotDo(f"{command}: {value!r} cannot be the {name}")
            if isinstance(value, str) and not _isText(value):
                raise CannotDo(f"{command}: {value!r} is no text")
        if command == "status":
            return self._status(**fields)
        try:
            done = getattr(self, f"_do{command.capitalize()}")(by, **fields)
        except (AESMError, ValueError) as error:
            raise CannotDo(str(error)) from None
        _log.info(
            "{by} (pid {pid}) had done: {command}{details}",
            by=str(by),
            pid=by.pid,
            uid=by.uid,
            command=command,
            details="".join(
                f", {name} {value!r}" for name, value in (fields | done).items()
            ),
        )
        return iter([asciiJSON({"ok": True, **done})])

    def _status(self, who: str | None = None, most: int | None = None) -> Iterator[str]:
        """Say what goes on, of one or all; if need be of those that lag most."""
        overview = self._overview
        connections: Iterable[Connection]
        if who is not None:
            connections = self._found(who)
        elif most is not None:
            connections = overview.lagging(max(0, most))
        else:
            connections = overview.all()
        beginning = f'{{"ok": true, "server": {asciiJSON(overview.totals())}, '
        return chain(
            [beginning, '"connections": ['],
            joined(map(asciiJSON, overview.rows(connections))),
            ["]}"],
        )

    def _doKick(self, by: Operator, who: str, reason: str = "") -> dict[str, Any]:
        """End connections, and their sessions: their clients may come back."""
        words = f"kicked by {by}" + (f": {reason}" if reason else "")
        ended = 0
        for connection in self._found(who):
            # What one hears of another may have ended it.
            if not connection.isOver:
                ended += 1
                connection.shed(CloseCode.GOING_AWAY, words)
        return {"connections": ended}

    def _doAuthorize(self, by: Operator, key: str, name: str) -> dict[str, Any]:
        """Add a line to the list of authorized keys, and heed it."""
        self._clients().add(PublicKey.fromText(key), name)
        self._server.factory.reloadKeys()
        return {}

    def _doRevoke(self, by: Operator, who: str) -> dict[str, Any]:
        """Take keys out of the list of authorized keys, and heed that."""
        clients, connections = self._clients(), self._server.connections
        try:
            keys = frozenset([PublicKey.fromText(who)])
        except ValueError:
            keys = clients.keysOf(who)
            keys |= {connection.peer for connection in self._overview.find(who)}
        here = sum(len(connections.byPeer(key)) for key in keys)
        removed = clients.remove(keys)
        if not removed:
            raise CannotDo(f"{clients.path} has no line of {who!r}")
        self._server.factory.reloadKeys(f"key revoked by {by}")
        return {"keys": removed, "connections": here}

    def _doReload(self, by: Operator) -> dict[str, Any]:
        """Do what SIGHUP does."""
        self._reload()
        return {}

    def _doDrain(self, by: Operator, over: float = DRAIN) -> dict[str, Any]:
        """Let nobody in any more, tell all who are there to leave, and end."""
        if self._server.factory.isStopping:
            raise CannotDo("the server is stopping already")
        if not 0 <= over <= LONGEST_DRAIN:
            raise CannotDo(f"over is 0 to {LONGEST_DRAIN:g} seconds, not {over}")
        here = len(self._server.connections)
        self._drain(over, f"drained by {by}")
        return {"connections": here}

    def _found(self, who: str) -> list[Connection]:
        """Find connections."""
        found = self._overview.find(who)
        if not found:
            raise CannotDo(f"nobody is here whose name, key or address is {who!r}")
        return found

    def _clients(self) -> AuthorizedKeys:
        """Return the server's list."""
        clients = self._server.factory.admission.authorizedKeys
        if clients is None:
            raise CannotDo("the server has no file of authorized keys")
        return clients


def _isText(value: str) -> bool:
    """Tell whether UTF-8 can write it: JSON can write half a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in value)
