"""
Tests for L{aesm.secure.transport}: the contract of all transports, and what is ours
alone.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any, cast

from twisted import __version__ as twistedVersion
from twisted.internet import reactor
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.interfaces import (
    IListeningPort,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)

from aesm.secure import wrapClientEndpoint, wrapServerEndpoint
from aesm.trust.keys import PrivateKey
from aesm.trust.servers import Pinned
from tests.support.certificates import selfSigned
from tests.support.helpers import CLIENT_KEY, SERVER_KEY, XX
from tests.support.transportcontract import (
    MemoryEndpoint,
    Recorder,
    TransportContract,
    turns,
)

CLIENT = PrivateKey(CLIENT_KEY)
SERVER = PrivateKey(SERVER_KEY)


def secureServer(endpoint: IStreamServerEndpoint) -> IStreamServerEndpoint:
    """
    Wrap a server endpoint.

    @param endpoint: the endpoint.
    """
    return wrapServerEndpoint(endpoint, key=SERVER, suites=[XX])


def secureClient(endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
    """
    Wrap a client endpoint.

    @param endpoint: the endpoint.
    """
    return wrapClientEndpoint(
        endpoint, key=CLIENT, suites=[XX], trust=Pinned(SERVER.publicKey)
    )


class TCPTests(TransportContract):
    """The contract holds for TCP: it asks for no more than Twisted gives."""

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        return TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        return TCP4ClientEndpoint(reactor, "127.0.0.1", cast(Any, port.getHost()).port)


class MemoryTests(TransportContract):
    """The contract holds for the transport in memory: the fake is verified."""

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        self.endpoint = MemoryEndpoint(cast(Any, reactor))
        return self.endpoint

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        return self.endpoint


class UNIXTests(TransportContract):
    """The contract holds for UNIX sockets."""

    ordinary = False

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "s")
        return UNIXServerEndpoint(reactor, self.path)

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        return UNIXClientEndpoint(reactor, self.path)


class TLSTests(TCPTests):
    """The contract holds for Twisted's TLS, but for what that does not promise."""

    halfCloses = False
    strict = False
    try:
        import OpenSSL
    except ImportError:  # pragma: no cover: where only aesm's own needs are there
        skip = "no pyOpenSSL"
    if (
        int(twistedVersion.partition(".")[0]) < 24
    ):  # txredisapi brings a pyOpenSSL along
        skip = "this TLS is older than any pyOpenSSL for our cryptography"

    async def join(self, client: Recorder, server: Recorder) -> None:
        """
        Connect two protocols, and let TLS finish its handshake.

        @param client: one.
        @param server: the other.
        """
        await super().join(client, server)
        await turns()

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        from twisted.internet import ssl
        from twisted.internet.endpoints import SSL4ServerEndpoint

        certificate = ssl.PrivateCertificate.loadPEM(selfSigned())
        return SSL4ServerEndpoint(
            reactor, 0, certificate.options(), interface="127.0.0.1"
        )

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        from twisted.internet import ssl
        from twisted.internet.endpoints import SSL4ClientEndpoint

        number = cast(Any, port.getHost()).port
        options = ssl.CertificateOptions()
        return SSL4ClientEndpoint(reactor, "127.0.0.1", number, options)


class Secured(TransportContract):
    """
    Puts secure channels on the endpoints of another contract.

    @ivar layers: how many, one inside the other.
    """

    layers = 1

    def makeServer(self) -> IStreamServerEndpoint:
        """@return: where to listen."""
        endpoint = super().makeServer()
        for _ in range(self.layers):
            endpoint = secureServer(endpoint)
        return endpoint

    def makeClient(self, port: IListeningPort) -> IStreamClientEndpoint:
        """
        @param port: what listens.
        @return: how to connect to it.
        """
        endpoint = super().makeClient(port)
        for _ in range(self.layers):
            endpoint = secureClient(endpoint)
        return endpoint


class SecureTCPTests(Secured, TCPTests):
    """The contract holds for secure channels over TCP."""


class SecureInSecureTests(SecureTCPTests):
    """The contract holds for secure channels inside secure channels."""

    layers = 2


class SecureTLSTests(Secured, TLSTests):
    """The contract holds for secure channels over TLS, which makes them no weaker."""

    halfCloses = True
    strict = True


class SecureUNIXTests(Secured, UNIXTests):
    """The contract holds for secure channels over UNIX sockets."""

    ordinary = True


class SecureMemoryTests(Secured, MemoryTests):
    """The contract holds for secure channels in memory."""


del TransportContract, Secured  # trial would run them
