"""
The state machine of a secure channel as a table.  What is not in it cannot happen.
"""

from __future__ import annotations

from enum import Enum

# The two roles take different ways to DECISION, since each proves its key at another
# message; from there on there is one way for both:
#
#   server  OFFER --> HANDSHAKE --> ANSWERED --> DECISION --> OPEN
#   client  OFFER ------------------------------> DECISION --> OPEN
#   client  OFFER --> REFUSAL (a reason follows, then FAILED)
#
# The two directions of an open channel end each on their own:
#
#   OPEN --> PEER_ENDED --> ENDED         sending: OPEN, PEER_ENDED
#   OPEN --> SELF_ENDED --> ENDED         receiving: OPEN, SELF_ENDED
#
# FAILED can be entered from everywhere, so it has no entries.  REJECTED, ENDED and
# FAILED have no way out: nothing that a peer sends afterwards can matter.


class State(Enum):
    """Where a channel is in its life."""

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
    (State.OFFER, "offerTaken"): State.HANDSHAKE,  # docs/protocol.md, section 2
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
