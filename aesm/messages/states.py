"""
The state machines of the message layer's shells as tables: of what carries a session
over one transport, and of the connection that users hold.  What is not in them cannot
happen.

A session outlives transports, so there are two machines.  A L{CarrierState} is that of
an L{AESMProtocol<aesm.messages.protocol.AESMProtocol>}, which goes with its transport;
a L{ConnectionState} is that of a L{Connection<aesm.messages.connection.Connection>},
which has one protocol after another, and between them none::

    protocol     GREETING -- WELCOME --> OPEN ----> LEAVING ----------> GONE
                                          |          |  the session waits
                                          +--> FINAL, DEAF -----------> GONE
                                          |            the session is over
                                          +--> SUPERSEDED ------------> GONE
                                               another protocol has the session

    connection   DETACHED <--> ATTACHED --> UNSENDABLE --> OVER
"""

from __future__ import annotations

from enum import Enum


class CarrierState(Enum):
    """Where a protocol is in its life, beside what its conversation knows."""

    __hash__ = object.__hash__  # Enum's own is Python code

    GREETING = "greeting"  # a client's, before the WELCOME: there is no connection
    REFUSED = "refused"  # a client's that got none
    OPEN = "open"
    LEAVING = "leaving"  # the transport ends, the session may go on over another
    FINAL = "final"  # the session ends with the transport
    DEAF = "deaf"  # the same, and what still comes is not taken, nor acknowledged
    SUPERSEDED = "superseded"  # the session goes on over another transport already
    GONE = "gone"


_P = CarrierState
CARRIER_TRANSITIONS = {  # (where we are, what happened): where we go
    (_P.GREETING, "attached"): _P.OPEN,
    (_P.GREETING, "final"): _P.REFUSED,
    (_P.GREETING, "gone"): _P.GONE,
    (_P.REFUSED, "final"): _P.REFUSED,
    (_P.REFUSED, "gone"): _P.GONE,
    (_P.OPEN, "leaving"): _P.LEAVING,
    (_P.OPEN, "final"): _P.FINAL,
    (_P.OPEN, "deaf"): _P.DEAF,
    (_P.OPEN, "superseded"): _P.SUPERSEDED,
    (_P.OPEN, "gone"): _P.GONE,
    (_P.LEAVING, "leaving"): _P.LEAVING,
    (_P.LEAVING, "final"): _P.FINAL,
    (_P.LEAVING, "deaf"): _P.DEAF,
    (_P.LEAVING, "superseded"): _P.SUPERSEDED,
    (_P.LEAVING, "gone"): _P.GONE,
    (_P.FINAL, "leaving"): _P.FINAL,  # nothing takes an end back
    (_P.FINAL, "final"): _P.FINAL,
    (_P.FINAL, "deaf"): _P.DEAF,
    (_P.FINAL, "gone"): _P.GONE,
    (_P.DEAF, "leaving"): _P.DEAF,
    (_P.DEAF, "final"): _P.DEAF,
    (_P.DEAF, "deaf"): _P.DEAF,
    (_P.DEAF, "gone"): _P.GONE,
    (_P.SUPERSEDED, "leaving"): _P.SUPERSEDED,
    (_P.SUPERSEDED, "final"): _P.SUPERSEDED,  # the session is not ours to end
    (_P.SUPERSEDED, "gone"): _P.GONE,
}


class ConnectionState(Enum):
    """Where a connection is in its life."""

    __hash__ = object.__hash__  # Enum's own is Python code

    DETACHED = "waiting"  # no transport is under it: what is sent waits
    ATTACHED = "open"
    UNSENDABLE = "closing"  # nothing that is sent can be acknowledged any more
    OVER = "closed"


_C = ConnectionState
CONNECTION_TRANSITIONS = {  # (where we are, what happened): where we go
    (_C.DETACHED, "attached"): _C.ATTACHED,
    (_C.DETACHED, "detached"): _C.DETACHED,
    (_C.DETACHED, "finished"): _C.OVER,
    (_C.ATTACHED, "detached"): _C.DETACHED,
    (_C.ATTACHED, "unsendable"): _C.UNSENDABLE,
    (_C.ATTACHED, "finished"): _C.OVER,
    (_C.UNSENDABLE, "unsendable"): _C.UNSENDABLE,  # the first reason is told
    (_C.UNSENDABLE, "finished"): _C.OVER,
}
