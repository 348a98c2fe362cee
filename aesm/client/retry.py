"""
Trying again: after which failures a client does, what it says of them, and after how
long::

    delay = delays.after(reason, clock.seconds(), accepted=False)
    if delay is not None:
        clock.callLater(delay, dial)
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from twisted.application.internet import backoffPolicy
from twisted.logger import Logger

from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    KeyFileError,
    KeyFileUnavailable,
    NameOrKeyMismatch,
    NoAnswer,
    NotAuthorized,
    OfferRefused,
    UntrustedServer,
)

_log = Logger(namespace="aesm.service")

PROMPT = (0.05, 0.25)  # seconds to wait at random after a connection that was lost
RETURNS = 10  # so many times in a row
RETURN_EVERY = 3.0  # seconds until there is one more of these
LONGEST_DELAY = 15.0  # seconds, much less than a server's SESSION_GRACE


_TRANSIENT: dict[type[BaseException], bool] = {  # the nearest base class decides
    BaseException: True,  # an endpoint may fail with anything
    NotAuthorized: False,  # also later, when a key is revoked
    UntrustedServer: False,
    OfferRefused: False,
    NameOrKeyMismatch: False,
    NoAnswer: True,  # a server that stops, or is full, does that as well
    KeyFileError: False,
    KeyFileUnavailable: True,
    TypeError: False,  # options that connect() does not take
    ValueError: False,
}


def isTransient(reason: BaseException) -> bool:
    """
    Tell whether a failure may pass by itself, so that it makes sense to try again.

    @param reason: why there is no connection, or none any more.
    @return: False for those that people have to mend, and where a newer connection
        has taken this one's place (code 4001): two programs with one key would take
        it from each other for ever.  A client that was too slow (4000) may be faster
        the next time.
    """
    if isinstance(reason, ConnectionClosed) and reason.code == CloseCode.TAKEN_OVER:
        return False
    return next(_TRANSIENT[kind] for kind in type(reason).__mro__ if kind in _TRANSIENT)


class RetryDelays:
    """
    The delays before attempts to connect.

    They grow over attempts that fail in a row.  A client whose connection was lost
    comes back at once: nothing says that the server is not there.  But a server that
    crashes whenever it has accepted must not be stormed, so that the times to come
    back at once are used up, faster than there are new ones; what goes beyond counts
    as a failure.
    """

    def __init__(self, policy: Callable[[int], float] | None) -> None:
        """
        @param policy: gives seconds after so many failures in a row, and is asked for
            lost connections, too; None for Twisted's C{backoffPolicy} up to
            C{LONGEST_DELAY}.
        """
        self._failures = 0
        self._prompt = policy is None
        self._returns, self._since = float(RETURNS), 0.0  # how many, and at what time
        self._policy = policy or backoffPolicy(maxDelay=LONGEST_DELAY)

    def reset(self) -> None:
        """Begin anew."""
        self._failures = 0

    def after(self, reason: BaseException, now: float, accepted: bool) -> float | None:
        """
        Tell when to try again.

        @param reason: why there is no connection, or none any more.
        @param now: seconds.
        @param accepted: whether there was one, that the server had accepted.
        @return: seconds from now; None if it makes no sense, L{isTransient}.
        """
        if not isTransient(reason):
            return None
        if not accepted:
            return self._failed()
        more = (now - self._since) / RETURN_EVERY
        self._returns, self._since = min(RETURNS, self._returns + more), now
        # Over which the server wants its clients to come back.
        within = reason.after if isinstance(reason, ConnectionClosed) else 0.0
        spread = random.uniform(0, within)
        if self._returns < 1:
            return max(spread, self._failed())
        self._returns -= 1
        self._failures = 0
        if within > 0:
            return spread
        return random.uniform(*PROMPT) if self._prompt else self._failed()

    def _failed(self) -> float:
        """Count a failure, and return the seconds to wait after it."""
        self._failures += 1
        # The policy is the user's: an error in it must not end the attempts.
        try:
            delay = self._policy(self._failures)
            if not math.isfinite(delay) or delay < 0:
                raise ValueError(f"{delay!r} is no number of seconds to wait")
            return float(delay)
        except Exception as error:
            _log.error(
                "retryPolicy failed, and is used no more: {reason!r}", reason=error
            )
            self._policy = backoffPolicy(maxDelay=LONGEST_DELAY)
            return self._policy(self._failures)


def asOurs(reason: Exception) -> AESMError:
    """Wrap what an endpoint or a policy failed with."""
    return reason if isinstance(reason, AESMError) else AESMError(wordsOf(reason))


def wordsOf(reason: BaseException) -> str:
    """Say why, also where an error has no words of its own."""
    return str(reason) or type(reason).__name__
