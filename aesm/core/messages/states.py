"""
The state machine of the message layer as a table.  What is not in it cannot happen.
"""

from __future__ import annotations

from enum import Enum


class ConversationState(Enum):
    """Where a conversation is in its life."""

    __hash__ = object.__hash__  # Enum's own is Python code

    GREETING = "greeting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSE_SENT = "closeSent"
    PEER_CLOSED = "peerClosed"
    CLOSED = "closed"
    BREAKING = "breaking"
    BROKEN = "broken"


# Sections 8 and 9 of docs/protocol.md.  A connection ends in one of three ways:
#
#  - in order: each side says CLOSE once what it accepted is sent, whoever begins, so
#    that CLOSING and PEER_CLOSED are the two halves of one handshake;
#  - because of an error of the peer's, or because a newer connection has taken the
#    session: BREAKING still owes the peer a CLOSE that says why, and nothing more is
#    read (the peer's bytes mean nothing any more);
#  - with nothing to be said: BROKEN, in which the transport is to be aborted.
#
# BREAKING and BROKEN have no way back; a PEER_CLOSED peer may still be told what we
# have of its messages, a CLOSED one nothing.
_S = ConversationState
CONVERSATION_TRANSITIONS = {  # (where we are, what happened): where we go
    (_S.GREETING, "greeted"): _S.OPEN,
    (_S.GREETING, "peerClosed"): _S.CLOSED,  # nothing may be said before the WELCOME
    (_S.GREETING, "broken"): _S.BROKEN,
    (_S.OPEN, "closing"): _S.CLOSING,
    (_S.OPEN, "peerClosed"): _S.PEER_CLOSED,
    (_S.OPEN, "breaking"): _S.BREAKING,
    (_S.OPEN, "broken"): _S.BROKEN,
    (_S.CLOSING, "peerClosed"): _S.PEER_CLOSED,
    (_S.CLOSING, "closeSent"): _S.CLOSE_SENT,
    (_S.CLOSING, "breaking"): _S.BREAKING,
    (_S.CLOSING, "broken"): _S.BROKEN,
    (_S.CLOSE_SENT, "peerClosed"): _S.CLOSED,
    (_S.CLOSE_SENT, "broken"): _S.BROKEN,
    (_S.PEER_CLOSED, "closeSent"): _S.CLOSED,
    (_S.PEER_CLOSED, "breaking"): _S.BREAKING,
    (_S.PEER_CLOSED, "broken"): _S.BROKEN,
    (_S.CLOSED, "broken"): _S.BROKEN,
    (_S.BREAKING, "closeSent"): _S.BROKEN,
    (_S.BREAKING, "broken"): _S.BROKEN,
    (_S.BROKEN, "broken"): _S.BROKEN,  # the transport is not gone in time
}
