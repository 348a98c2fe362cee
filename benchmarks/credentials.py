"""
The keys and certificates of the peers, made once for each run::

    writeCredentials(directory)
"""

from __future__ import annotations

import datetime
from pathlib import Path

import zmq
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from aesm import PrivateKey
from benchmarks.command import HOST

__all__ = ["writeCredentials"]


def writeCredentials(directory: Path) -> None:
    """
    Write all there are: C{tls.pem} and C{tls.key}, C{tls-client.pem} and
    C{tls-client.key}, C{aesm.key}, C{aesm-client.key}, C{curve.key}.

    @param directory: an empty one.
    """
    for side in ("tls", "tls-client"):
        _writeCertificate(directory, side)
    PrivateKey.generate().save(directory / "aesm.key")
    PrivateKey.generate().save(directory / "aesm-client.key")
    public, secret = zmq.curve_keypair()
    (directory / "curve.key").write_bytes(public + b"\n" + secret)


def _writeCertificate(directory: Path, side: str) -> None:
    """Write a key (ECDSA P-256, the fastest that every TLS takes) and a certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, SHA256())
    )
    (directory / f"{side}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / f"{side}.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
