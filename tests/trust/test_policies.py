"""
Tests for L{aesm.trust.policies}.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    fail,
    maybeDeferred,
    succeed,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from aesm.errors import NotAuthorized, UntrustedServer
from aesm.interfaces import IClientPolicy
from aesm.trust.clients import AuthorizedKeys
from aesm.trust.keys import PublicKey
from aesm.trust.policies import (
    checkClient,
    checkServer,
    clientPolicy,
    isOperator,
    trustPolicy,
)
from aesm.trust.servers import AnyServer, KnownServers
from tests.support.pairs import CLIENT_KEY

ADDRESS = IPv4Address("TCP", "127.0.0.1", 5)


class TrustPolicyTests(SynchronousTestCase):
    """L{trustPolicy} resolves C{trust}."""

    def test_given(self) -> None:
        """A policy is taken as it is."""
        policy = AnyServer()
        self.assertIs(trustPolicy(policy), policy)

    def test_default(self) -> None:
        """None is L{KnownServers} in the state directory."""
        home = Path(self.mktemp())
        self.patch(os, "environ", os.environ | {"AESM_HOME": str(home)})
        policy: Any = trustPolicy(None)
        self.assertIsInstance(policy, KnownServers)
        self.assertEqual(policy.path, home / "known_servers")

    def test_wrong(self) -> None:
        """Anything else is refused."""
        for trust in ("key", True, AnyServer):
            with self.assertRaisesRegex(TypeError, "trust must provide ITrustPolicy"):
                trustPolicy(trust)


class ClientPolicyTests(SynchronousTestCase):
    """L{clientPolicy} resolves C{authorizedKeys}."""

    def test_none(self) -> None:
        """None is no policy."""
        self.assertIsNone(clientPolicy(None))

    def test_file(self) -> None:
        """A path is a file of keys."""
        path = Path(self.mktemp())
        path.write_text(f"{CLIENT_KEY.publicKey} ada\n")
        path.chmod(0o600)
        for given in (path, str(path)):
            policy = clientPolicy(given)
            self.assertIsInstance(policy, AuthorizedKeys)

    def test_policy(self) -> None:
        """A policy is taken as it is; a function becomes one."""

        def check(publicKey: PublicKey, address: object) -> str:
            """Let everybody in."""
            return f"{publicKey} {address}"

        policy: Any = clientPolicy(check)
        verifyObject(IClientPolicy, policy)
        said = policy.checkClient(CLIENT_KEY.publicKey, ADDRESS)
        self.assertEqual(said, f"{CLIENT_KEY.publicKey} {ADDRESS}")
        self.assertIs(clientPolicy(policy), policy)

    def test_operators(self) -> None:
        """Only a file of keys says who is an operator."""
        path = Path(self.mktemp())
        path.write_text(f"operator {CLIENT_KEY.publicKey} ada\n")
        path.chmod(0o600)
        for given, marked in (
            (path, True),
            (lambda *client: "ada", False),
            (None, False),
        ):
            policy = clientPolicy(given)
            self.assertIs(isOperator(policy, CLIENT_KEY.publicKey), marked)

    def test_wrong(self) -> None:
        """Anything else is refused."""
        with self.assertRaisesRegex(TypeError, "authorizedKeys must be a path"):
            clientPolicy([CLIENT_KEY.publicKey])


class AnswerTests(SynchronousTestCase):
    """L{checkClient} and L{checkServer}."""

    key = PublicKey(b"\x01" * 32)

    def ask(self, answer: object) -> Any:
        """
        Make a policy of both kinds.

        @param answer: what it says.
        """

        class Policy:
            """Says it."""

            def checkClient(self, *args: object) -> object:
                """Say it."""
                return answer

            checkServer = checkClient

        return Policy()

    def test_client(self) -> None:
        """A name or True lets a client in, and nothing like them."""

        def ask(answer: object) -> Deferred[Any]:
            """Ask."""
            check: Callable[..., Any] = checkClient
            return maybeDeferred(check, self.ask(answer), self.key, ADDRESS)

        self.assertEqual(self.successResultOf(ask("ann")), "ann")
        self.assertEqual(self.successResultOf(ask(succeed("ann"))), "ann")
        self.assertIsNone(self.successResultOf(ask(True)))
        self.assertIsNone(checkClient(None, self.key, ADDRESS))
        for answer in ("", False, None, 1, b"ann", [True], succeed(None)):
            self.failureResultOf(ask(answer), NotAuthorized)
        self.failureResultOf(ask(fail(ZeroDivisionError())), ZeroDivisionError)

    def test_server(self) -> None:
        """True trusts a server, and nothing like it."""

        def ask(answer: object) -> Deferred[Any]:
            """Ask."""
            check: Callable[..., Any] = checkServer
            return maybeDeferred(check, self.ask(answer), "example.org:1", self.key)

        self.assertIsNone(self.successResultOf(ask(True)))
        self.assertIsNone(self.successResultOf(ask(succeed(True))))
        for answer in (False, None, 1, "yes", [True]):
            failure = self.failureResultOf(ask(answer), UntrustedServer)
            self.assertEqual(failure.value.publicKey, str(self.key))

    def test_shared(self) -> None:
        """
        A policy may give one Deferred for several peers, which each get its answer,
        also those who ask later: none of them takes it away, or cancels it for others.
        """
        checks: list[tuple[Any, Any, type[Exception]]] = [
            (checkClient, ADDRESS, NotAuthorized),
            (checkServer, "example.org:1", UntrustedServer),
        ]
        for check, where, refusal in checks:
            for answer in (True, None, ZeroDivisionError()):
                shared: Deferred[Any] = Deferred()
                policy = self.ask(shared)
                arguments = (self.key, where)
                if check is checkServer:
                    arguments = (where, self.key)
                asked = [check(policy, *arguments) for _ in range(4)]
                for leaving in (asked.pop(), asked.pop(0)):
                    leaving.cancel()
                    self.failureResultOf(leaving, CancelledError)
                for each in asked:
                    self.assertNoResult(each)
                isError = isinstance(answer, Exception)
                shared.callback(Failure(answer) if isError else answer)
                for each in (*asked, check(policy, *arguments)):
                    if answer is True:
                        self.assertIsNone(self.successResultOf(each))
                    else:
                        kinds = (refusal, ZeroDivisionError)
                        failure = self.failureResultOf(each, *kinds)
                        self.assertIs(failure.check(*kinds), kinds[isError])

    def test_cancelled(self) -> None:
        """It is cancelled once nobody waits for it any more."""
        shared: Deferred[Any] = Deferred()
        asked: list[Any] = [
            checkClient(self.ask(shared), self.key, ADDRESS) for _ in range(2)
        ]
        for each in asked:
            self.assertFalse(shared.called)
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.assertTrue(shared.called)
