"""
The state machine of the message layer as a table.  What is not in it cannot happen.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "CONVERSATION_TRANSITIONS",
    "ConversationState",
]


class ConversationState(Enum):
    """
    Where a conversation is in its life.
    """

    __hash__ = object.__hash__  # Enum's own is Python code

    GREETING = "greeting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSE_SENT = "closeSent"
    PEER_CLOSED = "peerClosed"
    CLOSED = "closed"
    BREAKING = "breaking"
    BROKEN = "broken"


_C = ConversationState
CONVERSATION_TRANSITIONS = {  # (where we are, what happened): where we go
    (_C.GREETING, "greeted"): _C.OPEN,  # section 8
    (_C.GREETING, "peerClosed"): _C.CLOSED,  # nothing may be said
    (_C.OPEN, "closing"): _C.CLOSING,  # section 9
    (_C.OPEN, "peerClosed"): _C.PEER_CLOSED,
    (_C.CLOSING, "peerClosed"): _C.PEER_CLOSED,
    (_C.CLOSING, "closeSent"): _C.CLOSE_SENT,
    (_C.CLOSE_SENT, "peerClosed"): _C.CLOSED,
    (_C.PEER_CLOSED, "closeSent"): _C.CLOSED,
    (_C.BREAKING, "closeSent"): _C.BROKEN,
}
