"""
Which tests say nothing of a wheel that was compiled: one list, with the reasons.

A compiled module calls its own functions and methods, and those of other compiled
modules, directly.  What a test puts in their place is not called then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aesm._version import FORM

_DIRECT = "what it puts in a method's place is not called by compiled modules"
_UNSEEN = "it counts calls of Python's"

EXCEPTED = {
    "tests.conformance.test_mutants.CompiledMutantTests": _DIRECT,
    "tests.store.test_connection.CostTests.test_flushes": _DIRECT,
    "tests.system.test_trace.TraceTests.test_bounds": _UNSEEN,
    "tests.test_fuzz.PlantedTests.test_acknowledgedTooEarly": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_answerForgotten": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_answeredTwice": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_cutIsEnd": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_pausedReordered": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_restElsewhere": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_sentAgain": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_unboundedBatch": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_unboundedWindow": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_unexpected": _DIRECT,
    "tests.test_fuzz.PlantedTests.test_wideText": _DIRECT,
}

T = TypeVar("T", bound=Callable[..., object])


def excepted(test: T) -> T:
    """
    Leave a test out where compiled modules run.

    @param test: a method, or a class of them, that the list above names.
    """
    reason = EXCEPTED[f"{test.__module__}.{test.__qualname__}"]
    if FORM == "compiled":
        test.skip = reason  # type: ignore[attr-defined]
    return test
