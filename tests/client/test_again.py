"""
A L{ClientService} that is stopped and started again at once, also by who is just
being told how an attempt went.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure

from aesm import ClientService, Pinned
from tests.client.test_service import Nowhere, ServiceTestCase
from tests.support.pairs import CLIENT_KEY


class AgainTests(ServiceTestCase):
    """
    C{stopService()} and C{startService()} in one breath: there is one service
    then, that is running.
    """

    def restart(self, told: object, service: ClientService) -> None:
        """
        Stop and start.

        @param told: what a caller was told.
        """
        self.stopped = service.stopService()
        service.startService()

    def assertConnects(self, service: ClientService) -> None:
        """Check that a service finds a server, and that it is there once."""
        if self.server is None:
            self.listening()
        self.network.advance(60)
        connection = self.successResultOf(service.whenConnected())
        self.assertFalse(connection.isOver)
        self.assertTrue(service.running)
        assert self.server is not None
        self.assertEqual(len(self.server.connections), 1)
        self.successResultOf(self.stopped)
        self.stop(service)
        self.assertEqual(self.delays(), [])

    def test_whenFailed(self) -> None:
        """By who is told that an attempt has failed."""
        for attempts in (1, 3):
            service = self.service(start=False)
            told = service.whenConnected(attempts)
            told.addErrback(self.restart, service)
            service.startService()
            self.network.advance(10)
            self.assertIsNone(self.successResultOf(told))
            self.assertConnects(service)
            self.endServer()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_givesUp(self) -> None:
        """
        Who is told that an attempt has failed may keep others from waiting: they
        are told that, and no more.
        """
        service = self.service(start=False)
        first, second = service.whenConnected(1), service.whenConnected(1)
        first.addErrback(lambda failure: second.cancel())
        service.startService()
        self.network.deliver()
        self.assertIsNone(self.successResultOf(first))
        self.failureResultOf(second, CancelledError)
        self.stop(service)

    def test_whenConnected(self) -> None:
        """By who is told that there is a connection."""
        self.listening()
        service = self.service(start=False)
        told = service.whenConnected().addCallback(self.restart, service)
        service.startService()
        self.network.deliver()
        self.assertIsNone(self.successResultOf(told))
        self.assertConnects(service)

    def test_whenStopped(self) -> None:
        """By who is told that it has stopped."""
        service = self.service()
        told = service.whenConnected().addErrback(self.restart, service)
        service.stopService()
        self.network.deliver()
        self.assertIsNone(self.successResultOf(told))
        self.assertConnects(service)

    def test_whenRefused(self) -> None:
        """By who is told that it has stopped by itself."""
        for ask in (ClientService.whenConnected, lambda each: each.retrieved.get()):
            self.listening()
            service = self.service(start=False, trust=Pinned(CLIENT_KEY.publicKey))
            told = ask(service).addErrback(_stop, service)
            service.startService()
            self.network.deliver()
            self.assertIsNone(self.successResultOf(told))
            self.assertEqual(self.delays(), [])

    def test_whenClosed(self) -> None:
        """By who is told that it has stopped, and the connection is gone."""
        self.listening()
        service = self.service()
        told = service.retrieved.get().addErrback(_stop, service)
        stopped = service.stopService().addCallback(_stop, service)
        self.network.deliver()
        self.assertIsNone(self.successResultOf(told))
        self.assertIsNone(self.successResultOf(stopped))

    def test_connecting(self) -> None:
        """While there is no transport yet: that attempt is given up."""
        endpoint = Nowhere()
        service = self.service(endpoint=endpoint)
        self.restart(None, service)
        self.network.advance(10)
        first, second = endpoint.attempts
        self.assertTrue(first.called)
        self.assertFalse(second.called)
        second.errback(Failure(ConnectionRefusedError()))
        self.network.advance(10)
        self.assertEqual(len(endpoint.attempts), 3)
        self.stop(service)
        self.assertEqual(self.delays(), [])

    def test_anytime(self) -> None:
        """
        In any turn between the beginning and the first message, while it is
        connected, and while it waits to try again.
        """
        self.listening()
        for turns in range(12):
            service = self.service(start=False)
            service.startService()
            self.network.clock.advance(0)
            for _ in range(turns):
                for link in self.network.links:
                    link.deliver()
            self.restart(None, service)
            self.assertConnects(service)
        service = self.service()
        self.restart(None, service)
        self.assertConnects(service)
        self.endServer()
        service = self.service()
        self.restart(None, service)
        self.assertConnects(service)


def _stop(told: object, service: ClientService) -> Deferred[None]:
    """
    Stop.

    @param told: what a caller was told.
    @return: fires when it has stopped.
    """
    return service.stopService()
