"""
Tests for L{aesm.secure.hosts}: what a client's string dials.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event, current_thread
from typing import Any, cast

from twisted.internet._resolver import HostResolution
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer
from zope.interface.verify import verifyObject

from aesm.secure import hosts
from aesm.secure.hosts import HostEndpoint, clientEndpoint


@implementer(IHostnameResolver)
class Names:
    """A resolver that has a table."""

    def __init__(self, *found: str) -> None:
        """@param found: the addresses of every name."""
        self.found = found

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Look it up, at once."""
        resolution: IHostResolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for host in self.found:
            kind = IPv6Address if ":" in host else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


def resolving(reactor: MemoryReactorClock) -> MemoryReactorClock:
    """
    Have a reactor resolve every name in memory, addresses among them: with an older
    Twisted one in memory asks the system, in a thread.
    """
    cast(Any, reactor).nameResolver = Names("127.0.0.1")
    alsoProvides(reactor, IReactorPluggableNameResolver)
    return reactor


class HostsTests(SynchronousTestCase):
    """L{clientEndpoint} and L{HostEndpoint}."""

    def setUp(self) -> None:
        """Have a reactor in memory."""
        self.reactor: Any = MemoryReactorClock()
        self.factory = Factory.forProtocol(Protocol)

    def dialled(self) -> list[tuple[str, int]]:
        """Tell which addresses were dialled since the last time."""
        clients = [client[:2] for client in self.reactor.tcpClients]
        self.reactor.tcpClients.clear()
        return clients

    def resolve(self, *found: str) -> None:
        """Give every name these addresses."""
        self.reactor.nameResolver = Names(*found)

    def test_interface(self) -> None:
        """It is an endpoint."""
        endpoint = clientEndpoint(self.reactor, "tcp:127.0.0.1:1")
        verifyObject(IStreamClientEndpoint, endpoint)
        verifyObject(IHostnameResolver, hosts._Resolving(self.reactor, list))
        receiver: Any = None
        verifyObject(IResolutionReceiver, hosts._Sorting(receiver, list))
        self.assertIn("127.0.0.1", repr(endpoint))

    def test_strings(self) -> None:
        """Hosts and ports are taken as people write them."""
        for text, host, port in (
            ("tcp:127.0.0.1:021011", "127.0.0.1", 21011),
            ("TCP:host=127.0.0.1:port=1:timeout=5", "127.0.0.1", 1),
            ("127.0.0.1:8766", "127.0.0.1", 8766),
            ("127.0.0.1", "127.0.0.1", 8765),
            ("[::1]:8766", "::1", 8766),
            ("[::1]", "::1", 8765),
            ("::1", "::1", 8765),
            ("tcp:[::1]:8766", "::1", 8766),
            ("tcp:[::1]:8766:timeout=5", "::1", 8766),
            (r"tcp:\:\:1:8766", "::1", 8766),
        ):
            clientEndpoint(self.reactor, text).connect(self.factory)
            self.assertEqual(self.dialled(), [(host, port)], text)

    def test_others(self) -> None:
        """
        Twisted's other endpoints are as ever, and so are its words for what is none.
        """
        for text in ("unix:/run/aesm.sock", "unix:8765"):
            endpoint = clientEndpoint(self.reactor, text)
            self.assertNotIsInstance(endpoint, HostEndpoint)
        for text in (
            "tcp:host:1:what=5",
            "tcp:host:port",
            "tcp:host:0",
            "what:host:1",
            *(
                f"tcp:host:1:timeout={wrong}"
                for wrong in ("-1", "0", "nan", "inf", "x")
            ),
        ):
            with self.assertRaises((ValueError, TypeError)):
                clientEndpoint(self.reactor, text)

    def test_options(self) -> None:
        """Time-out and the address to dial from are passed on."""
        text = "tcp:127.0.0.1:1:timeout=5:bindAddress=127.0.0.2"
        clientEndpoint(self.reactor, text).connect(self.factory)
        ((_, _, _, timeout, bind),) = self.reactor.tcpClients
        self.assertEqual((timeout, bind), (5.0, ("127.0.0.2", 0)))

    def test_bothFamilies(self) -> None:
        """All addresses of a name are tried, one after another."""
        self.resolve("::1", "127.0.0.1")
        clientEndpoint(self.reactor, "example.org").connect(self.factory)
        self.reactor.advance(1)
        self.assertEqual(self.dialled(), [("::1", 8765), ("127.0.0.1", 8765)])

    def test_many(self) -> None:
        """
        However many addresses refuse or say nothing, the one that answers is found, and
        the attempts that are still under way then are given up.
        """
        self.resolve(*(f"127.0.0.{number}" for number in range(1, 42)))
        connecting = clientEndpoint(self.reactor, "example.org").connect(self.factory)
        for number in range(41):
            self.assertNoResult(connecting)
            host, _, factory, *_ = self.reactor.tcpClients[-1]
            self.assertEqual(host, f"127.0.0.{number + 1}")
            if number % 2:
                refused = Failure(ConnectionRefusedError())
                factory.clientConnectionFailed(self.reactor.connectors[-1], refused)
            if number < 40:
                self.reactor.advance(0.31)
        factory.buildProtocol(None).makeConnection(StringTransport())
        self.successResultOf(connecting)
        silent = self.reactor.connectors[:40:2]
        self.assertTrue(all(each.stoppedConnecting for each in silent))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_nobody(self) -> None:
        """A name without addresses is an error."""
        self.resolve()
        connecting = clientEndpoint(self.reactor, "example.org").connect(self.factory)
        self.failureResultOf(connecting, DNSLookupError)

    def test_avoid(self) -> None:
        """
        Addresses at which nothing came about come last, the latest of them behind all
        others.
        """
        self.resolve("127.0.0.1", "127.0.0.2", "127.0.0.3")
        endpoint = clientEndpoint(self.reactor, "example.org:1")
        assert isinstance(endpoint, HostEndpoint)
        for bad, order in (("1", "231"), ("2", "312"), ("3", "123"), ("1", "231")):
            endpoint.avoid(IPv4Address("TCP", f"127.0.0.{bad}", 1))
            endpoint.connect(self.factory)
            self.reactor.pump([0.4] * 4)
            hosts = [f"127.0.0.{number}" for number in order]
            self.assertEqual([host for host, _ in self.dialled()], hosts)

    def test_avoidForgotten(self) -> None:
        """An address that the name has no longer is not avoided when it is back."""
        endpoint = clientEndpoint(self.reactor, "example.org:1")
        assert isinstance(endpoint, HostEndpoint)
        endpoint.avoid(IPv4Address("TCP", "127.0.0.1", 1))
        for found in (["127.0.0.3"], ["127.0.0.1", "127.0.0.2"]):
            self.resolve(*found)
            endpoint.connect(self.factory)
            self.reactor.pump([0.4] * 4)
            self.assertEqual([host for host, _ in self.dialled()], found)

    def test_threads(self) -> None:
        """
        A look-up is in a thread that does not keep the process alive; what it raises
        comes back.
        """
        done = Event()
        results: list[Any] = []

        def finish(success: bool, result: Any) -> None:
            """Keep the result."""
            results.append((success, result))
            done.set()

        for function in (lambda: current_thread().daemon, lambda: 1 // 0):
            done.clear()
            hosts._Threads().callInThreadWithCallback(finish, function)
            self.assertTrue(done.wait(60))
        (right, daemon), (wrong, failure) = results
        self.assertEqual((right, daemon, wrong), (True, True, False))
        failure.trap(ZeroDivisionError)
