"""
Tests that are coroutines of asyncio's, each on a loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

LONG = 600.0  # seconds; more than any machine needs

__all__ = ["LONG", "LoopTestCase", "turns"]


class LoopTestCase(SynchronousTestCase):
    """Runs coroutines; what asyncio reports behind their backs is an error."""

    def runLoop(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """
        Run a coroutine in a new loop, and fail if anything was reported to that.

        @param coroutine: what to do.
        """
        reports: list[dict[str, Any]] = []

        async def watched() -> None:
            """Do it, in good time."""
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, report: reports.append(report))
            async with asyncio.timeout(LONG):
                await coroutine

        asyncio.run(watched())
        self.assertEqual(reports, [])


async def turns(number: int = 5) -> None:
    """Let the loop turn, so that all can run that need not wait."""
    for _ in range(number):
        await asyncio.sleep(0)
