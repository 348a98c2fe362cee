"""
Twisted's C{Int32StringReceiver} over TLS 1.3 (pyOpenSSL): what all others are
compared with.  Only the server has a certificate.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import SSL4ServerEndpoint, wrapClientTLS
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
)

from benchmarks.command import main
from benchmarks.credentials import HOST
from benchmarks.peers.onreactor import LOOPBACK, TwistedPeer, reactor

MODERN = {"raiseMinimumTo": TLSVersion.TLSv1_3}


class Peer(TwistedPeer):
    """The same protocol as in clear, behind TLS."""

    def serverEndpoint(self, directory: str) -> Any:
        """Where to listen."""
        key, certificate = (
            Path(directory, name).read_bytes() for name in ("tls.key", "tls.pem")
        )
        own = PrivateCertificate.loadPEM(key + certificate)
        options = CertificateOptions(
            privateKey=own.privateKey.original, certificate=own.original, **MODERN
        )
        return SSL4ServerEndpoint(reactor, 0, options, backlog=1024, interface=LOOPBACK)

    def clientEndpoint(self, directory: str, port: int) -> Any:
        """Where to connect to."""
        return wrapClientTLS(
            _clientOptions(directory), super().clientEndpoint(directory, port)
        )


@cache
def _clientOptions(directory: str) -> Any:
    """Trust the server's certificate; one context for all connections."""
    pem = Path(directory, "tls.pem").read_bytes()
    return optionsForClientTLS(
        HOST, Certificate.loadPEM(pem), extraCertificateOptions=MODERN
    )


if __name__ == "__main__":
    main(Peer())
