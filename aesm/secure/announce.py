"""
What a server says of itself when it begins to listen.
"""

from __future__ import annotations

from ipaddress import ip_address

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from aesm.trust.keys import PublicKey
from aesm.trust.locations import locationOfAddress

_log = Logger(namespace="aesm.server")


def announce(address: IAddress, publicKey: PublicKey, isOpen: bool) -> None:
    """Say what the operator should know; C{isOpen} if any client is let in."""
    where = locationOfAddress(address)
    _log.info(
        "listening on {address} with the public key {publicKey}",
        address=where,
        publicKey=str(publicKey),
    )
    if isOpen and not _isLocal(address):
        _log.warn(
            "ANYONE who reaches {address} is let in: name the clients' keys with "
            "authorizedKeys (--authorized-keys), or share a psk (--psk)",
            address=where,
        )


def _isLocal(address: IAddress) -> bool:
    """Tell whether only this machine can reach an address."""
    host = getattr(address, "host", None)
    return host is None or ip_address(host.partition("%")[0]).is_loopback
