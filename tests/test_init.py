"""
Tests for L{aesm} itself: its public names.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import aesm

NAMES = {
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
}


class NamesTests(SynchronousTestCase):
    """What users import keeps its name."""

    def test_all(self) -> None:
        """These are the public names; to change this list is to break programs."""
        self.assertEqual(set(aesm.__all__), NAMES)

    def test_loaded(self) -> None:
        """Each can be imported, and says in which module it lives."""
        for name in NAMES - {"__version__"}:
            value: Any = getattr(aesm, name)
            self.assertEqual(value.__name__, name)
            self.assertTrue(value.__module__.startswith("aesm."))

    def test_loadedOnce(self) -> None:
        """A name that was loaded is an attribute from then on."""
        self.assertIs(aesm.__getattr__("Packet"), aesm.Packet)
        self.assertIn("Packet", vars(aesm))

    def test_dir(self) -> None:
        """C{dir} lists them all, loaded or not."""
        self.assertEqual(set(dir(aesm)), NAMES)

    def test_unknown(self) -> None:
        """There is nothing else."""
        with self.assertRaisesRegex(
            AttributeError, "'aesm' has no attribute 'nothing'"
        ):
            aesm.nothing  # noqa: B018

    def test_version(self) -> None:
        """The version is text."""
        self.assertRegex(aesm.__version__, r"^\d+\.\d+")
