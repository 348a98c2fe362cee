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
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from aesm.errors import NotAuthorized, UntrustedServer
from aesm.interfaces import IClientPolicy, ITrustPolicy
from aesm.shared import follow
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PublicKey
from aesm.trust.servers import KnownServers

_A = TypeVar("_A")
_B = TypeVar("_B")
_More = ParamSpec("_More")

# What is most often known at once: a Deferred only where somebody has to wait.
Answer: TypeAlias = _A | Deferred[_A]


def whenKnown(
    answer: Answer[_A],
    callback: Callable[Concatenate[_A, _More], Answer[_B]],
    *more: _More.args,
    **named: _More.kwargs,
) -> Answer[_B]:
    """
    Go on with an answer: now, if it is there.

    @return: what C{callback} makes of it; a failure if that is a Deferred.
    """
    if isinstance(answer, Deferred):
        return answer.addCallback(callback, *more, **named)
    return callback(answer, *more, **named)


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
        """Ask the function."""
        return self._check(publicKey, address)


# What policies answer


def _known(answer: object) -> Answer[object]:
    """Wait for what a policy has returned, if that is no answer: a coroutine, say."""
    if isinstance(answer, bool | str):
        return answer
    if isinstance(answer, Deferred):
        return follow(answer)
    return maybeDeferred(lambda: answer)


def checkServer(
    policy: ITrustPolicy, location: str, publicKey: PublicKey
) -> Answer[None]:
    """
    Ask a client's policy about a server.

    @param location: what was dialled.
    @param publicKey: the key that the server has proved.
    @return: None once it is trusted.
    @raise UntrustedServer: it is not; also as the answer's failure.  What the policy
        raises goes on.
    """
    answer = policy.checkServer(location, publicKey)
    if answer is True:
        return None
    return whenKnown(_known(answer), _cbServer, location, publicKey)


def _cbServer(answer: object, location: str, publicKey: PublicKey) -> None:
    """Read a policy's answer about a server: only True trusts it."""
    if answer is not True:
        raise UntrustedServer(
            f"the trust policy does not accept the key {publicKey} of {location}",
            str(publicKey),
        )


def checkClient(
    policy: IClientPolicy | None, publicKey: PublicKey, address: IAddress
) -> Answer[str | None]:
    """
    Ask a server's policy about a client.

    @param policy: None lets all in.
    @param publicKey: the key that the client has proved.
    @param address: where it comes from.
    @return: the client's name, None if it has none, if it is let in.
    @raise NotAuthorized: it is not; also as the answer's failure.  What the policy
        raises goes on.
    """
    if policy is None:
        return None
    answer = _known(policy.checkClient(publicKey, address))
    return whenKnown(answer, _cbClient, publicKey)


def _cbClient(answer: object, publicKey: PublicKey) -> str | None:
    """Read a policy's answer about a client: only a name, or True, lets it in."""
    if isinstance(answer, str) and answer:
        return answer
    if answer is True:
        return None
    raise NotAuthorized(
        f"the key {publicKey} is not authorized; to let it in, add the line "
        f"'{publicKey} NAME' to the authorized keys"
    )
