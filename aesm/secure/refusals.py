"""
Refusals, said so often that somebody can read it.

Whoever reaches a server can be refused by it, as often as they like, and a log that has
a line for each is theirs: it fills the disk, and hides what else happened::

    refusals = Refusals(clock, tellMore)
    refusals.add("192.0.2.1", Kind.TIMEOUT, partial(_log.warn, "refused ..."))

The first refusal of a host is told at once.  Those that follow are counted, and told
together after a second (a single one in its own words); as long as there are more,
after two seconds, four, and so on up to a minute.  A host that was quiet for such a
time begins anew, so that who comes back now and then has a line each time.  All hosts
together have L{MAX_LINES} a second, and L{MAX_HOSTS} are remembered: who is beyond that
is one of the other hosts, which are told as if they were one.  Nothing is left out:
each refusal is told or counted, and each count is told, at the latest by C{flush}.

Who closes without a word is no more than a probe: a health check, or a scan.  Those of
a host are told once a minute, and the first of them no sooner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from aesm.errors import (
    AESMError,
    CloseCode,
    ConnectionClosed,
    HandshakeTimeout,
    NotAuthorized,
    NothingSaid,
)

MAX_LINES = 10  # a second, of all hosts together
MAX_HOSTS = 100  # that are remembered
FIRST_WAIT = 1.0  # seconds until what was counted is told
LAST_WAIT = 60.0  # the same, of a host that does not stop
OTHERS = "other hosts"  # their name among the others, which have no blank


class Kind(StrEnum):
    """Why a client was not let in, for those who count."""

    TOO_MANY = "too-many-connections"
    HOST_RATE = "host-rate"
    MADE_ROOM = "made-room"
    NO_FILES = "no-files"
    TIMEOUT = "timeout"
    HANDSHAKE = "handshake-failed"
    PROBE = "probe"
    NOT_AUTHORIZED = "not-authorized"
    CONNECTED = "already-connected"
    SESSION_RATE = "session-rate"
    SPOOL = "spool"
    SLOW = "slow-consumer"
    STOPPING = "stopping"


class Refused(ConnectionClosed):
    """
    A server lets a client not in, through no fault of that one: it may try again later.

    @ivar kind: why, for those who count.
    """

    def __init__(
        self, message: str, kind: Kind, code: CloseCode = CloseCode.TRY_AGAIN_LATER
    ) -> None:
        """@param message: why, for the log."""
        super().__init__(message, code)
        self.kind = kind


def kindOf(reason: AESMError) -> Kind:
    """Tell what a refusal counts as."""
    match reason:
        case Refused():
            return reason.kind
        case NotAuthorized():
            return Kind.NOT_AUTHORIZED
        case HandshakeTimeout():
            return Kind.TIMEOUT
        case NothingSaid():
            return Kind.PROBE
    return Kind.HANDSHAKE


class _Host:
    """What a host's last refusal was, when it had a line, and how many had none."""

    __slots__ = ("last", "told", "untold", "wait")
    last: Callable[[], object]

    def __init__(self, now: float, wait: float) -> None:
        self.told = now
        self.wait = wait
        self.untold: Counter[Kind] = Counter()

    def isDue(self, now: float) -> bool:
        """Tell whether it may have a line, also if the clock was set back."""
        return not 0 <= now - self.told < self.wait


class Refusals:
    """Thins out what is told of refusals."""

    def __init__(
        self, clock: IReactorTime, tellMore: Callable[[str, int, str, bool], object]
    ) -> None:
        """
        @param tellMore: tells of several refusals: whose, how many, the rest in words,
            and whether they were probes.
        """
        self._clock = clock
        self._tellMore = tellMore
        # By host, and whether it is its probes; who was told longest ago comes first.
        self._hosts: dict[tuple[str, bool], _Host] = {}
        self._second = clock.seconds()  # when the present one has begun
        self._lines = 0  # in this second
        self._timer: IDelayedCall | None = None  # runs while something is untold

    def add(self, host: str, kind: Kind, tell: Callable[[], object]) -> None:
        """
        Tell of a refusal, or count it.

        @param host: whose; those of one host are thinned out together.
        @param tell: tells of this one.
        """
        now = self._clock.seconds()
        self._turn(now)
        isProbe = kind is Kind.PROBE
        whose, wait = (host, isProbe), LAST_WAIT if isProbe else FIRST_WAIT
        known = self._hosts.get(whose)
        if known is not None and not known.untold and known.isDue(now):
            del self._hosts[whose]
            known = None
        if known is None:
            if len(self._hosts) < MAX_HOSTS and (isProbe or self._mayTell()):
                known = self._hosts[whose] = _Host(now, wait)
                if not isProbe:
                    tell()
                    return
            else:
                others = OTHERS, isProbe
                known = self._hosts.setdefault(others, _Host(now, wait))
        known.untold[kind] += 1
        known.last = tell
        if self._timer is None:
            self._timer = self._clock.callLater(FIRST_WAIT, self._tellDue)

    def flush(self) -> None:
        """Tell now what was counted: nobody waits for more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock.seconds()
        hosts, self._hosts = self._hosts, {}
        for whose, known in hosts.items():
            if known.untold:
                self._tell(*whose, known, now)

    def _turn(self, now: float) -> None:
        """Begin a second, if one is over, and forget the hosts that are quiet."""
        if not 0 <= now - self._second < 1:
            self._second, self._lines = now, 0
            self._hosts = {
                whose: known
                for whose, known in self._hosts.items()
                if known.untold or not known.isDue(now)
            }

    def _mayTell(self) -> bool:
        """Take one of this second's lines, if there is one left."""
        self._lines += 1
        return self._lines <= MAX_LINES

    def _tellDue(self) -> None:
        """Tell what was counted of hosts that have waited, and look again later."""
        self._timer = None
        now = self._clock.seconds()
        self._turn(now)
        for whose, known in list(self._hosts.items()):
            if known.untold and known.isDue(now) and self._mayTell():
                self._hosts[whose] = self._hosts.pop(whose)
                self._tell(*whose, known, now)
                known.told, known.wait = now, min(LAST_WAIT, 2 * known.wait)
        if any(known.untold for known in self._hosts.values()):
            self._timer = self._clock.callLater(FIRST_WAIT, self._tellDue)

    def _tell(self, host: str, isProbe: bool, known: _Host, now: float) -> None:
        """Tell what was counted of one host: one in its own words."""
        untold, known.untold = known.untold, Counter()
        times = untold.total()
        if times == 1:
            known.last()
            return
        seconds = max(1, round(now - known.told))
        passed = f"{seconds} second{'s' * (seconds > 1)}"
        if isProbe:
            words = f"{times} connections closed without a word in {passed}"
        else:
            kinds = ", ".join(f"{count} {kind}" for kind, count in untold.most_common())
            words = f"{times} more in {passed} ({kinds})"
        self._tellMore(host, times, words, isProbe)
