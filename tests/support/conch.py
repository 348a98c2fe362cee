"""
SSH in memory for L{tests.system.test_ecosystem}: a server with one user and a client
that runs one command.  No file of anybody's is read, and no key is ever written.

Twisted's Conch, on which this is built, needs C{bcrypt}.
"""

from __future__ import annotations

from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessTerminated
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["STATUS", "USER_KEY", "Client", "Refused", "SSHServer"]

HOST_KEY = Key(Ed25519PrivateKey.generate())
USER_KEY = Key(Ed25519PrivateKey.generate())
STATUS = 7  # what the command exits with


class Refused(Exception):
    """The server let nobody in."""


@implementer(ISession)
class User(ConchUser):  # type: ignore[misc]  # commands only, no terminals
    """
    A user, and her session: a command says what it is called and, once its input
    ends, that in capitals.
    """

    def __init__(self) -> None:
        """Allow sessions."""
        super().__init__()
        self.channelLookup[b"session"] = SSHSession
        self._input = bytearray()

    def execCommand(self, protocol: Any, command: bytes) -> None:
        """
        Start.

        @param protocol: takes the output.
        @param command: what is to run.
        """
        self._protocol = protocol
        protocol.makeConnection(self)
        protocol.outReceived(command + b": ")

    def write(self, data: bytes) -> None:
        """
        Take input.

        @param data: some of it.
        """
        self._input += data

    def eofReceived(self) -> None:
        """Answer, and exit."""
        self._protocol.outReceived(self._input.upper())
        self._protocol.processEnded(Failure(ProcessTerminated(STATUS)))

    def loseConnection(self) -> None:
        """Be done."""

    def closed(self) -> None:
        """The channel is closed."""


@implementer(IRealm)
class Realm:
    """Has the same room for everybody."""

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: object) -> Any:
        """
        Make a user.

        @param avatarId: whom.
        @param mind: does not matter.
        @param interfaces: how to see her.
        """
        return IConchUser, User(), lambda: None


class SSHServer(SSHFactory):
    """
    A server with the user C{ada}, whose password is C{secret}, and whose key is
    L{USER_KEY}.
    """

    noisy = False
    publicKeys = {b"ssh-ed25519": HOST_KEY.public()}
    privateKeys = {b"ssh-ed25519": HOST_KEY}
    primes = None

    def __init__(self) -> None:
        """Know the user."""
        passwords = InMemoryUsernamePasswordDatabaseDontUse(ada=b"secret")
        keys = SSHPublicKeyChecker(InMemorySSHKeyDB({b"ada": [USER_KEY.public()]}))
        self.portal = Portal(Realm(), [passwords, keys])


class Authentication(SSHUserAuthClient):
    """Logs in with what it has, once."""

    def __init__(
        self, connection: SSHConnection, password: bytes | None, key: Key | None
    ) -> None:
        """
        @param connection: to run then.
        @param password: the password, if any.
        @param key: the key, if any.
        """
        super().__init__(b"ada", connection)
        self._password, self._key = password, key

    def getPassword(self, prompt: object = None) -> Deferred[bytes] | None:
        """
        Say the password.

        @param prompt: does not matter.
        """
        password, self._password = self._password, None
        return None if password is None else succeed(password)

    def getPublicKey(self) -> Key | None:
        """Say the key."""
        return None if self._key is None else self._key.public()

    def getPrivateKey(self) -> Deferred[Key]:
        """Say its private part."""
        return succeed(cast(Key, self._key))


class Command(SSHChannel):
    """Runs a command."""

    name = b"session"
    conn: Any

    def __init__(self, client: Client) -> None:
        """@param client: says which, and wants the result."""
        super().__init__()
        self._client = client
        self._output = bytearray()
        self._status = -1

    def channelOpen(self, data: bytes) -> None:
        """
        Send command and input.

        @param data: does not matter.
        """
        self.conn.sendRequest(self, b"exec", NS(self._client.command))
        self.write(self._client.input)
        self.conn.sendEOF(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Keep output.

        @param data: some of it.
        """
        self._output += data

    def request_exit_status(self, data: bytes) -> None:
        """
        Keep the exit status.

        @param data: the status, 4 bytes.
        """
        self._status = int.from_bytes(data, "big")

    def closed(self) -> None:
        """Hang up."""
        self._client.settle((bytes(self._output), self._status))
        self.conn.transport.loseConnection()


class Commands(SSHConnection):
    """Runs one command when it starts."""

    def __init__(self, client: Client) -> None:
        """@param client: whose command."""
        super().__init__()
        self._client = client

    def serviceStarted(self) -> None:
        """Run it."""
        super().serviceStarted()
        self.openChannel(Command(self._client))


class Client(SSHClientTransport):
    """
    Logs in, runs a command, and hangs up.

    @ivar command: the command.
    @ivar input: its input.
    @ivar result: fires with its output and exit status, or fails with
        L{Refused}.
    @ivar lost: fires when the connection is gone.
    """

    def __init__(
        self,
        command: bytes,
        input: bytes,
        password: bytes | None = None,
        key: Key | None = None,
    ) -> None:
        """
        @param command: the command.
        @param input: its input.
        @param password: to log in with.
        @param key: the same.
        """
        self.command, self.input = command, input
        self.result: Deferred[tuple[bytes, int]] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self._credentials = password, key
        self._settled = False

    def verifyHostKey(self, hostKey: bytes, fingerprint: object) -> Deferred[bool]:
        """
        Compare the server's key.

        @param hostKey: the key.
        @param fingerprint: of the same.
        """
        return succeed(hostKey == HOST_KEY.public().blob())

    def connectionSecure(self) -> None:
        """Log in."""
        connection = Commands(self)
        self.requestService(Authentication(connection, *self._credentials))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        All is over, as it should be after the result.

        @param reason: why.
        """
        super().connectionLost(reason)
        self.settle(Failure(Refused()))
        self.lost.callback(None)

    def settle(self, result: tuple[bytes, int] | Failure) -> None:
        """
        Tell the result, unless it is told.

        @param result: the result.
        """
        if not self._settled:
            self._settled = True
            self.result.callback(result)
