"""
Tests for a L{ClientService} with a spool that takes its time: the file is part of what
it waits for when it stops.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from aesm import AnyServer, ClientService, SpoolError
from aesm.client.states import ServiceState
from tests.support.pairs import CLIENT_KEY
from tests.support.spooled import SpoolTestCase


class ClosingTests(SpoolTestCase):
    """A service stops, and its file is not closed yet."""

    def closing(self, code: int | None) -> tuple[ClientService, list[Deferred[Any]]]:
        """
        Have a service whose connection is gone, and whose spool is being written.

        @param code: with which the server closes; None to stop the service.
        @return: the service, and who waits.
        """
        self.serving(spool=None)
        self.byHand = True
        service = self.service(spool=self.clientPath)
        self.onDisk(self.worker)
        self.assertTrue(self.successResultOf(service.whenConnected()).isOpen)
        service.sendData("x")
        waiting: list[Deferred[Any]] = [service.retrieved.get()]
        if code is None:
            waiting.append(service.stopService())
        else:
            self.accepted.closeWith(code, "")
        self.network.advance(20)
        self.assertEqual(self.network.links, [])
        self.assertIs(service._state, ServiceState.STOPPING)
        return service, waiting

    def test_stop(self) -> None:
        """
        All who stop it wait for the file, also where it stops by itself; then those
        who wait are told.
        """
        for code in (None, 1008):
            service, waiting = self.closing(code)
            waiting.append(service.stopService())
            for deferred in waiting:
                self.assertNoResult(deferred)
            self.onDisk(self.worker)
            for deferred in waiting[1:]:
                self.successResultOf(deferred)
            self.assertClosed(waiting[0])
            self.assertIs(service._state, ServiceState.STOPPED)
            del self.services[service]
            self.stopServer()

    def test_start(self) -> None:
        """It cannot be started before, which changes nothing; and then it can."""
        service, waiting = self.closing(None)
        self.assertRaises(SpoolError, service.startService)
        self.assertFalse(service.running)
        self.assertIs(service._state, ServiceState.STOPPING)
        self.assertClosed(service.sendData("y"), 1000)
        self.settle()
        self.successResultOf(waiting[1])
        self.assertClosed(waiting[0], 1000)
        service.startService()
        self.settle()
        self.assertTrue(self.successResultOf(service.whenConnected()).isOpen)

    def test_impatient(self) -> None:
        """
        Who waits for one attempt, after which the service stops by itself, is told
        when it can be started again.
        """
        self.serving(authorizedKeys=lambda publicKey, address: False)
        self.byHand = True
        service = self.service(spool=self.clientPath, deliver=False)
        again = service.whenConnected(1)
        again.addErrback(lambda failure: service.startService())
        self.network.deliver()
        self.onDisk(self.worker)
        self.assertIsNone(self.successResultOf(again))


class RestoredTests(SpoolTestCase):
    """A service goes on with what is in its spool."""

    def test_over(self) -> None:
        """
        What is unread of a session that is over is there; what is sent goes into
        another session.
        """
        self.serving()
        service = self.service(spool=self.clientPath)
        self.accepted.sendData("unread")
        self.network.deliver()
        self.accepted.closeWith(4000, "")
        self.network.deliver()
        self.killService(service)
        service = self.service(spool=self.clientPath, deliver=False)
        self.assertIsNone(service.former)
        self.assertEqual(self.taking(service.retrieved), ["unread"])
        sent = service.sendData("x")
        self.network.deliver()
        self.successResultOf(sent)

    def test_stopped(self) -> None:
        """
        Who gets what was unread may stop the service at once: what was sent before
        it was started is not sent, and the session is kept.
        """
        self.serving()
        service = self.service(spool=self.clientPath)
        self.accepted.sendData("unread")
        self.network.deliver()
        self.stopService(service)
        got = service.retrieved
        self.assertEqual([packet.data for packet in got], ["unread"])
        service = ClientService(
            self.network.endpoint(),
            reactor=self.network.clock,
            key=CLIENT_KEY,
            trust=AnyServer(),
            spool=self.clientPath,
        )
        sent = service.sendData("x")
        told = service.retrieved.get().addCallback(
            lambda packet: service.stopService().addCallback(lambda none: packet.data)
        )
        service.startService()
        self.settle()
        self.assertEqual(self.successResultOf(told), "unread")
        self.assertClosed(sent, 1000)
        self.assertFalse(service.running)
        self.assertEqual(self.network.links, [])
        self.assertEqual(len(self.stored(self.clientPath)), 1)
