"""
How long a L{ClientService} waits between attempts, with the policy that it has where
nobody gives it one.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from twisted.logger import LogLevel, capturedLogs, formatEvent

from aesm import ClientService
from aesm.client.retry import LONGEST_DELAY, PROMPT, RETURN_EVERY, RETURNS
from tests.client.test_service import ServiceTestCase


class DelayTests(ServiceTestCase):
    """The delays grow until a connection has lived for a while."""

    def setUp(self) -> None:
        """Make a service, which finds no server."""
        super().setUp()
        self.client = self.service(retryPolicy=None)

    def wait(self) -> float:
        """
        Let the time until the next attempt pass, and see how that goes.

        @return: how long that was, in seconds.
        """
        (delay,) = self.delays()
        self.network.advance(delay)
        return delay

    def live(self, service: ClientService, seconds: float) -> None:
        """Let a connection live, and die."""
        self.successResultOf(service.whenConnected())
        self.network.advance(seconds)
        self.network.links[0].cut()
        self.network.deliver()

    def assertDelay(self, number: int, delay: float) -> None:
        """
        Check how long a delay is: they grow by half each time, to the longest; a
        second of each is left to chance.

        @param number: which it is, counted from 1.
        """
        least = min(1.5**number, LONGEST_DELAY)
        self.assertTrue(least <= delay <= least + 1, (number, delay))

    def test_grow(self) -> None:
        """They grow as long as there is no server."""
        delays = [self.wait() for _ in range(15)]
        for number, delay in enumerate(delays, 1):
            self.assertDelay(number, delay)
        self.assertGreater(len(set(delays[-5:])), 1)

    def test_cutAgain(self) -> None:
        """
        After a connection that was cut there is next to none; one failed attempt after
        that waits as long as the first of all.
        """
        self.listening(sessionGrace=0)
        self.assertDelay(1, self.wait())
        seen = []
        for _ in range(3 * RETURNS):
            self.live(self.client, RETURN_EVERY)
            seen.append(self.wait())
            self.assertTrue(PROMPT[0] <= seen[-1] <= PROMPT[1] < 0.3, seen)
        self.assertGreater(len(set(seen)), RETURNS)
        self.live(self.client, 0)
        listening, self.network.factory = self.network.factory, None
        self.assertLess(self.wait(), 0.3)
        for number in range(1, 4):
            self.assertDelay(number, self.wait())
        self.network.factory = listening

    def test_storm(self) -> None:
        """
        They grow over connections that are cut over and over as soon as they are
        accepted, and are short again after a while.
        """
        self.listening(sessionGrace=0)
        self.assertDelay(1, self.wait())
        delays = []
        for _ in range(50):
            self.live(self.client, 0)
            delays.append(self.wait())
        self.assertTrue(all(delay < 0.3 for delay in delays[:RETURNS]), delays)
        short = sum(delay < 0.3 for delay in delays)
        self.assertLess(short, RETURNS + sum(delays) / RETURN_EVERY)
        self.assertGreater(sum(delays), 50)
        self.live(self.client, RETURN_EVERY * RETURNS)
        for _ in range(RETURNS):
            self.assertLess(self.wait(), 0.3)
            self.live(self.client, 0)

    def test_startedAgain(self) -> None:
        """They begin anew when the service is started again."""
        for _ in range(15):
            self.wait()
        self.stop(self.client)
        self.client.startService()
        self.network.deliver()
        self.assertDelay(1, self.wait())

    def test_logged(self) -> None:
        """The log says why there is no connection, and when the next attempt is."""
        with capturedLogs() as events:
            self.wait()
        (event,) = [each for each in events if "delay" in each]
        self.assertEqual(event["log_namespace"], "aesm.service")
        self.assertIs(event["log_level"], LogLevel.warn)
        (next,) = self.delays()
        self.assertAlmostEqual(event["delay"], next)
        said = formatEvent(event)
        self.assertIn(f"trying again in {event['delay']:.1f} seconds", said)
        self.assertIn("refused", said)


class PolicyTests(ServiceTestCase):
    """A policy that somebody gives, and that may be wrong."""

    def test_given(self) -> None:
        """It is asked for each delay, with the number of failures in a row."""
        asked: list[int] = []

        def policy(failures: int) -> Any:
            """Answer with what is no float."""
            asked.append(failures)
            return Decimal(failures)

        self.service(retryPolicy=policy)
        for seconds in (1, 2, 3):
            self.assertEqual(self.delays(), [seconds])
            self.network.advance(seconds)
        self.assertEqual(asked, [1, 2, 3, 4])

    def test_wrong(self) -> None:
        """
        One that raises, or returns no finite number from 0, is logged as an error,
        once; then the delays are those of the default.
        """

        def raises(failures: int) -> float:
            """Raise."""
            raise ZeroDivisionError

        wrong: list[Any] = [raises]
        for result in (-1, math.nan, math.inf, None, "3", 1j, 10**400):
            wrong.append(lambda failures, result=result: result)
        for policy in wrong:
            with capturedLogs() as events:
                service = self.service(retryPolicy=policy)
                for number in range(1, 9):
                    (delay,) = self.delays()
                    least = min(1.5**number, LONGEST_DELAY)
                    self.assertTrue(least <= delay <= least + 1, (number, delay))
                    self.network.advance(delay)
                self.listening()
                self.network.advance(16)
            self.successResultOf(service.whenConnected())
            (event,) = [each for each in events if each["log_level"] is LogLevel.error]
            self.assertEqual(event["log_namespace"], "aesm.service")
            self.assertIn("retryPolicy", formatEvent(event))
            self.stop(service)
            self.endServer()

    def test_fails(self) -> None:
        """One that fails later is replaced then, and the count goes on."""

        def policy(failures: int) -> float:
            """Answer three times."""
            return (0.0, 7.0, 0.0)[failures - 1]

        with capturedLogs():
            self.service(retryPolicy=policy)
            self.assertEqual(self.delays(), [7.0])
            self.network.advance(7)
        (delay,) = self.delays()
        self.assertTrue(1.5**4 <= delay <= 1.5**4 + 1, delay)
