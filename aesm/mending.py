"""
Which failures of a client may mend themselves.
"""

from __future__ import annotations

from aesm.errors import (
    ConnectionClosed,
    KeyFileError,
    NameOrKeyMismatch,
    NoAnswer,
    NotAuthorized,
    OfferRefused,
    UntrustedServer,
)

__all__ = ["mayPass"]

TAKEN_OVER = 4001  # close code, PROTOCOL section 9

_MAY_PASS: dict[type[BaseException], bool] = {  # the nearest base class decides
    Exception: True,
    NotAuthorized: False,  # also later, when a key is revoked
    UntrustedServer: False,
    OfferRefused: False,
    NameOrKeyMismatch: False,
    NoAnswer: True,  # a server that stops, or is full, does that as well
    KeyFileError: False,
    TypeError: False,  # options that connect() does not take
    ValueError: False,
}


def mayPass(reason: BaseException) -> bool:
    """
    Tell whether trying again may mend a failure.

    @param reason: why there is no connection, or none any more.
    @return: False for those that people have to mend, and where a newer
        connection has taken this one's place (code 4001): two programs with one
        key would take it from each other for ever.  A client that was too slow
        (4000) may be faster the next time.
    """
    if isinstance(reason, ConnectionClosed) and reason.code == TAKEN_OVER:
        return False
    return next(_MAY_PASS[kind] for kind in type(reason).__mro__ if kind in _MAY_PASS)
