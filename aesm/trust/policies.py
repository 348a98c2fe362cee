"""
From the option C{trust} or C{authorizedKeys} that users give to a decision about
one peer, in two steps that are the same for all clients and servers::

    policy = trustPolicy(trust)                       # once, when it is given
    checkServer(policy, location, publicKey)          # at each handshake

    policy = clientPolicy(authorizedKeys)
    checkClient(policy, publicKey, address)

Policies are written by users, and this is about security.  So a wrong option is an
error when it is given, not at the first handshake, and an answer counts only if it is
exactly one that the interface names: 1, a list or whatever else is true in C{if}
lets nobody in.
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

__all__ = ["checkClient", "checkServer", "clientPolicy", "isOperator", "trustPolicy"]


# What users give


def trustPolicy(trust: object) -> ITrustPolicy:
    """
    Resolve a client's C{trust} option.

    @param trust: an L{ITrustPolicy}, or None for L{KnownServers} in the state
        directory.
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
    @return: the policy, or None to let all in.
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


def isOperator(policy: IClientPolicy | None, publicKey: PublicKey) -> bool:
    """
    Tell whether a server's policy marks a key as an operator's.

    @param policy: only a file of authorized keys can.
    """
    return isinstance(policy, AuthorizedKeys) and policy.isOperator(publicKey)


@implementer(IClientPolicy)
class _CallablePolicy:
    """A user's function in place of a policy."""

    def __init__(self, check: Callable[[PublicKey, IAddress], Any]) -> None:
        """@param check: as L{IClientPolicy.checkClient}."""
        self._check = check

    def checkClient(self, publicKey: PublicKey, address: IAddress) -> Any:
        """
        Ask the function.

        @see: L{IClientPolicy.checkClient}
        """
        return self._check(publicKey, address)


# What policies answer


def checkServer(
    policy: ITrustPolicy, location: str, publicKey: PublicKey
) -> Deferred[None]:
    """
    Ask a client's policy about a server.

    @param location: what was dialled.
    @param publicKey: the key that the server has proved.
    @return: fires if it is trusted; fails with L{UntrustedServer} if not, or as the
        policy does.
    """
    answer = maybeDeferred(policy.checkServer, location, publicKey)
    return answer.addCallback(_cbServer, location, publicKey)


def _cbServer(answer: object, location: str, publicKey: PublicKey) -> None:
    """
    Read a policy's answer about a server: only True trusts it.

    @raise UntrustedServer: it is anything else.
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

    @param policy: None lets all in.
    @param publicKey: the key that the client has proved.
    @param address: where it comes from.
    @return: fires with the client's name, None if it has none, if it is let in;
        fails with L{NotAuthorized} if not, or as the policy does.
    """
    answer: Deferred[object]
    if policy is None:
        answer = succeed(True)
    else:
        answer = maybeDeferred(policy.checkClient, publicKey, address)
    return answer.addCallback(_cbClient, publicKey)


def _cbClient(answer: object, publicKey: PublicKey) -> str | None:
    """
    Read a policy's answer about a client: only a name that is not empty, or True,
    lets it in.

    @return: the name, or None.
    @raise NotAuthorized: the answer is anything else.
    """
    if isinstance(answer, str) and answer:
        return answer
    if answer is True:
        return None
    raise NotAuthorized(
        f"the key {publicKey} is not authorized; to let it in, add the line "
        f"'{publicKey} NAME' to the authorized keys"
    )
