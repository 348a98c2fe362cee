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
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)

from benchmarks.command import HOST, main
from benchmarks.peers.onreactor import LOOPBACK, TwistedPeer, reactor

__all__ = ["TLSPeer"]

MODERN = {"raiseMinimumTo": TLSVersion.TLSv1_3}


class TLSPeer(TwistedPeer):
    """The same protocol as in clear, behind TLS."""

    def __init__(self, mutual: bool) -> None:
        """@param mutual: whether the client has a certificate, too."""
        self._mutual = mutual

    def serverEndpoint(self, directory: str) -> Any:
        """Where to listen."""
        own = _certificate(directory, "tls")
        trusted = None
        if self._mutual:
            trusted = trustRootFromCertificates([_certificate(directory, "tls-client")])
        options = CertificateOptions(
            privateKey=own.privateKey.original,
            certificate=own.original,
            trustRoot=trusted,
            **MODERN,
        )
        return SSL4ServerEndpoint(reactor, 0, options, backlog=1024, interface=LOOPBACK)

    def clientEndpoint(self, directory: str, port: int) -> Any:
        """Where to connect to."""
        return wrapClientTLS(
            _clientOptions(directory, self._mutual),
            super().clientEndpoint(directory, port),
        )


def _certificate(directory: str, name: str) -> Any:
    """Load a certificate and its key."""
    parts = [Path(directory, f"{name}.{part}").read_bytes() for part in ("key", "pem")]
    return PrivateCertificate.loadPEM(b"".join(parts))


@cache
def _clientOptions(directory: str, mutual: bool) -> Any:
    """Trust the server's certificate; one context for all connections."""
    return optionsForClientTLS(
        HOST,
        _certificate(directory, "tls"),
        _certificate(directory, "tls-client") if mutual else None,
        extraCertificateOptions=MODERN,
    )


if __name__ == "__main__":
    main(TLSPeer(mutual=False))
