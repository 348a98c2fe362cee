"""
The life of a L{ClientService<aesm.client.service.ClientService>} as a table.  What is
not in it cannot happen.
"""

from __future__ import annotations

from enum import Enum


class ServiceState(Enum):
    """Where a service is in its life."""

    NEW = "new"  # never started: messages are queued
    WAITING = "waiting"  # for the timer, which dials
    DIALLING = "dialling"  # until the server has accepted us
    CONNECTED = "connected"
    STOPPING = "stopping"  # until the connection is gone and the spool is closed
    RESTARTING = "restarting"  # the same, but started again meanwhile
    STOPPED = "stopped"  # by order, or at a failure that will not pass


#           start            due              accepted
#     NEW --------> WAITING -----> DIALLING -----------> CONNECTED
#                      ^              | lost                 | lost
#                      +--------------+----------------------+
#
#                  stop            gone            start
#     any of these -----> STOPPING -----> STOPPED -------> WAITING
#                          |    ^
#                    start v    | stop
#                        RESTARTING -----> WAITING
#                                    gone
#
# A failure that will not pass by itself is a stop that nobody ordered: the service
# stops itself, and remembers why.  Stopping has an end of its own, "gone", since a
# connection closes in order and a spool is written; where there is neither it follows
# at once.
#
# Three rules keep those whom the service calls, who may call it back, from finding it
# between two states:
#
# - What goes with a state is there exactly while the state is: the timer while WAITING,
#   the attempt while DIALLING, the connection while CONNECTED and until it is gone.
# - It moves first and calls afterwards: what users gave it or wait for (endpoints,
#   policies, Deferreds, hooks of subclasses) is called when nothing is left to be
#   done; where something is, that looks again where it is.
# - Only the timer dials, also at the start, with no caller of the service on the stack.
#   So code that finds DIALLING or CONNECTED after such a call is in the same attempt as
#   before it, however often the service was stopped and started meanwhile.
_S = ServiceState
SERVICE_TRANSITIONS = {  # (where we are, what happened): where we go
    (_S.NEW, "start"): _S.WAITING,
    (_S.NEW, "stop"): _S.STOPPING,
    (_S.WAITING, "start"): _S.WAITING,
    (_S.WAITING, "due"): _S.DIALLING,
    (_S.WAITING, "stop"): _S.STOPPING,
    (_S.DIALLING, "start"): _S.DIALLING,
    (_S.DIALLING, "accepted"): _S.CONNECTED,
    (_S.DIALLING, "lost"): _S.WAITING,
    (_S.DIALLING, "stop"): _S.STOPPING,
    (_S.CONNECTED, "start"): _S.CONNECTED,
    (_S.CONNECTED, "lost"): _S.WAITING,
    (_S.CONNECTED, "stop"): _S.STOPPING,
    (_S.STOPPING, "start"): _S.RESTARTING,
    (_S.STOPPING, "stop"): _S.STOPPING,
    (_S.STOPPING, "gone"): _S.STOPPED,
    (_S.RESTARTING, "start"): _S.RESTARTING,
    (_S.RESTARTING, "stop"): _S.STOPPING,
    (_S.RESTARTING, "gone"): _S.WAITING,
    (_S.STOPPED, "start"): _S.WAITING,
    (_S.STOPPED, "stop"): _S.STOPPING,
}
