"""
How long a L{ClientService} waits between attempts, with the policy that it has where
nobody gives it one.
"""

from __future__ import annotations

from aesm import ClientService
from aesm.client.retry import LONGEST_DELAY, STABLE
from tests.client.test_service import ServiceTestCase


class DelayTests(ServiceTestCase):
    """
    The delays grow until a connection has lived for a while.
    """

    def setUp(self) -> None:
        """
        Make a service, which finds no server.
        """
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
        """
        Let a connection live, and die.

        @param service: is connected.
        @param seconds: how long.
        """
        self.successResultOf(service.whenConnected())
        self.network.advance(seconds)
        self.network.links[0].cut()
        self.network.deliver()

    def assertDelay(self, number: int, delay: float) -> None:
        """
        Check how long a delay is: they grow by half each time, to the longest; a
        second of each is left to chance.

        @param number: which it is, counted from 1.
        @param delay: in seconds.
        """
        least = min(1.5**number, LONGEST_DELAY)
        self.assertTrue(least <= delay <= least + 1, (number, delay))

    def test_grow(self) -> None:
        """
        They grow as long as there is no server.
        """
        delays = [self.wait() for _ in range(15)]
        for number, delay in enumerate(delays, 1):
            self.assertDelay(number, delay)
        self.assertGreater(len(set(delays[-5:])), 1)

    def test_cutAgain(self) -> None:
        """
        They grow over connections that do not live; after one that has they begin
        anew, and grow again.
        """
        self.listening(sessionGrace=0)
        self.assertDelay(1, self.wait())
        for number in range(2, 14):
            self.live(self.client, STABLE - 1)
            self.assertDelay(number, self.wait())
        self.live(self.client, STABLE + 1)
        self.assertDelay(1, self.wait())
        self.live(self.client, 0)
        self.assertDelay(2, self.wait())

    def test_startedAgain(self) -> None:
        """
        They begin anew when the service is started again.
        """
        for _ in range(15):
            self.wait()
        self.stop(self.client)
        self.client.startService()
        self.network.deliver()
        self.assertDelay(1, self.wait())
