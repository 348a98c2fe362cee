"""
Tests for L{aesm.server.kept}: sessions that are not here when their clients come.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from aesm import AnyServer, ClientService, ConnectionClosed, PrivateKey, Server, connect
from aesm.core.messages.hello import Hello
from aesm.errors import SpoolError
from aesm.secure.refusals import Refused
from aesm.server import stores
from aesm.server.factory import AESMServerFactory
from aesm.server.handover import GREETING
from aesm.server.kept import KeptSessions
from aesm.store.interface import ISessionStore
from tests.support.pairs import CLIENT_KEY, SERVER_KEY, Recorder
from tests.support.shelf import Shelf, ShelfStore
from tests.support.spooled import Mortal, SpoolTestCase

OTHER_KEY = PrivateKey(b"\x33" * 32)


class KeptTestCase(SpoolTestCase):
    """
    Servers whose store has all answers later, and one shelf behind it.

    @ivar stores: of the servers, the newest last.
    @ivar isSlow: whether the next one's answers wait until told.
    """

    def setUp(self) -> None:
        """Have a shelf."""
        super().setUp()
        self.shelf = Shelf()
        self.stores: list[ShelfStore] = []
        self.isSlow = False
        self.patch(stores, "spoolOpener", lambda *these: self.openStore)

    def openStore(self) -> ShelfStore:
        """Open the store of a server."""
        store = ShelfStore(self.shelf)
        store.isSlow = self.isSlow
        self.stores.append(store)
        return store

    def serving(self, handler: object = None, **options: Any) -> Server:
        """Start the server, which is not ready until its store is open."""
        if not self.isSlow:
            return super().serving(handler, **options)
        self.process = Mortal(self.network.clock)
        self.server = Server(
            self.network.endpoint(),
            reactor=self.process,
            key=SERVER_KEY,
            handler=handler,
            **options,
        )
        self.starting = self.server.start()
        return self.server

    @property
    def store(self) -> ShelfStore:
        """The store that was opened last."""
        return self.stores[-1]

    def closeStore(self, journal: Any) -> None:
        """Kill the store of a server."""
        journal.store.kill()

    def settle(self) -> None:
        """Answer everything, deliver everything, and let time pass."""
        for _ in range(3):
            for store in self.stores:
                self.answerAll(store)
            super().settle()

    def answerAll(self, store: ShelfStore) -> None:
        """Answer all that waits, and what follows from that."""
        while store.waiting:
            store.work()
            self.network.deliver()

    @property
    def kept(self) -> KeptSessions:
        """What is tested."""
        assert self.server is not None
        kept = self.server.factory.manager.kept
        assert kept is not None
        return kept

    def moved(self, **options: Any) -> tuple[ClientService, str]:
        """
        Have a client whose server is killed, and another server with a slow store,
        which has the client's session only if it is claimed.

        @return: the client, which is about to come, and its session's name.
        """
        self.serving()
        client = self.service()
        name = self.accepted.session.name
        self.accepted.sendData("down").addErrback(lambda failure: None)
        self.network.clock.advance(0)  # written, and nobody has it
        self.killServer()
        elsewhere = ShelfStore(self.shelf)
        self.shelf.owners[name] = elsewhere  # so that it does not come with open()
        self.serving(**options)
        self.store.isSlow = True
        client.sendData("up").addErrback(lambda failure: None)
        return client, name

    def come(self) -> None:
        """Let time pass in which clients come."""
        for _ in range(4):
            self.network.advance(1)

    def connecting(self, key: PrivateKey = OTHER_KEY) -> Any:  # type: ignore[override]
        """Begin to connect."""
        connecting = connect(
            self.network.clock, self.network.endpoint(), trust=AnyServer(), key=key
        )
        self.network.deliver()
        return connecting

    def assertGoesOn(self, client: ClientService, name: str) -> None:
        """Check that a client has come back to its session, and all is there."""
        self.assertEqual(self.accepted.session.name, name)
        self.assertEqual(self.taking(client.retrieved), ["down"])
        self.assertEqual(self.taking(self.accepted.retrieved), ["up"])


class OpenTests(KeptTestCase):
    """The sessions with which a store opens."""

    def restarted(self) -> tuple[ClientService, Server]:
        """Have a client whose server was killed, and another one that opens slowly."""
        self.serving()
        client = self.service()
        self.killServer()
        self.isSlow = True
        server = self.serving()
        self.come()
        return client, server

    def test_interface(self) -> None:
        """The shelf is a store."""
        verifyObject(ISessionStore, ShelfStore(self.shelf))

    def test_late(self) -> None:
        """Clients that come before they are there wait for that, new ones too."""
        client, server = self.restarted()
        connecting = self.connecting()
        self.assertNoResult(connecting)
        self.assertEqual(list(server.connections), [])
        name = client.former.session.name if client.former else ""
        self.assertNoResult(self.starting)
        self.store.work()
        self.assertIs(self.successResultOf(self.starting), server)
        self.network.deliver()
        self.assertEqual([c.session.name for c in server.connections.values()], [name])
        self.settle()
        self.successResultOf(connecting)
        self.assertEqual(len(server.connections), 2)

    def test_gone(self) -> None:
        """Who goes meanwhile is not waited for."""
        client, server = self.restarted()
        connecting = self.connecting()
        connecting.cancel()
        self.failureResultOf(connecting)
        self.network.deliver()
        self.settle()
        (connection,) = server.connections.values()
        assert client.former is not None
        self.assertEqual(connection.session.name, client.former.session.name)

    def test_notRead(self) -> None:
        """If they cannot be read nobody is let in, and the server stops."""
        for isBug in (False, True):
            connecting = self.failing(isBug)
            self.failureResultOf(connecting, ConnectionClosed)
            self.store.broken = None
            self.stopServer()
            self.successResultOf(self.retried())

    def test_notReadAlone(self) -> None:
        """A factory that something else listens with lets nobody in then, or later."""
        self.isSlow = True
        made = AESMServerFactory(reactor=self.network.clock, key=SERVER_KEY)
        self.successResultOf(self.network.endpoint().listen(made))
        connecting = [self.connecting()]
        self.store.broken = SpoolError("no shelf")
        self.store.work()
        connecting.append(self.connecting())
        for each in connecting:
            refused: Any = self.failureResultOf(each, ConnectionClosed).value
            self.assertEqual(refused.code, 1013)
        self.failureResultOf(made.manager.opened(), SpoolError)
        self.store.broken = None
        stopped = made.stop()
        self.settle()
        self.successResultOf(stopped)
        made.stopFactory()

    def failing(self, isBug: bool) -> Any:
        """Begin to connect to a server that cannot read its sessions, late."""
        self.isSlow = True
        self.serving()
        connecting = self.connecting()
        self.assertNoResult(connecting)
        self.store.broken = KeyError("bug") if isBug else SpoolError("no shelf")
        kind = type(self.store.broken)
        self.store.work()
        self.assertEqual(bool(self.flushLoggedErrors(kind)), isBug)
        self.failureResultOf(self.starting, kind)
        self.network.deliver()
        return connecting

    def retried(self) -> Any:
        """Connect to a server that is started again."""
        self.isSlow = False
        self.serving()
        connecting = self.connecting(CLIENT_KEY)
        connection = self.successResultOf(connecting)
        connection.close()
        self.settle()
        self.stopServer()
        return connecting

    def test_notReadNow(self) -> None:
        """If that turns out at once the server does not start."""
        shelf = self.shelf

        class Broken(ShelfStore):
            """A store that cannot be read."""

            def __init__(self) -> None:
                """ """
                super().__init__(shelf)
                self.broken = SpoolError("no shelf")

        self.patch(stores, "spoolOpener", lambda *these: Broken)
        self.assertIn("no shelf", self.cannotServe())

    def test_stopped(self) -> None:
        """A server that is stopped meanwhile goes on with nothing."""
        client, server = self.restarted()
        starting = self.starting
        stopped = server.stop()
        self.failureResultOf(starting, CancelledError)
        self.network.advance(2 * GREETING)  # that clients have to get in
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(list(server.connections), [])
        self.server = None
        self.isSlow = False
        self.serving()
        self.come()
        assert client.former is not None
        self.assertEqual(self.accepted.session.name, client.former.session.name)


class ClaimTests(KeptTestCase):
    """Sessions that clients bring along from another process."""

    def test_moved(self) -> None:
        """A client goes on with its session, with all that is in it."""
        client, name = self.moved()
        self.come()
        assert self.server is not None
        self.assertEqual(list(self.server.connections), [])
        self.settle()
        self.assertGoesOn(client, name)

    def test_handler(self) -> None:
        """A handler is told of it as of one that was there before a restart."""
        handler = Recorder()
        _, name = self.moved(handler=handler)
        self.come()
        self.assertEqual(handler.names, [])
        self.settle()
        self.assertEqual(self.accepted.session.name, name)
        self.assertEqual(handler.names, ["accepted", "packet"])

    def test_gone(self) -> None:
        """
        It goes on here though its client has gone meanwhile, and is asked for once: the
        client has the grace to come back.
        """
        client, name = self.moved()
        for _ in range(3):
            self.come()
            self.assertEqual(len(self.store.waiting), 1)
            for link in self.network.links:
                link.cut()
        self.store.work()
        assert self.server is not None
        self.assertEqual(self.server.factory.waiting, 1)
        for _ in range(20):
            self.network.advance(1)
            self.answerAll(self.store)
        self.assertGoesOn(client, name)

    def test_expired(self) -> None:
        """
        Its grace begins when it comes here, and ends when the store says so, of which
        it is asked again and again.
        """
        client, name = self.moved(sessionGrace=30)
        self.come()
        self.killService(client)
        self.network.deliver()
        self.network.advance(100)
        self.store.work()
        self.assertEqual(self.accepted.session.name, name)
        assert self.server is not None
        for seconds in (29, 2, 31):
            self.network.advance(seconds)
            self.answerAll(self.store)
            self.assertEqual(self.server.factory.waiting, 1)
        del self.shelf.sessions[name], self.shelf.owners[name]
        self.network.advance(31)
        self.network.advance(0)
        self.answerAll(self.store)
        self.assertEqual(self.server.factory.waiting, 0)

    def test_others(self) -> None:
        """Nobody has that of another key, nor one that there is not."""
        client, name = self.moved()
        for session, key in ((name, OTHER_KEY), ("ab" * 16, CLIENT_KEY)):
            fetched: Any = self.kept.fetch(Hello(session=session), key.publicKey)
            self.assertNoResult(fetched)
            self.store.work()
            self.assertIsNone(self.successResultOf(fetched))
        assert self.server is not None
        self.assertEqual(list(self.server.connections), [])
        self.come()
        self.settle()
        self.assertGoesOn(client, name)

    def test_begins(self) -> None:
        """Who begins a session asks for none."""
        self.serving()
        for hello in (Hello(), Hello(session="ab" * 16, early=1)):
            self.assertIsNone(self.kept.fetch(hello, OTHER_KEY.publicKey))

    def test_fails(self) -> None:
        """If nobody can say where it is its client comes again (1013)."""
        client, name = self.moved()
        for reason in (SpoolError("no shelf"), KeyError("bug")):
            self.come()
            self.store.broken = reason
            with capturedLogs() as logs:
                self.store.work()
                self.network.deliver()
            failed = [
                each for each in logs if "cannot be fetched" in each["log_format"]
            ]
            self.assertEqual(len(failed), isinstance(reason, KeyError))
            self.flushLoggedErrors(KeyError)
            assert self.server is not None
            self.assertEqual(list(self.server.connections), [])
            self.assertEqual(self.entries(self.server)[-1].event, "refused")
        self.store.broken = None
        for _ in range(5):
            self.come()
        self.settle()
        self.assertGoesOn(client, name)

    def test_most(self) -> None:
        """No more are asked for at a time than there may be connections."""
        self.serving(maxConnections=2)
        self.store.isSlow = True
        names = [f"{number:032x}" for number in range(3)]
        for name in names[:2]:
            self.kept.fetch(Hello(session=name), CLIENT_KEY.publicKey)
        self.assertRaises(
            Refused, self.kept.fetch, Hello(session=names[2]), CLIENT_KEY.publicKey
        )
        again: Any = self.kept.fetch(Hello(session=names[1]), CLIENT_KEY.publicKey)
        again.cancel()
        self.failureResultOf(again, CancelledError)
        self.store.work()
        self.kept.fetch(Hello(session=names[2]), CLIENT_KEY.publicKey)
        self.assertEqual(len(self.store.waiting), 2)

    def test_stopped(self) -> None:
        """One that has its answer when the server stops stays where it is."""
        client, name = self.moved()
        self.come()
        assert self.server is not None
        server, self.server = self.server, None
        stopped = server.stop()
        self.network.advance(2 * GREETING)  # that clients have to get in
        self.settle()
        self.successResultOf(stopped)
        self.assertEqual(list(server.connections), [])
        self.serving()
        self.come()
        self.settle()
        self.assertGoesOn(client, name)

    def test_perKey(self) -> None:
        """What counts is who is there when it has come."""
        client, name = self.moved(perKey="reject")
        self.come()
        self.store.isSlow = False
        other = self.successResultOf(self.connecting(CLIENT_KEY))
        self.store.work()
        self.network.deliver()
        assert self.server is not None
        last = self.entries(self.server)[-1]
        self.assertEqual(last.event, "refused")
        self.assertIn("connected already", last.reason)
        other.close()
        for _ in range(5):
            self.come()
        self.settle()
        self.assertGoesOn(client, name)
