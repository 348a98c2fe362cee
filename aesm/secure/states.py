"""
The life cycle of a connection with a secure channel as a table.  What is not in it
cannot happen.
"""

from __future__ import annotations

from enum import Enum

# A connection has two state machines.  The channel's (aesm.core.channel.states) says
# which bytes make sense on the wire.  This one says what the shell still does with the
# raw transport, and whom it waits for:
#
#   SILENT --> HANDSHAKE --> DECISION --> OPEN --> FINISHING --> CLOSING
#                  |             |                     |
#                  +-------------+---- LINGERING ------+
#                                             from everywhere: ABORTED, and GONE
#
#   phase       reads   writes  what it waits for
#   SILENT      yes     yes     the client's first byte, which the factory may refuse
#   HANDSHAKE   yes     yes     the peer's proof of its key
#   DECISION    keeps   yes     the factory's decision; the raw transport is paused
#   OPEN        yes     yes     the ends of both directions of the stream
#   FINISHING   yes     yes     the raw transport to take what is queued
#   CLOSING     yes     no      the raw transport to close; bytes after the end of
#                               the stream are an error still
#   LINGERING   drops   no      the peer to read its refusal, or what we said last,
#                               and to close
#   ABORTED     no      no      connectionLost, which the raw transport owes us
#   GONE        no      no      nothing
#
# A client, which speaks first, begins at HANDSHAKE.
#
# The handshake's deadline covers the first three, and the close's timer whatever else
# waits for the peer to close: no phase but OPEN may last for ever.
#
# What can be so or so in most of these phases is an attribute of SecureProtocol, and
# no phase: back-pressure (writable), re-entrancy (busy), whether the factory knows
# how the handshake came out (a protocol inside may end the connection in any way
# while it is given its transport, which is before that is reported).


class Phase(Enum):
    """Where a connection is in its life."""

    SILENT = "silent"
    HANDSHAKE = "handshake"
    DECISION = "decision"
    OPEN = "open"
    FINISHING = "finishing"
    CLOSING = "closing"
    LINGERING = "lingering"
    ABORTED = "aborted"
    GONE = "gone"

    __hash__ = object.__hash__  # Enum's own is a Python function, and often called


# (where we are, what happened): where we go
PHASE_TRANSITIONS: dict[tuple[Phase, str], Phase] = {
    (Phase.SILENT, "peerBegan"): Phase.HANDSHAKE,
    (Phase.HANDSHAKE, "peerIdentified"): Phase.DECISION,
    (Phase.HANDSHAKE, "refused"): Phase.LINGERING,  # its offer
    (Phase.DECISION, "refused"): Phase.LINGERING,  # its key
    (Phase.DECISION, "opened"): Phase.OPEN,
    (Phase.OPEN, "finished"): Phase.FINISHING,
    (Phase.FINISHING, "written"): Phase.CLOSING,
    (Phase.FINISHING, "left"): Phase.LINGERING,  # its end is not waited for
    # The ends of both directions are noticed at each of them, and what is aborted may
    # be aborted for another reason: these lead nowhere new.
    **{
        (phase, "finished"): phase
        for phase in (Phase.FINISHING, Phase.CLOSING, Phase.ABORTED, Phase.GONE)
    },
    **{(phase, "aborted"): Phase.ABORTED for phase in Phase},
    (Phase.GONE, "aborted"): Phase.GONE,
    **{(phase, "lost"): Phase.GONE for phase in Phase if phase is not Phase.GONE},
}

HEARD = frozenset(  # what the peer sends goes to the channel
    {Phase.HANDSHAKE, Phase.DECISION, Phase.OPEN, Phase.FINISHING, Phase.CLOSING}
)
WRITES = frozenset(  # records go to the raw transport
    {Phase.SILENT, Phase.HANDSHAKE, Phase.DECISION, Phase.OPEN, Phase.FINISHING}
)
OPENED = frozenset({Phase.OPEN, Phase.FINISHING})  # and it may be waited for
