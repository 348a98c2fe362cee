"""
Whom to trust, and whom to let in: how the options of users and the answers of
policies are read, once for every face.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from aesm.errors import NotAuthorized, UntrustedServer
from aesm.interfaces import IClientPolicy, ITrustPolicy
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PublicKey
from aesm.trust.servers import KnownServers

__all__ = ["ClientCheck", "checkClient", "checkServer", "clientPolicy", "trustPolicy"]

ClientCheck = Callable[[PublicKey, "IAddress"], Any]


def trustPolicy(trust: object) -> ITrustPolicy:
    """
    Resolve a client's C{trust} option.

    @param trust: an L{ITrustPolicy}, or None for L{KnownServers} in the state
        directory.
    @return: the policy.
    @raise TypeError: it is something else.
    """
    if trust is None:
        trust = KnownServers()
    if not ITrustPolicy.providedBy(trust):
        raise TypeError(
            f"trust must provide ITrustPolicy, not {type(trust).__name__}: "
            "use Pinned(key), KnownServers() or AnyServer()"
        )
    return ITrustPolicy(trust)


def clientPolicy(authorizedKeys: object) -> IClientPolicy | None:
    """
    Resolve a server's C{authorizedKeys} option.

    @param authorizedKeys: the path of a file, an L{IClientPolicy}, a callable
        with the signature of its C{checkClient}, or None to let all in.
    @return: the policy, or None.
    @raise KeyFileError: the file cannot be used; says which line is bad.
    @raise TypeError: it is something else.
    """
    if authorizedKeys is None:
        return None
    if isinstance(authorizedKeys, str | os.PathLike):
        return AuthorizedKeys(authorizedKeys)
    if IClientPolicy.providedBy(authorizedKeys):
        return IClientPolicy(authorizedKeys)
    if callable(authorizedKeys):
        return _CallablePolicy(authorizedKeys)
    raise TypeError(
        "authorizedKeys must be a path, an IClientPolicy or a callable, not "
        f"{type(authorizedKeys).__name__}"
    )


@implementer(IClientPolicy)
class _CallablePolicy:
    """
    A function that decides on clients.
    """

    def __init__(self, check: ClientCheck) -> None:
        """
        @param check: as L{IClientPolicy.checkClient}.
        """
        self._check = check

    def checkClient(self, publicKey: PublicKey, address: IAddress) -> Any:
        """
        Ask the function.

        @param publicKey: the client's key.
        @param address: where it comes from.
        @return: what the function says.
        @see: L{IClientPolicy}
        """
        return self._check(publicKey, address)


def checkServer(
    policy: ITrustPolicy, location: str, publicKey: PublicKey
) -> Deferred[None]:
    """
    Ask a client's policy about a server.

    @param policy: decides.
    @param location: what was dialled.
    @param publicKey: the key that the server has proved.
    @return: fires to go on; fails with L{UntrustedServer}, or as the policy does.
    """
    answer = maybeDeferred(policy.checkServer, location, publicKey)
    return answer.addCallback(_cbServer, location, publicKey)


def _cbServer(answer: object, location: str, publicKey: PublicKey) -> None:
    """
    Read the answer about a server: True, and nothing like it, trusts.

    @param answer: what the policy says.
    @param location: what was dialled.
    @param publicKey: the key that the server has proved.
    @raise UntrustedServer: it does not trust the key.
    """
    if answer is not True:
        raise UntrustedServer(
            f"the trust policy does not accept the key {publicKey} of {location}",
            str(publicKey),
        )


def checkClient(
    policy: IClientPolicy | None, publicKey: PublicKey, address: IAddress
) -> Deferred[str | None]:
    """
    Ask a server's policy about a client.

    @param policy: decides; None lets any in.
    @param publicKey: the key that the client has proved.
    @param address: where it comes from.
    @return: fires with what the key is called, or None, to let it in; fails with
        L{NotAuthorized}, or as the policy does.
    """
    answer: Deferred[object]
    if policy is None:
        answer = succeed(True)
    else:
        answer = maybeDeferred(policy.checkClient, publicKey, address)
    return answer.addCallback(_cbClient, publicKey)


def _cbClient(answer: object, publicKey: PublicKey) -> str | None:
    """
    Read the answer about a client: a name that is not empty, or True, and
    nothing like them, lets it in.

    @param answer: what the policy says.
    @param publicKey: the key that the client has proved.
    @return: what the key is called, or None.
    @raise NotAuthorized: it is not let in.
    """
    if isinstance(answer, str) and answer:
        return answer
    if answer is True:
        return None
    raise NotAuthorized(
        f"the key {publicKey} is not authorized; to let it in, add the line "
        f"'{publicKey} NAME' to the authorized keys"
    )
