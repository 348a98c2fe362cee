"""
Encrypted, authenticated, acknowledged messages between two programs.

Everything that users need is here by name; each name is loaded when it is
first asked for, so that importing C{aesm} runs nothing and loads no reactor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from aesm._version import __version__

if TYPE_CHECKING:
    from aesm.blocking.network import ClientNetwork, ServerNetwork
    from aesm.cipher import Cipher
    from aesm.client.connect import connect
    from aesm.client.service import ClientService
    from aesm.errors import (
        AESMError,
        ConnectionClosed,
        DecryptionError,
        FileChanged,
        HandshakeError,
        HandshakeTimeout,
        HeartbeatLost,
        InvalidText,
        KeyFileError,
        MessageTooBig,
        NameOrKeyMismatch,
        NoAnswer,
        NonceExhausted,
        NotAnAESMPeer,
        NotAuthorized,
        OfferRefused,
        PeerAway,
        ProtocolError,
        RequestFailed,
        SendBufferFull,
        ServerKeyChanged,
        SessionLost,
        SessionMoved,
        SpoolError,
        TamperedRecord,
        Truncated,
        UntrustedServer,
    )
    from aesm.files.receiver import FileReceiver
    from aesm.files.sender import sendFile
    from aesm.interfaces import (
        IClientObserver,
        IClientPolicy,
        IMessageHandler,
        IMessageHandlerMaker,
        IRequestHandler,
        ISessionHandler,
        ITrustPolicy,
        MessageHandler,
    )
    from aesm.messages.connection import Connection
    from aesm.messages.protocol import AESMProtocol
    from aesm.messages.requests import Answer, Request, RequestTimeout
    from aesm.messages.stream import DataStream, Packet
    from aesm.server.cluster import Cluster, ClusterConnection
    from aesm.server.factory import AESMServerFactory
    from aesm.server.registry import Activity, Connections
    from aesm.server.service import Server, listen
    from aesm.trust.clients import AuthorizedKeys
    from aesm.trust.files import stateDirectory
    from aesm.trust.keys import PSK, PrivateKey, PublicKey
    from aesm.trust.servers import AnyServer, KnownServers, Pinned

_HOMES = {  # module: the public names that it has; all others are errors
    "trust.clients": ["AuthorizedKeys"],
    "cipher": ["Cipher"],
    "client.connect": ["connect"],
    "messages.connection": ["Connection"],
    "server.cluster": ["Cluster", "ClusterConnection"],
    "server.factory": ["AESMServerFactory"],
    "files.receiver": ["FileReceiver"],
    "files.sender": ["sendFile"],
    "interfaces": [
        "IClientObserver",
        "IClientPolicy",
        "IMessageHandler",
        "IMessageHandlerMaker",
        "IRequestHandler",
        "ISessionHandler",
        "ITrustPolicy",
        "MessageHandler",
    ],
    "trust.files": ["stateDirectory"],
    "trust.keys": ["PSK", "PrivateKey", "PublicKey"],
    "blocking.network": ["ClientNetwork", "ServerNetwork"],
    "messages.protocol": ["AESMProtocol"],
    "messages.requests": ["Answer", "Request", "RequestTimeout"],
    "server.registry": ["Activity", "Connections"],
    "server.service": ["Server", "listen"],
    "client.service": ["ClientService"],
    "messages.stream": ["DataStream", "Packet"],
    "trust.servers": ["AnyServer", "KnownServers", "Pinned"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "PSK",
    "AESMError",
    "AESMProtocol",
    "AESMServerFactory",
    "Activity",
    "Answer",
    "AnyServer",
    "AuthorizedKeys",
    "Cipher",
    "ClientNetwork",
    "ClientService",
    "Cluster",
    "ClusterConnection",
    "Connection",
    "ConnectionClosed",
    "Connections",
    "DataStream",
    "DecryptionError",
    "FileChanged",
    "FileReceiver",
    "HandshakeError",
    "HandshakeTimeout",
    "HeartbeatLost",
    "IClientObserver",
    "IClientPolicy",
    "IMessageHandler",
    "IMessageHandlerMaker",
    "IRequestHandler",
    "ISessionHandler",
    "ITrustPolicy",
    "InvalidText",
    "KeyFileError",
    "KnownServers",
    "MessageHandler",
    "MessageTooBig",
    "NameOrKeyMismatch",
    "NoAnswer",
    "NonceExhausted",
    "NotAnAESMPeer",
    "NotAuthorized",
    "OfferRefused",
    "Packet",
    "PeerAway",
    "Pinned",
    "PrivateKey",
    "ProtocolError",
    "PublicKey",
    "Request",
    "RequestFailed",
    "RequestTimeout",
    "SendBufferFull",
    "Server",
    "ServerKeyChanged",
    "ServerNetwork",
    "SessionLost",
    "SessionMoved",
    "SpoolError",
    "TamperedRecord",
    "Truncated",
    "UntrustedServer",
    "__version__",
    "connect",
    "listen",
    "sendFile",
    "stateDirectory",
]


def __getattr__(name: str) -> object:
    """
    Load a public name when it is first asked for.

    @param name: the name.
    @return: what it names.
    @raise AttributeError: there is no such name.
    @see: PEP 562
    """
    if name not in __all__:
        raise AttributeError(f"module 'aesm' has no attribute {name!r}")
    home = import_module(f"aesm.{_HOME.get(name, 'errors')}")
    value = globals()[name] = getattr(home, name)
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
