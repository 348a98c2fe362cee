"""
What C{docs/sessions.md} promises in its table and no test of a module shows: failures
with and without spools.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from twisted.logger import capturedLogs

from aesm import ClientService, ConnectionClosed, PrivateKey, SessionLost
from tests.support.pairs import Recorder
from tests.support.spooled import SpoolTestCase

OTHER_KEY = PrivateKey(b"\x33" * 32)


class PromiseTests(SpoolTestCase):
    """Failure by failure."""

    def begin(self, server: bool, client: bool) -> ClientService:
        """
        Start both, and send a message each way, which nobody takes.

        @param server: whether the server has a spool.
        @param client: whether the client has one.
        """
        self.withServer, self.withClient = server, client
        self.startServer()
        service = self.startClient()
        self.sent = [service.sendData("up"), self.accepted.sendData("down")]
        self.network.deliver()
        for sent in self.sent:
            self.successResultOf(sent)
        return service

    def startServer(self, **options: Any) -> None:
        """
        Start the server.

        @param options: as L{listen<aesm.listen>}.
        """
        self.serving(spool=self.path if self.withServer else None, **options)

    def startClient(self) -> ClientService:
        """Start the client."""
        return self.service(spool=self.clientPath if self.withClient else None)

    def unread(self) -> list[Any]:
        """Take what is unread at the server."""
        assert self.server is not None
        data = []
        while (packet := self.server.connections.getDataOrdinal())[0] is not None:
            data.append(packet[1].data)
        return data

    def test_serverKilled(self) -> None:
        """
        A server that is killed without a spool loses what is unread, and its
        clients' sessions: they are told of what may have arrived, and what never left
        goes into the next.
        """
        client = self.begin(server=False, client=False)
        self.network.links[0].toServer.stalled = True
        sent = client.sendData("perhaps")
        self.network.deliver()
        self.killServer()
        never = client.sendData("never left")
        self.startServer()
        with capturedLogs():
            self.network.advance(30)
        self.assertFails(sent, SessionLost)
        self.successResultOf(never)
        self.assertEqual(self.unread(), ["never left"])
        self.assertEqual(self.taking(client.retrieved), ["down"])
        sent = client.sendData("new")
        self.network.deliver()
        self.successResultOf(sent)

    def test_clientKilled(self) -> None:
        """
        A client that is killed without a spool loses what is unread there; who sends
        to it is told once it has not come back, but for what it had acknowledged.
        """
        for server in (False, True):
            client = self.begin(server, client=False)
            self.killService(client)
            connection = self.accepted
            sent = connection.sendData("later")
            client = self.startClient()
            self.assertEqual(len(client.retrieved), 0)
            with capturedLogs():
                self.network.advance(100)
            self.assertFails(sent, SessionLost)
            self.assertEqual(self.unread(), ["up"])
            self.stopService(client)
            self.stopServer()

    def test_bothKilled(self) -> None:
        """Of what was acknowledged, each side has what it has a spool for."""
        for server, client in ((False, False), (True, False), (True, True)):
            service = self.begin(server, client)
            self.killServer()
            self.killService(service)
            self.startServer()
            self.assertEqual(self.unread(), ["up"] * server)
            service = self.startClient()
            self.network.advance(30)
            self.assertEqual(self.taking(service.retrieved), ["down"] * client)
            self.network.deliver()
            self.stopService(service)
            self.network.advance(100)
            self.stopServer()
            for path in (self.path, self.clientPath):
                path.unlink(missing_ok=True)

    def test_cut(self) -> None:
        """
        A cut connection, or one that only one side has given up, loses nothing, with
        and without spools.
        """
        for spools in ((False, False), (True, False), (True, True)):
            client = self.begin(*spools)
            for half in (False, True):
                (link,) = self.network.links
                if half:
                    link.toServer.stalled = link.toClient.stalled = True
                else:
                    link.cut()
                sent = client.sendData("while it is cut")
                self.network.advance(100)
                self.successResultOf(sent)
                link.toServer.stalled = link.toClient.stalled = False
                self.network.deliver()
            self.assertEqual(self.unread(), ["up"] + ["while it is cut"] * 2)
            self.assertEqual(self.taking(client.retrieved), ["down"])
            self.network.deliver()
            self.stopService(client)
            self.network.advance(100)
            self.stopServer()
            for path in (self.path, self.clientPath):
                path.unlink(missing_ok=True)

    def test_expired(self) -> None:
        """
        A client that is away for too long has lost its session, whoever has a spool:
        both senders are told, what was acknowledged is still there, and what never left
        the client goes into the next session, in order.
        """
        for spools in ((False, False), (True, False), (True, True)):
            client = self.begin(*spools)
            listening, self.network.factory = self.network.factory, None
            (link,) = self.network.links
            link.toServer.stalled = True
            up = client.sendData("late")
            self.network.deliver()
            link.cut()
            down = self.accepted.sendData("late")
            never = [client.sendData(data) for data in ("1", b"2", "\u00fc", "4")]
            with capturedLogs():
                self.network.advance(100)
                self.network.factory = listening
                self.network.advance(30)
            for sent in (up, down):
                self.assertFails(sent, SessionLost)
            for sent in never:
                self.successResultOf(sent)
            self.assertEqual(self.unread(), ["up", "1", b"2", "\u00fc", "4"])
            self.assertEqual(self.taking(client.retrieved), ["down"])
            self.network.deliver()
            self.stopService(client)
            self.network.advance(100)
            self.stopServer()
            for path in (self.path, self.clientPath):
                path.unlink(missing_ok=True)

    def test_slowConsumer(self) -> None:
        """
        A client that lets more wait for it than C{sendBuffer} is closed by a server
        with a handler, with code 4000, and begins another session.
        """
        for spools in ((False, False), (True, False), (True, True)):
            self.withServer, self.withClient = spools
            self.startServer(handler=Recorder(), sendBuffer=1000)
            client = self.startClient()
            former: Any = client.former
            for link in self.network.links:
                link.toClient.stalled = True
            sent = [self.accepted.sendData(b"x" * 400) for _ in range(3)]
            self.network.deliver()
            for link in self.network.links:
                link.toClient.stalled = False
            self.network.advance(30)
            self.assertEqual(self.closedReason(former).code, 4000)
            self.assertFails(sent[2], ConnectionClosed)
            self.assertIsNot(client.former, former)
            self.taking(client.retrieved)
            self.network.deliver()
            self.stopService(client)
            self.network.advance(100)
            self.stopServer()
            for path in (self.path, self.clientPath):
                path.unlink(missing_ok=True)

    def test_handlerFails(self) -> None:
        """
        The message at which a handler fails is not acknowledged, and not handled
        again; its sender is told, whoever has a spool.
        """
        for spools in ((False, False), (True, False), (True, True)):
            self.withServer, self.withClient = spools
            handler = Recorder(lambda connection, packet: 1 / 0)
            self.startServer(handler=handler)
            client = self.startClient()
            sent = client.sendData("bad")
            self.network.advance(30)
            self.flushLoggedErrors(ZeroDivisionError)
            self.assertFails(sent, ConnectionClosed)
            self.assertEqual(handler.data, ["bad"])
            self.assertTrue(client.running)
            self.stopService(client)
            self.network.advance(100)
            self.stopServer()
            for path in (self.path, self.clientPath):
                path.unlink(missing_ok=True)

    def test_powerLoss(self) -> None:
        """
        A server whose spool is older than what it has acknowledged, as it may be
        after a loss of power unless every commit waits for the disk, has lost that;
        its client begins another session, and both go on.
        """
        client = self.begin(server=True, client=False)
        self.stopServer()
        older = Path(self.mktemp())
        shutil.copy(self.path, older)
        self.startServer()
        self.network.advance(30)
        acknowledged = client.sendData("acknowledged")
        self.network.deliver()
        self.successResultOf(acknowledged)
        self.killServer()
        for name in (self.path, Path(f"{self.path}-wal")):
            name.unlink(missing_ok=True)
        shutil.copy(older, self.path)
        never = client.sendData("never left")
        with capturedLogs():
            self.startServer()
            self.network.advance(60)
        self.successResultOf(never)
        self.assertEqual(self.unread(), ["up", "never left"])
        sent = client.sendData("new")
        self.network.deliver()
        self.successResultOf(sent)
        self.assertEqual(self.unread(), ["new"])
