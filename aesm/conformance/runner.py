"""
Runs checks and says how they went::

    async for outcome in run(subject, chosen(subject, "sessions.*")):
        print(row(outcome))

Those of a server run side by side, since some wait for its time-outs; a client has one
connection at a time, so that its checks take turns.  What is told is always in the
order of the list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from twisted.internet.defer import Deferred, DeferredSemaphore

from aesm.conformance.case import (
    CHECKS,
    LONGEST,
    SERVER,
    Case,
    Check,
    NotApplicable,
    Subject,
)
from aesm.conformance.checks import (  # noqa: F401  # each lists its own
    client,
    closing,
    early,
    flow,
    frames,
    handshake,
    heartbeat,
    hello,
    offer,
    records,
    requests,
    sessions,
)
from aesm.conformance.wire import Unmet
from aesm.noise import hybridSupported

AT_ONCE = 16  # checks of a server, by the side of each other
PASS, FAIL, WARN, NOT_APPLICABLE = "pass", "fail", "warn", "n/a"


@dataclass(frozen=True)
class Outcome:
    """
    How a check went.

    @ivar name: of the check.
    @ivar requirement: in docs/protocol.md.
    @ivar verdict: L{PASS}; L{FAIL}, or L{WARN} if the requirement says SHOULD; or
        L{NOT_APPLICABLE}.
    @ivar seen: what was seen, one sentence.
    @ivar seconds: how long it took.
    """

    name: str
    requirement: str
    verdict: str
    seen: str
    seconds: float


def chosen(role: str, only: Sequence[str] = ()) -> list[Check]:
    """Choose checks of a role, by globs of their names."""
    return [
        check
        for check in CHECKS.values()
        if role in check.roles
        and (not only or any(fnmatchcase(check.name, glob) for glob in only))
    ]


async def probe(subject: Subject) -> None:
    """
    Get to know the implementation: a suite that it takes, what it says of itself, and
    whether it keeps sessions.

    @raise Unmet: nobody can talk with it; says why.
    """
    case, problem = Case(subject), Unmet("")
    try:
        hybrid = hybridSupported()
        for suite in subject.suites if subject.role == SERVER else subject.suites[:1]:
            if "hfs" in suite and not hybrid:
                continue
            subject.suite = suite
            try:
                peer = await case.open()
                break
            except Unmet as error:
                problem = error
        else:
            raise problem
        if subject.role == SERVER:
            peer.wire.cut()
            subject.keeps = False
            with suppress(NotApplicable):
                await case.resume(peer)
                subject.keeps = True
    finally:
        await case.finish()


async def run(subject: Subject, checks: Iterable[Check]) -> AsyncIterator[Outcome]:
    """Run checks, and give how they went, each as soon as all before it are done."""
    checks = list(checks)
    places = DeferredSemaphore(AT_ONCE if subject.role == SERVER else 1)
    # Who waits begins at once, and is done when the others are.
    started = {
        check.name: places.run(_started, subject, check)
        for check in sorted(checks, key=lambda check: check.begins)
    }
    for check in checks:
        yield await started[check.name]


def _started(subject: Subject, check: Check) -> Deferred[Outcome]:
    """Begin with a check."""
    return Deferred.fromCoroutine(_one(subject, check))


async def _one(subject: Subject, check: Check) -> Outcome:
    """Run a check."""
    case, start = Case(subject), subject.clock.seconds()
    verdict, seen = PASS, check.says
    failed = FAIL if check.must else WARN
    # Each wait is bounded; this bounds those that follow on one another without end.
    running: Deferred[None] = Deferred.fromCoroutine(check.run(case))
    running.addTimeout(4 * LONGEST * subject.patience, subject.clock, _tooLong)
    try:
        await running
    except NotApplicable as reason:
        verdict, seen = NOT_APPLICABLE, str(reason)
    except Unmet as reason:
        verdict, seen = failed, str(reason)
    await case.finish()
    seconds = subject.clock.seconds() - start
    return Outcome(check.name, check.requirement, verdict, seen, round(seconds, 3))


def _tooLong(result: object, timeout: float) -> object:
    """Make a failure of a check that does not end."""
    raise Unmet(f"it was not done in {timeout:g} s")


def summary(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Count verdicts."""
    return {
        verdict: sum(outcome.verdict == verdict for outcome in outcomes)
        for verdict in (PASS, FAIL, WARN, NOT_APPLICABLE)
    }
