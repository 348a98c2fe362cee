"""
The chat as what several processes make of the same events, each for itself, so that all
of them have one chat::

    replica = ChatReplica()
    event = Event("line", session, key, keyName, False, "/nick alice")
    replica.happened(event, micros)               # at once: there is one process
    data = replica.encode(event)                  # or else: it goes to all of them,
    replica.apply(data, micros)                   # and each does this, in one order
    other.restore(replica.snapshot())             # and goes on with the same

A process says in an event what others cannot know: whose session it is, and whether its
key is an operator's.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from zope.interface import implementer

from aesm.chat.rules import MAX_LINE, Chat
from aesm.store.interface import IReplica, Rows

RULES: Final = 1  # counts: those of another number make something else of an event
MAX_SECONDS: Final = 253_402_300_799  # the last second that has a date

# Why all processes have the same
#
# All of them are told the same events, in the same order, and the same time with each.
# Nothing else has a part in what comes of them: no clock, no file, no order of a set.
# Two things of the process itself have, since they say what a name is: our rules, and
# Python's tables of Unicode.  So both are in each event and each snapshot, with the
# choice of who may choose a name; a process that reads of others says so, and stops,
# since it would have another chat from then on.
#
# Nobody has to be told apart from a repetition: an event may be told twice, or too
# late, by a process that took over from another, or that did not know yet.  Who has
# joined has; of who is unknown a line is the first word; and what others do is nothing.


class Event(NamedTuple):
    """
    Something that a process has seen.

    @ivar what: C{"joined"}, C{"line"}, C{"away"} or C{"back"}.
    @ivar member: whose session it is.
    @ivar key: proves who that is.
    @ivar keyName: what the operator calls that key; empty if nothing.
    @ivar isOperator: whether who has it may send others away.
    @ivar text: what they have sent; None for what is no text.
    @ivar operators: of other keys, whether who has them may send others away, where
        that is not known yet.
    """

    what: str
    member: str
    key: str
    keyName: str
    isOperator: bool
    text: str | None = None
    operators: Mapping[str, bool] = {}


_FIELDS = (str, str, str, str, bool, str | None, dict)  # of an event


@implementer(IReplica)
class ChatReplica:
    """
    The chat, as one process has it.

    @ivar chat: what came of all events so far.
    """

    def __init__(
        self, freeNames: bool = False, rewound: Callable[[], None] = lambda: None
    ) -> None:
        """
        Begin with nobody in it.

        @param freeNames: whether who has a key with a name may choose another one.
        @param rewound: called when it is older than it was.
        """
        self._freeNames = freeNames
        self.rewound = rewound
        free = " free" if freeNames else ""
        self._version = f"{RULES} {unicodedata.unidata_version}{free}"
        self.chat = Chat(freeNames)

    def happened(self, event: Event, micros: int) -> Rows:
        """
        Act on an event.

        @param micros: when that was, microseconds since the Unix epoch.
        @return: what to send whom.
        """
        chat, member, key = self.chat, event.member, event.key
        rows: list[tuple[str | None, Collection[str]]] = []
        known = chat.keyOf(member)
        if known not in (None, key):  # a session that has the name of one before
            rows += chat.left(member)
            known = None
        if known is None and event.what in ("joined", "line"):
            rows += chat.joined(member, key, event.keyName)
            known = key
        for other, isOperator in (*event.operators.items(), (key, event.isOperator)):
            chat.mark(other, isOperator)
        if known is None:
            return rows
        if event.what == "line":
            seconds = min(max(micros // 1_000_000, 0), MAX_SECONDS)
            rows += chat.received(member, event.text, seconds)
        elif event.what == "away":
            rows += chat.away(member)
        elif event.what == "back":
            rows += chat.back(member)
        return rows

    def encode(self, event: Event) -> bytes:
        """
        Make of an event what all processes are told.

        @return: at most some 25 KB.
        """
        text = event.text
        if text is not None:
            text = text[: MAX_LINE + 1]  # which is too long, too
        return _encoded([self._version, *event._replace(text=text)])

    # IReplica

    def apply(self, data: bytes, micros: int) -> Rows:
        """Act on an event, if it is one."""
        try:
            said = _decoded(data)
        except ValueError:
            return []
        if not isinstance(said, list) or not said:
            return []
        version, *fields = said
        self._check(version, "another node")
        if len(fields) != len(_FIELDS) or not all(map(isinstance, fields, _FIELDS)):
            return []
        return self.happened(Event(*fields), micros)

    def gone(self, name: str) -> Rows:
        """Somebody is gone for good."""
        return [] if self.chat.keyOf(name) is None else self.chat.left(name)

    def snapshot(self) -> bytes:
        """Write down all of it."""
        return _encoded([self._version, self.chat.state()])

    def restore(self, data: bytes | None) -> None:
        """Go on from what was written down."""
        chat = Chat(self._freeNames)
        if data is not None:
            version, state = _decoded(data)
            self._check(version, "what is in the engine")
            chat.goOn(state)
        self.chat = chat

    def _check(self, version: object, whose: str) -> None:
        """Look whether something has our rules; C{ValueError} if not."""
        if version != self._version:
            raise ValueError(
                f"the chat of {whose} is of version {version!r}, and that of this node "
                f"of {self._version!r} (rules, Unicode, and whether names are free): "
                "all nodes must have the same aesm, Python and handler"
            )


def _encoded(what: Any) -> bytes:
    """Make JSON, the same of the same."""
    made = json.dumps(what, ensure_ascii=False, separators=(",", ":"))
    return made.encode("utf-8", "surrogatepass")


def _decoded(data: bytes) -> Any:
    """Read what L{_encoded} has made; C{ValueError} if it is something else."""
    return json.loads(data.decode("utf-8", "surrogatepass"))
