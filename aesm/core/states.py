"""
The two state machines as tables: of a secure channel, and of the message layer on
it.  What is in neither table cannot happen.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "CHANNEL_TRANSITIONS",
    "CONVERSATION_TRANSITIONS",
    "ConversationState",
    "State",
]


class State(Enum):
    """
    Where a channel is in its life.
    """

    OFFER = "offer"
    REFUSAL = "refusal"
    HANDSHAKE = "handshake"
    ANSWERED = "answered"
    DECISION = "decision"
    OPEN = "open"
    PEER_ENDED = "peerEnded"
    SELF_ENDED = "selfEnded"
    REJECTED = "rejected"
    ENDED = "ended"
    FAILED = "failed"

    __hash__ = object.__hash__  # Enum's own is a Python function, and often called


CHANNEL_TRANSITIONS = {  # (where we are, what happened): where we go
    (State.OFFER, "offerTaken"): State.HANDSHAKE,  # section 2
    (State.OFFER, "refused"): State.REFUSAL,
    (State.OFFER, "peerProved"): State.DECISION,  # section 3
    (State.HANDSHAKE, "answered"): State.ANSWERED,
    (State.ANSWERED, "peerProved"): State.DECISION,
    (State.DECISION, "accepted"): State.OPEN,
    (State.DECISION, "rejected"): State.REJECTED,
    (State.OPEN, "peerEnded"): State.PEER_ENDED,  # section 5
    (State.OPEN, "selfEnded"): State.SELF_ENDED,
    (State.PEER_ENDED, "selfEnded"): State.ENDED,
    (State.SELF_ENDED, "peerEnded"): State.ENDED,
}


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
